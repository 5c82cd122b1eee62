"""The paper's formulas written down as plainly as possible: quadratic in the pixels, every map formed."""

import torch


def naive_attention(theta, phi, g):
    """``y_i = 1/M sum_j (theta_i . phi_j) g_j``, for ``(N, D, P)``, ``(N, D, M)`` and ``(N, D, M)``."""
    affinity = torch.einsum('ndp,ndm->npm', theta, phi) / phi.shape[2]
    return torch.einsum('npm,ndm->ndp', affinity, g)


def naive_softmax_attention(theta, phi, g):
    """``y_i = sum_j softmax_j(theta_i . phi_j) g_j``."""
    affinity = torch.einsum('ndp,ndm->npm', theta, phi).softmax(2)
    return torch.einsum('npm,ndm->ndp', affinity, g)


def naive_concatenation_attention(a, b, g):
    """``y_i = 1/M sum_j ReLU(a_i + b_j) g_j``, for ``(N, P)``, ``(N, M)`` and ``(N, D, M)``."""
    affinity = (a[:, :, None] + b[:, None, :]).relu() / b.shape[1]
    return torch.einsum('npm,ndm->ndp', affinity, g)


def conv(layer, feature):
    return torch.einsum('dc,nchw->ndhw', layer.weight[:, :, 0, 0], feature) + layer.bias[:, None, None]


def normalize(feature, dims, eps):
    mean = feature.mean(dims, keepdim=True)
    var = (feature - mean).square().mean(dims, keepdim=True)
    return (feature - mean) / (var + eps).sqrt()


def naive_block(can, x, t):
    """``z`` of a Can block in training mode, from its parameters."""

    def pool(feature):
        side, (height, width) = int(can.sub_sample), t.shape[2:]
        if side == 1 or min(height, width) < side:
            return feature
        rows = feature[:, :, : height // side * side].unflatten(2, (-1, side)).amax(3)
        return rows[..., : width // side * side].unflatten(3, (-1, side)).amax(4)

    g = pool(conv(can.g, t)).flatten(2)
    if can.mode == 'gaussian':
        y = naive_softmax_attention(x.flatten(2), pool(t).flatten(2), g)
    else:
        theta, phi = conv(can.theta, x).flatten(2), pool(conv(can.phi, t)).flatten(2)
        if can.mode == 'dot_product':
            y = naive_attention(theta, phi, g)
        elif can.mode == 'embedded_gaussian':
            y = naive_softmax_attention(theta, phi, g)
        else:
            of_query, of_key = can.concat_project.weight[0, :, 0, 0].chunk(2)
            a, b = torch.einsum('d,ndp->np', of_query, theta), torch.einsum('d,ndm->nm', of_key, phi)
            y = naive_concatenation_attention(a, b, g)
    w = conv(can.conv_out, y.unflatten(2, x.shape[2:]))
    z = normalize(w, (0, 2, 3), can.bn.eps) * can.bn.weight[:, None, None] + can.bn.bias[:, None, None]
    return z + x if can.residual else z


NORM_DIMS = dict(instance=(2, 3), layer=(1, 2, 3))


def naive_loss(can, x, t, mu, norm='instance'):
    """``mu * MSE(IN(z), IN(t))`` with the parameters of a Can block in training mode, or without a block."""
    z = x if can is None else naive_block(can, x, t)
    if norm is not None:
        z, t = normalize(z, NORM_DIMS[norm], 1e-5), normalize(t, NORM_DIMS[norm], 1e-5)
    return mu * (z - t).square().mean()
