"""The paper's formulas written down as plainly as possible: quadratic in the pixels, every map formed."""

import torch
from torch.nn import functional as F


def naive_attention(theta, phi, g):
    """``y_i = 1/M sum_j (theta_i . phi_j) g_j``, for ``(N, D, P)``, ``(N, D, M)`` and ``(N, D, M)``."""
    affinity = torch.einsum('ndp,ndm->npm', theta, phi) / phi.shape[2]
    return torch.einsum('npm,ndm->ndp', affinity, g)


def naive_loss(can, x, t, mu, sub_sample=True):
    """``mu * MSE(IN(BN(W y) + x), IN(t))`` with the parameters of a Can block in training mode."""

    def conv(layer, feature):
        return torch.einsum('dc,nchw->ndhw', layer.weight[:, :, 0, 0], feature) + layer.bias[:, None, None]

    def normalize(feature, dims, eps):
        mean = feature.mean(dims, keepdim=True)
        var = (feature - mean).square().mean(dims, keepdim=True)
        return (feature - mean) / (var + eps).sqrt()

    theta, phi, g = conv(can.theta, x), conv(can.phi, t), conv(can.g, t)
    if sub_sample and min(t.shape[2:]) > 1:
        phi, g = F.max_pool2d(phi, 2), F.max_pool2d(g, 2)
    y = naive_attention(theta.flatten(2), phi.flatten(2), g.flatten(2))
    w = conv(can.conv_out, y.reshape(theta.shape))
    w = normalize(w, (0, 2, 3), can.bn.eps) * can.bn.weight[:, None, None] + can.bn.bias[:, None, None]
    return mu * (normalize(w + x, (2, 3), 1e-5) - normalize(t, (2, 3), 1e-5)).square().mean()
