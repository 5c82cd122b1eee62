"""The affinities of non-local attention between student and teacher, as pure functions."""

import torch
from torch import Tensor


def _at_least_float32(*tensors: Tensor) -> tuple:
    return tuple(t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in tensors)


def dot_product_attention(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    """Attend with the plain dot product as affinity, without ever forming it where that is dearer.

    ``y_i = 1/M * sum_j (theta_i . phi_j) g_j``. There is no softmax, so the product is
    associative: contracting keys with values first costs ``(P + M) D^2`` multiply-adds and no
    ``P x M`` matrix, the usual order costs ``2 P M D``. The cheaper order is taken; both are exact.

    The sums over the pixels leave the range of half precision in both directions, so half
    inputs are computed in float32, with autocast off.

    Args:
        theta (Tensor): Queries of the student, ``(N, D, P)`` with P pixels.
        phi (Tensor): Keys of the teacher, ``(N, D, M)`` with M pixels.
        g (Tensor): Values of the teacher, ``(N, D, M)``.

    Returns:
        Tensor: ``y``, ``(N, D, P)``, float32 for half inputs and the inputs' type otherwise.
    """
    d, p, m = theta.shape[1], theta.shape[2], phi.shape[2]
    with torch.autocast(theta.device.type, enabled=False):
        theta, phi, g = _at_least_float32(theta, phi, g)
        phi = phi / m
        if 2 * p * m < (p + m) * d:
            return g @ (phi.transpose(1, 2) @ theta)
        return (g @ phi.transpose(1, 2)) @ theta
