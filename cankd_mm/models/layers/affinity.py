"""The affinities of non-local attention between student and teacher, as pure functions.

Each computes ``y_i = sum_j f(i, j) g_j`` over the M pixels of the teacher, with memory linear in the pixels. Sums over
pixels overflow and underflow half precision: half inputs are computed in float32, with autocast off.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

HALF = (torch.float16, torch.bfloat16)

# Without it, torch 2.0 divides by the square root of the width.
_HAS_SCALE = torch.__version__ >= (2, 1)


def at_least_float32(*tensors: Tensor) -> tuple:
    """Convert tensors of half precision to float32, and leave the others as they are."""
    return tuple(t.float() if t.dtype in HALF else t for t in tensors)


def dot_product_attention(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    """Attend with the plain dot product: ``f(i, j) = theta_i . phi_j / M``.

    The product is associative: contracting keys with values first costs ``(P + M) D^2`` multiply-adds, the usual order
    ``2 P M D``. The cheaper one is taken.

    Args:
        theta (Tensor): Queries of the student, ``(N, D, P)`` with P pixels.
        phi (Tensor): Keys of the teacher, ``(N, D, M)`` with M pixels.
        g (Tensor): Values of the teacher, ``(N, D, M)``.

    Returns:
        Tensor: ``y``, ``(N, D, P)``, float32 for half inputs and the inputs' type otherwise.
    """
    d, p, m = theta.shape[1], theta.shape[2], phi.shape[2]
    with torch.autocast(theta.device.type, enabled=False):
        theta, phi, g = at_least_float32(theta, phi, g)
        if 2 * p * m < (p + m) * d:
            return g @ scaled_product(phi.transpose(1, 2), theta, 1 / m)
        return scaled_product(g, phi.transpose(1, 2), 1 / m) @ theta


def scaled_product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Multiply two batches of matrices and a number, in one kernel."""
    return torch.baddbmm(a.new_empty(()), a, b, beta=0, alpha=scale)


def softmax_attention(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    """Attend with the softmax of the dot product, without temperature: ``f(i, j) = softmax_j(theta_i . phi_j)``.

    Args:
        theta (Tensor): Queries of the student, ``(N, D, P)`` with P pixels.
        phi (Tensor): Keys of the teacher, ``(N, D, M)`` with M pixels.
        g (Tensor): Values of the teacher, ``(N, E, M)`` with ``E <= D``.

    Returns:
        Tensor: ``y``, ``(N, E, P)``, float32 for half inputs and the inputs' type otherwise.
    """
    d, e = theta.shape[1], g.shape[1]
    with torch.autocast(theta.device.type, enabled=False):
        theta, phi, g = at_least_float32(theta, phi, g)
        if not _HAS_SCALE:
            theta = theta * d**0.5
        # The kernels that never form the matrix want values as wide as the keys, and a pixel's channels in a row.
        features = (theta, phi, F.pad(g, (0, 0, 0, d - e)))
        queries, keys, values = (f.transpose(1, 2).contiguous()[:, None] for f in features)
        y = F.scaled_dot_product_attention(queries, keys, values, **(dict(scale=1.0) if _HAS_SCALE else {}))
        return y[:, 0, :, :e].transpose(1, 2)


def concatenation_attention(a: Tensor, b: Tensor, g: Tensor) -> Tensor:
    """Attend with a ReLU of the sum of a query's and a key's score: ``f(i, j) = ReLU(a_i + b_j) / M``.

    A query sees the keys with ``b_j > -a_i``, a prefix of length r of the keys sorted by falling score, and with the
    prefix sums G of ``g_j`` and B of ``b_j g_j``, ``y_i = (a_i G[r] + B[r]) / M``. The cost is ``(P + M) (D + log M)``.

    Args:
        a (Tensor): Scores of the student's queries, ``(N, P)`` with P pixels.
        b (Tensor): Scores of the teacher's keys, ``(N, M)`` with M pixels.
        g (Tensor): Values of the teacher, ``(N, D, M)``.

    Returns:
        Tensor: ``y``, ``(N, D, P)``, float32 for half inputs and the inputs' type otherwise.
    """
    n, d, m = g.shape
    with torch.autocast(g.device.type, enabled=False):
        a, b, g = at_least_float32(a, b, g)
        # Only a + b counts. Scores around zero keep the digits that a G + B would lose in large ones.
        centre = b.detach().mean(1, keepdim=True)
        a, b = a + centre, b - centre
        b, order = b.sort(1, descending=True)
        g = g.gather(2, order[:, None].expand(n, d, m))
        # Both sums side by side, after a column of zeros for the empty prefix.
        values = torch.cat([g, b[:, None] * g], 1)
        deterministic = values.is_cuda and torch.are_deterministic_algorithms_enabled()
        sums = F.pad(scan(values) if deterministic else values.cumsum(2), (1, 0))
        length = torch.searchsorted(-b.detach(), a.detach().contiguous())
        seen = sums.gather(2, length[:, None].expand(n, 2 * d, a.shape[1]))
        return torch.addcmul(seen[:, d:], a[:, None], seen[:, :d]) / m


def scan(values: Tensor) -> Tensor:
    """Cumulative sums along M of ``(N, D, M)`` by doubling: :func:`torch.cumsum` on CUDA is not deterministic."""
    shift = 1
    while shift < values.shape[2]:
        values = values + F.pad(values[..., :-shift], (shift, 0))
        shift *= 2
    return values
