from typing import Any, Optional, Tuple

import torch
from torch import Tensor

from cankd_mm.models.layers.affinity import at_least_float32

# What shares a mean and a variance, as the dimensions of (N, C, H, W) that they are taken over.
NORMS = {'instance': (2, 3), 'layer': (1, 2, 3)}


class _NormalizedMSE(torch.autograd.Function):
    """The mean squared error of two normalized maps, without forming or storing either.

    With ``r = 1 / sqrt(var + eps)`` per group (an image's channel, or an image), a group's mean squared error is the
    mean square of ``(z - mean_z) r_z - (t - mean_t) r_t``. It is also ``var_z r_z^2 + var_t r_t^2 - 2 cov r_z r_t``,
    which gives the covariance, and with it the gradient: affine in z and t.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, t: Tensor, dims: Tuple[int, ...], eps: float) -> Tensor:
        (dz, mean_z, rest_z), (dt, mean_t, rest_t) = (_center(f, dims) for f in at_least_float32(z, t))
        var_z, var_t = _mean_square(dz, dims), _mean_square(dt, dims)
        r_z, r_t = (var_z + eps).rsqrt(), (var_t + eps).rsqrt()
        error = _mean_square(dz.mul_(r_z).addcmul_(dt, r_t, value=-1), dims)
        # cov r_z r_t, the correlation but for eps
        correlation = (var_z * r_z**2 + var_t * r_t**2 - error) / 2
        # d loss / d z = a (z - mean_z) - b (t - mean_t)
        a = 2 / z.numel() * r_z**2 * (eps * r_z**2 + correlation)
        b = 2 / z.numel() * r_z * r_t
        ctx.save_for_backward(z, t, mean_z, mean_t, a, b, b * rest_t - a * rest_z)
        return error.mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        z, t, mean_z, mean_t, a, b, rest = ctx.saved_tensors
        # The means are taken off first: a z - a mean would lose the digits where the mean is large.
        grad_z = (z - mean_z).mul_(grad * a).addcmul_(t - mean_t, grad * b, value=-1).add_(grad * rest)
        return grad_z.to(z.dtype), None, None, None


def _center(feature: Tensor, dims: Tuple[int, ...]) -> Tuple[Tensor, Tensor, Tensor]:
    """Take the mean off, which is a number of full precision and what its rounding has left.

    Two passes: E[x^2] - E[x]^2 loses the digits where the mean is large. So does a mean that is rounded to it.
    """
    mean = _mean(feature, dims)
    centered = feature - mean
    rest = _mean(centered, dims)
    return centered.sub_(rest), mean, rest


def _mean(feature: Tensor, dims: Tuple[int, ...]) -> Tensor:
    # Over the pixels first: a single sum over channels and pixels is too long for float32.
    mean = feature.mean((2, 3), keepdim=True)
    return mean.mean(1, keepdim=True) if 1 in dims else mean


def _mean_square(feature: Tensor, dims: Tuple[int, ...]) -> Tensor:
    # The norm reads the map once and makes no other, in any memory format; over the pixels first, as above.
    square = torch.linalg.vector_norm(feature, dim=(2, 3), keepdim=True).square() / feature[0, 0].numel()
    return square.mean(1, keepdim=True) if 1 in dims else square


def normalized_mse(z: Tensor, t: Tensor, norm: str = 'instance', eps: float = 1e-5) -> Tensor:
    """Mean squared error of two normalized maps, in closed form.

    Equal to ``F.mse_loss(F.instance_norm(z, eps=eps), F.instance_norm(t, eps=eps))`` or its like with layer norm,
    and defined for maps of a single pixel as well, where the former is zero.

    Args:
        z (Tensor): Student map, ``(N, C, H, W)``. Half precision is computed in float32.
        t (Tensor): Target map, ``(N, C, H, W)``; it gets no gradient.
        norm (str): ``'instance'`` normalizes each channel of an image over its pixels, ``'layer'`` each image over
            channels and pixels. Defaults to 'instance'.
        eps (float): Added to the variances. Defaults to 1e-5.

    Returns:
        Tensor: The loss, a scalar, float32 for half inputs.
    """
    with torch.autocast(z.device.type, enabled=False):
        return _NormalizedMSE.apply(z, t.detach(), NORMS[norm], eps)
