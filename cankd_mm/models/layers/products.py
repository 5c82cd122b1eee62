"""The block's products over pixels, with backward passes of their own: few kernels, and little is kept.

Those of features in half precision are products in half precision. The mean of each channel is taken off before and
its share computed in float32, as rounding would hide what varies beside it; factors keep them in range.
"""

from contextlib import nullcontext
from typing import Any, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cankd_mm.models.layers.affinity import HALF, at_least_float32, scaled_product

_LARGE = 2.0**14  # a quarter of what float16 holds
_TINY = 2.0**-60


def pooled_product(t: Tensor, weight: Tensor, bias: Tensor, side: int) -> Tensor:
    """Take the maxima over windows of ``weight t + bias``.

    Args:
        t (Tensor): A feature without a gradient, ``(N, C, H, W)``.
        weight (Tensor): ``(D, C)``.
        bias (Tensor): ``(D,)``.
        side (int): Side of the windows; 1 is no pooling.

    Returns:
        Tensor: ``(N, M, D)`` with M windows; float32 for a feature in half precision.
    """
    # A feature in half precision needs no autocast, whose rounding of the small products would count.
    with torch.autocast(t.device.type, enabled=False) if t.dtype in HALF else nullcontext():
        return _PooledProduct.apply(t, weight, bias, side)


def one_matrix(x: Tensor, phi: Tensor, g: Tensor, theta: Sequence[Tensor], out: Sequence[Tensor]) -> Tensor:
    """Compute ``W (g phi^T / M) (theta x + b) + b'`` by one matrix for each image.

    Args:
        x (Tensor): Student feature, ``(N, B, P)`` with P pixels.
        phi (Tensor): Keys, ``(N, D, M)`` with M pixels.
        g (Tensor): Values, ``(N, D, M)``.
        theta (Sequence[Tensor]): theta and b, ``(D, B)`` and ``(D,)``.
        out (Sequence[Tensor]): W and b', ``(C, D)`` and ``(C,)``.

    Returns:
        Tensor: ``(N, C, P)``, float32 for a feature in half precision.
    """
    with torch.autocast(x.device.type, enabled=False):
        return _OneMatrix.apply(x, *at_least_float32(phi, g, *theta, *out))


