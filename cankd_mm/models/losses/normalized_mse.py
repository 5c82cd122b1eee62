from typing import Any, Optional, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cankd_mm.models.layers.affinity import HALF

# What shares a mean and a variance, as the dimensions of (N, C, H, W) that they are taken over.
NORMS = {'instance': (-2, -1), 'layer': (-3, -2, -1)}


class _NormalizedMSE(torch.autograd.Function):
    """The weighted mean squared error of two normalized maps, by torch's kernels of layer norm.

    A mean is taken off before: where it is large, the kernels lose the digits. What its rounding leaves, they take off.
    Backward, the kernel takes from the difference of the normalized maps its mean and its part along z.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, t: Tensor, dims: Tuple[int, ...], eps: float, weight: float) -> Tensor:
        t_hat = _normalize(t, dims, eps)[0]
        z_hat, *of_z = _normalize(z, dims, eps)
        difference = z_hat.sub_(t_hat)
        ctx.save_for_backward(difference, *of_z)
        ctx.shape, ctx.scale, ctx.dtype = z.shape[dims[0] :], weight / z.numel(), z.dtype
        return torch.square(difference, out=t_hat).sum() * ctx.scale

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        difference, z_0, rest, r = ctx.saved_tensors
        grad_z, _, _ = torch.ops.aten.native_layer_norm_backward(
            difference, z_0, ctx.shape, rest, r, None, None, [True, False, False]
        )
        return grad_z.mul_(2 * ctx.scale * grad).to(ctx.dtype), None, None, None, None


def _normalize(feature: Tensor, dims: Tuple[int, ...], eps: float) -> Tuple[Tensor, ...]:
    """Return the normalized map, the map without its mean, and of that the mean that was left, and the scale."""
    mean = feature.mean(dims, keepdim=True, dtype=torch.float32 if feature.dtype in HALF else None)
    centred = feature - mean
    normalized, rest, r = torch.native_layer_norm(centred, feature.shape[dims[0] :], None, None, eps)
    return normalized, centred, rest, r


def normalized_mse(z: Tensor, t: Tensor, norm: str = 'instance', eps: float = 1e-5, weight: float = 1.0) -> Tensor:
    """Mean squared error of two normalized maps.

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
