from typing import Any, Tuple

import torch
from torch import Tensor


class _InstanceNormMSE(torch.autograd.Function):
    """``MSE(IN(z), IN(t))`` as a correlation: no normalized map is formed or stored.

    With the variances and the covariance over the pixels of each (n, c), and
    ``r = 1 / sqrt(var + eps)``, the squared distance of the normalized maps is
    ``var_z r_z^2 + var_t r_t^2 - 2 cov r_z r_t``, and its gradient is affine in z and t.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, t: Tensor, eps: float) -> Tensor:
        shape = z.shape
        z, t = z.flatten(2), t.flatten(2)
        # Two passes: E[z^2] - E[z]^2 loses the digits where the mean is large.
        mean_z, mean_t = z.mean(2, keepdim=True), t.mean(2, keepdim=True)
        dz, dt = z - mean_z, t - mean_t
        var_z, var_t = dz.square().mean(2, keepdim=True), dt.square().mean(2, keepdim=True)
        cov = (dz * dt).mean(2, keepdim=True)
        r_z, r_t = (var_z + eps).rsqrt(), (var_t + eps).rsqrt()
        # d loss / d z = a (z - mean_z) - b (t - mean_t)
        b = 2 / z.numel() * r_z * r_t
        a = 2 / z.numel() * r_z**3 * (eps * r_z + cov * r_t)
        ctx.shape = shape
        ctx.save_for_backward(z, t, mean_z, mean_t, a, b)
        return (var_z * r_z**2 + var_t * r_t**2 - 2 * cov * r_z * r_t).mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None, None]:
        z, t, mean_z, mean_t, a, b = ctx.saved_tensors
        # The mean is taken off first: a * z - a * mean would lose the digits where the mean is large.
        grad_z = (z - mean_z).mul_(grad * a).addcmul_(t - mean_t, grad * b, value=-1)
        return grad_z.view(ctx.shape), None, None


def instance_norm_mse(z: Tensor, t: Tensor, eps: float = 1e-5) -> Tensor:
    """Mean squared error of two instance-normalized maps, in closed form.

    Equal to ``F.mse_loss(F.instance_norm(z, eps=eps), F.instance_norm(t, eps=eps))``, and defined
    for maps of a single pixel as well, where it is zero.

    Args:
        z (Tensor): Student map, ``(N, C, H, W)``. Half precision is computed in float32.
        t (Tensor): Target map, ``(N, C, H, W)``; it gets no gradient.
        eps (float): Added to the variances, as in instance norm. Defaults to 1e-5.

    Returns:
        Tensor: The loss, a scalar, float32 for half inputs.
    """
    if z.dtype in (torch.float16, torch.bfloat16):
        z = z.float()
    with torch.autocast(z.device.type, enabled=False):
        return _InstanceNormMSE.apply(z, t.detach().to(z.dtype), eps)
