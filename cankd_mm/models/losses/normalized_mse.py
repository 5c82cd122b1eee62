from typing import Any, Optional, Tuple

import torch
from torch import Tensor

from cankd_mm.models.layers.affinity import at_least_float32

# What shares a mean and a variance, as the dimensions of (N, C, H, W) that they are taken over.
NORMS = {'instance': (-2, -1), 'layer': (-3, -2, -1)}


class _NormalizedMSE(torch.autograd.Function):
    """The mean squared error of two normalized maps, in few kernels and with no normalized map stored.

    In a group (an image's channel, or an image) of m elements, z and t without their means are scaled by
    ``r = 1 / sqrt(|z|^2 + m eps)``. The error is ``|d|^2`` with ``d = r_z z - r_t t``, and its gradient
    ``2 r_z (d - k r_z z)`` with ``k = d . r_z z = (|d|^2 + m eps (r_t^2 - r_z^2)) / 2``.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, t: Tensor, dims: Tuple[int, ...], eps: float) -> Tensor:
        (both,) = at_least_float32(torch.stack((z, t)))  # together, which halves the kernels
        # Two passes: E[x^2] - E[x]^2 loses the digits where the mean is large. So does a mean that is rounded to it.
        mean = _mean(both, dims)
        rest = _mean(both.sub_(mean), dims)
        both.sub_(rest)
        m_eps = eps * both.numel() / mean.numel()
        square = _norm(both, dims).square().add_(m_eps).reciprocal_()
        (r_z, r_t), (square_z, square_t) = square.sqrt(), square
        d = both[0].mul_(r_z).addcmul_(both[1], r_t, value=-1)
        error = _norm(d, dims).square()
        # The gradient is a (z - mean_z) - b (t - mean_t), over half the number of groups.
        twice_k = error.add(square_t - square_z, alpha=m_eps)
        a, b = square_z.addcmul(square_z, twice_k, value=-0.5), r_z * r_t
        ctx.save_for_backward(z, t, *mean, *rest, a, b)
        return error.mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        z, t, mean_z, mean_t, rest_z, rest_t, a, b = ctx.saved_tensors
        scale = grad * (2 / a.numel())
        a, b = a * scale, b * scale
        # The means are taken off first: a z - a mean would lose the digits where the mean is large.
        grad_z = (z - mean_z).mul_(a).addcmul_(t - mean_t, b, value=-1).add_((b * rest_t).addcmul_(a, rest_z, value=-1))
        return grad_z.to(z.dtype), None, None, None


def _mean(feature: Tensor, dims: Tuple[int, ...]) -> Tensor:
    # Over the pixels first: a single sum over channels and pixels is too long for float32.
    mean = feature.mean((-2, -1), keepdim=True)
    return mean.mean(-3, keepdim=True) if -3 in dims else mean


def _norm(feature: Tensor, dims: Tuple[int, ...]) -> Tensor:
    # Reads the map once and makes no other; over the pixels first, as above.
    norm = torch.linalg.vector_norm(feature, dim=(-2, -1), keepdim=True)
    return torch.linalg.vector_norm(norm, dim=-3, keepdim=True) if -3 in dims else norm


def normalized_mse(z: Tensor, t: Tensor, norm: str = 'instance', eps: float = 1e-5) -> Tensor:
    """Mean squared error of two normalized maps, in closed form.

    Equal to ``F.mse_loss(F.instance_norm(z, eps=eps), F.instance_norm(t, eps=eps))`` or its like with layer norm, and
    defined for maps of a single pixel as well.

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
