from torch import Tensor, nn
from torch.nn import functional as F

from cankd_mm.models.layers.affinity import dot_product_attention


class CanBlock(nn.Module):
    """The cross-attention non-local block of CanKD (Sec. 3 of the paper).

    Every student pixel looks at all teacher pixels: ``z = BN(W y) + x`` with
    ``y_i = 1/M * sum_j (theta(x_i) . phi(t_j)) g(t_j)``. The weight and the bias of the batch
    norm start at zero, so that the block starts as the identity. The names are those of
    ``mmcv.cnn.NonLocal2d``.

    Args:
        in_channels (int): Channels C of both features.
        reduction (int): The inner channels are ``max(C // reduction, 1)``. Defaults to 2.
        sub_sample (bool): Whether keys and values go through 2x2 max pooling. A teacher map with a side
            of one pixel is left as it is. Defaults to True.
    """

    def __init__(self, in_channels: int, reduction: int = 2, sub_sample: bool = True) -> None:
        super().__init__()
        self.sub_sample = sub_sample
        inner_channels = max(in_channels // reduction, 1)
        self.theta = nn.Conv2d(in_channels, inner_channels, 1)
        self.phi = nn.Conv2d(in_channels, inner_channels, 1)
        self.g = nn.Conv2d(in_channels, inner_channels, 1)
        self.conv_out = nn.Conv2d(inner_channels, in_channels, 1)
        self.bn = nn.BatchNorm2d(in_channels)
        nn.init.zeros_(self.bn.weight)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Let the student's pixels attend to the teacher's.

        Args:
            x (Tensor): Student feature, ``(N, C, H, W)``.
            t (Tensor): Teacher feature, ``(N, C, H', W')``.

        Returns:
            Tensor: ``z``, ``(N, C, H, W)``.
        """
        theta, phi, g = self.theta(x), self.phi(t), self.g(t)
        if self.sub_sample and min(t.shape[2:]) > 1:
            phi, g = F.max_pool2d(phi, 2), F.max_pool2d(g, 2)
        y = dot_product_attention(theta.flatten(2), phi.flatten(2), g.flatten(2))
        return self._normalize(self.conv_out(y.unflatten(2, x.shape[2:]))) + x

    def _normalize(self, y: Tensor) -> Tensor:
        if self.training and y.numel() == y.shape[1]:
            # One pixel of one image has no variance to normalize by: take the running statistics.
            bn = self.bn
            return F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, False, 0.0, bn.eps)
        return self.bn(y)
