from typing import Any, Optional, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cankd_mm.models.layers.affinity import HALF

# What shares a mean and a variance, as the dimensions of (N, C, H, W) that they are taken over.
NORMS = {'instance': (-2, -1), 'layer': (-3, -2, -1)}


class _NormalizedMSE(torch.autograd.Function):
    """The weighted mean squared error of two normalized maps, by torch's kernels of layer norm, no such map kept.

    A mean is taken off before: where it is large, the kernels lose the digits. What its rounding leaves, they take off.
    Backward, the kernel takes from ``r_t t - r_z z`` its mean and its part along z.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, t: Tensor, dims: Tuple[int, ...], eps: float, weight: float) -> Tensor:
        z_hat, *of_z = _normalize(z, dims, eps)
        t_hat, mean_t, _, r_t = _normalize(t, dims, eps)
        ctx.save_for_backward(z, t, *of_z, mean_t, r_t)
        ctx.shape, ctx.weight = z.shape[dims[0] :], weight
        return F.mse_loss(z_hat, t_hat) * weight

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        z, t, mean_z, rest, r_z, mean_t, r_t = ctx.saved_tensors
        z_0, scale = z - mean_z, grad * (-2 * ctx.weight / z.numel())
        difference = (t - mean_t).mul_(r_t * scale).addcmul_(z_0, r_z * scale, value=-1)
        grad_z, _, _ = torch.ops.aten.native_layer_norm_backward(
            difference, z_0, ctx.shape, rest, r_z, None, None, [True, False, False]
        )
        return grad_z.to(z.dtype), None, None, None, None


def _normalize(feature: Tensor, dims: Tuple[int, ...], eps: float) -> Tuple[Tensor, ...]:
    """Return the normalized map, the mean that was taken off, the mean that was left, and the scale."""
    mean = feature.mean(dims, keepdim=True, dtype=torch.float32 if feature.dtype in HALF else None)
    normalized, rest, r = torch.native_layer_norm(feature - mean, feature.shape[dims[0] :], None, None, eps)
    return normalized, mean, rest, r


def normalized_mse(z: Tensor, t: Tensor, norm: str = 'instance', eps: float = 1e-5, weight: float = 1.0) -> Tensor:
    """Mean squared error of two normalized maps, without keeping one.

    Equal to ``F.mse_loss(F.instance_norm(z, eps=eps), F.instance_norm(t, eps=eps))`` or its like with layer norm, and
    defined for maps of a single pixel as well.

    Args:
        z (Tensor): Student map, ``(N, C, H, W)``. Half precision is computed in float32.
        t (Tensor): Target map, ``(N, C, H, W)``; it gets no gradient.
        norm (str): ``'instance'`` normalizes each channel of an image over its pixels, ``'layer'`` each image over
            channels and pixels. Defaults to 'instance'.
        eps (float): Added to the variances. Defaults to 1e-5.
        weight (float): What the error is multiplied by. Defaults to 1.0.

    Returns:
        Tensor: The loss, a scalar, float32 for half inputs.
    """
    with torch.autocast(z.device.type, enabled=False):
        return _NormalizedMSE.apply(z, t.detach(), NORMS[norm], eps, weight)
