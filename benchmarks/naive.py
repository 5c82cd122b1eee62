"""CanKD as it is usually written: every pixel of the student against every pixel of the teacher, every map formed."""

import torch
from mmrazor.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F


@MODELS.register_module()
class NaiveCanKDLoss(nn.Module):
    """``mu * MSE(IN(z), IN(t))`` with the dot product as affinity, through the P x M matrix.

    Args:
        in_channels (int): Channels of both features.
        loss_weight (float): The paper's mu. Defaults to 5.0.
    """

    def __init__(self, in_channels: int, loss_weight: float = 5.0) -> None:
        super().__init__()
        inner = in_channels // 2
        self.theta = nn.Conv2d(in_channels, inner, 1)
        self.phi = nn.Sequential(nn.Conv2d(in_channels, inner, 1), nn.MaxPool2d(2))
        self.g = nn.Sequential(nn.Conv2d(in_channels, inner, 1), nn.MaxPool2d(2))
        self.conv_out = nn.Sequential(nn.Conv2d(inner, in_channels, 1), nn.BatchNorm2d(in_channels))
        self.loss_weight = loss_weight

    def forward(self, s_feature: Tensor, t_feature: Tensor) -> Tensor:
        """Compute the loss of features ``(N, C, H, W)``."""
        theta, phi, g = self.theta(s_feature), self.phi(t_feature).flatten(2), self.g(t_feature).flatten(2)
        affinity = torch.matmul(theta.flatten(2).transpose(1, 2), phi) / phi.shape[2]
        y = torch.matmul(affinity, g.transpose(1, 2)).transpose(1, 2).contiguous().view_as(theta)
        z = self.conv_out(y) + s_feature
        return self.loss_weight * F.mse_loss(F.instance_norm(z), F.instance_norm(t_feature))

    def matrix_bytes(self, shape: tuple) -> int:
        """Bytes of the affinities of one feature ``(N, C, H, W)``, of which a training step holds three."""
        n, _, h, w = shape
        return 4 * n * h * w * (h // 2) * (w // 2)