class _PooledProduct(torch.autograd.Function):
    """:func:`pooled_product`. The channels of a pixel lie side by side: pooling is several times faster then."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, w: Tensor, b: Tensor, side: int) -> Tensor:
        ctx.size, pixels = t.shape[2:], t.flatten(2)
        mean = norms = scale = None
        if t.dtype in HALF and w.dtype not in HALF:
            pixels, mean, norms = _centred(pixels)
            matrix, scale = _scaled(w, norms, t.dtype)
            product = pixels.transpose(1, 2) @ matrix.transpose(1, 2)
        else:
            product = torch.baddbmm(b, pixels.transpose(1, 2), w.t().expand(len(t), -1, -1))
        indices = []
        if side > 1:
            feature = product.transpose(1, 2).unflatten(2, ctx.size)
            pooled, *indices = F.max_pool2d(feature, side, return_indices=True)
            product, *indices = (f.flatten(2).transpose(1, 2) for f in (pooled, *indices))
        ctx.save_for_backward(pixels, mean, norms, *indices)
        if scale is None:
            return product
        return torch.addcmul((b[:, None] + w @ mean).transpose(1, 2), product, scale.transpose(1, 2))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        pixels, mean, norms, *indices = ctx.saved_tensors
        of_b = grad.sum((0, 1))
        if mean is not None:
            of_mean = grad.sum(1)[:, :, None] * mean.transpose(1, 2)
            grad, scale = _in_range(grad, norms, pixels.dtype, dim=1)
        if indices:
            spread = grad.new_zeros(len(grad), ctx.size.numel(), grad.shape[2])
            grad = spread.scatter_(1, *indices, grad)
        of_w = grad.transpose(1, 2) @ pixels.transpose(1, 2).to(grad.dtype)  # under autocast grad may be half
        if mean is not None:
            of_w = torch.addcmul(of_mean, of_w, scale.transpose(1, 2))
        return None, of_w.sum(0), of_b, None


class _OneMatrix(torch.autograd.Function):
    """:func:`one_matrix`, with the fewest kernels."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, phi: Tensor, g: Tensor, w: Tensor, b: Tensor, w_out: Tensor, b_out: Tensor
    ) -> Tensor:
        n, _, m = phi.shape
        attended = scaled_product(g, phi.transpose(1, 2), 1 / m)
        to_output = torch.bmm(w_out.expand(n, -1, -1), attended)
        matrix = to_output @ w
        bias = torch.baddbmm(b_out[:, None], to_output, b[:, None].expand(n, -1, -1))
        small = (phi, g, w, b, w_out, attended, to_output, matrix)
        if x.dtype not in HALF:
            ctx.save_for_backward(x, None, None, *small)
            return torch.baddbmm(bias, matrix, x)
        x, mean, norms = _centred(x)
        ctx.save_for_backward(x, mean, norms, *small)
        part, scale = _scaled(matrix, norms, x.dtype)
        return torch.addcmul(torch.baddbmm(bias, matrix, mean), part @ x, scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, ...]:
        x, mean, norms, phi, g, w, b, w_out, attended, to_output, matrix = ctx.saved_tensors
        n, _, m = phi.shape
        of_bias = grad.sum(2, keepdim=True)
        if mean is None:
            of_matrix, of_x = grad @ x.transpose(1, 2), matrix.transpose(1, 2) @ grad
        else:
            grad, scale = _in_range(grad, norms, x.dtype)
            of_matrix = torch.addcmul(of_bias * mean.transpose(1, 2), grad @ x.transpose(1, 2), scale)
            bounds = (_LARGE / norms.amax(1, keepdim=True)).clamp_(min=1.0).expand(n, grad.shape[1], 1)  # its norms
            part, scale = _scaled((matrix * scale).transpose(1, 2), bounds, x.dtype)
            of_x = (part @ grad).mul_(scale)
        of_output = torch.baddbmm(of_matrix @ w.t(), of_bias, b.expand(n, 1, -1))
        of_attended = torch.bmm(w_out.t().expand(n, -1, -1), of_output)
        columns = to_output.flatten(0, 1).t()
        return (
            of_x,
            scaled_product(g.transpose(1, 2), of_attended, 1 / m).transpose(1, 2),
            scaled_product(phi.transpose(1, 2), of_attended.transpose(1, 2), 1 / m).transpose(1, 2),
            columns @ of_matrix.flatten(0, 1),
            columns @ of_bias.flatten(),
            (of_output @ attended.transpose(1, 2)).sum(0),
            of_bias.flatten(1).sum(0),
        )


def _centred(feature: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """Take the means over the pixels off ``(N, C, P)`` in half precision; return them and the norms that are left."""
    mean = feature.mean(2, keepdim=True, dtype=torch.float32)
    centred = torch.sub(feature, mean, out=torch.empty(feature.shape, dtype=feature.dtype, device=feature.device))
    return centred, mean, _norms(centred)


def _norms(feature: Tensor, least: float = 1.0, dim: int = 2) -> Tensor:
    """Norms over the pixels of ``(N, C, P)``, ``(N, C, 1)``, float32. At least 1: factors stay in range, too."""
    return torch.linalg.vector_norm(feature, dim=dim, keepdim=True, dtype=torch.float32).clamp_(min=least)


def _scaled(matrix: Tensor, norms: Tensor, dtype: torch.dtype) -> Tuple[Tensor, Tensor]:
    """Bring the rows of a matrix ``(I, C)`` or ``(N, I, C)`` to where its product with a feature stays in range.

    ``norms`` are those of the feature. What the rows were divided by is returned, too: ``(N, I, 1)``.
    """
    scale = (matrix.abs() @ norms).div_(_LARGE).clamp_(min=_TINY)
    return (matrix / scale).to(dtype), scale


def _in_range(grad: Tensor, norms: Tensor, dtype: torch.dtype, dim: int = 2) -> Tuple[Tensor, Tensor]:
    """Bring ``(N, I, P)`` to where its products with a feature, summed over the pixels, stay in range.

    By Cauchy and Schwarz, the product of the norms bounds them. What was divided by is returned, too: ``(N, I, 1)``.
    ``dim`` is that of the pixels.
    """
    scale = _norms(grad, _TINY, dim) * (norms.amax(1, keepdim=True) / _LARGE)
    out = torch.empty(grad.shape, dtype=dtype, device=grad.device)
    return torch.div(grad, scale, out=out), scale
