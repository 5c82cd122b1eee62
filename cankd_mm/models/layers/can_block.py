from typing import Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from cankd_mm.errors import SetupError
from cankd_mm.models.layers.affinity import (
    HALF,
    at_least_float32,
    concatenation_attention,
    dot_product_attention,
    softmax_attention,
)
from cankd_mm.models.layers.products import one_matrix, pooled_product

MODES = ('dot_product', 'embedded_gaussian', 'gaussian', 'concatenation')


Projected = Tuple[Tensor, nn.Conv2d]


class CanBlock(nn.Module):
    """The cross-attention non-local block of CanKD (Sec. 3 of the paper).

    Every student pixel looks at all teacher pixels: ``z = BN(W y) + x`` with ``y_i = sum_j f(i, j) g(t_j)``. The batch
    norm starts at zero, and so the block as the identity. The names are those of ``mmcv.cnn.NonLocal2d``.

    Time and memory are linear in the pixels, but for the two modes with a softmax: their time is quadratic, and their
    memory is linear where torch has a fused attention (on GPUs, and from 2.1 on on CPUs).

    Args:
        in_channels (int): Channels C of both features.
        reduction (int): The inner channels D are ``max(C // reduction, 1)``. Defaults to 2.
        sub_sample (bool | int): Side of the windows in which the teacher's keys and values are max pooled; True is 2,
            False none. A map with a shorter side is not pooled. Defaults to True.
        mode (str): The affinity ``f(i, j)``, with M teacher pixels. Defaults to 'dot_product', the paper's.

            - ``'dot_product'``: ``theta(x_i) . phi(t_j) / M``;
            - ``'embedded_gaussian'``: the softmax over j of ``theta(x_i) . phi(t_j)``;
            - ``'gaussian'``: the softmax over j of ``x_i . t_j``;
            - ``'concatenation'``: ``ReLU(a . theta(x_i) + b . phi(t_j)) / M`` with learned vectors a and b.
        residual (bool): Whether x is added. Defaults to True.

    Raises:
        SetupError: If there is no such mode, or no window of that side.

    Examples:
        >>> block = CanBlock(256, mode='embedded_gaussian')
        >>> z = block(student_feature, teacher_feature)
    """

    def __init__(
        self,
        in_channels: int,
        reduction: int = 2,
        sub_sample: Union[bool, int] = True,
        mode: str = 'dot_product',
        residual: bool = True,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise SetupError(f'There is no mode {mode!r}: use {", ".join(map(repr, MODES[:-1]))} or {MODES[-1]!r}.')
        if not isinstance(sub_sample, int) or sub_sample is not False and sub_sample < 1:
            advice = 'give the side of the windows, True for 2, or False for none.'
            raise SetupError(f'The Can block cannot pool with {sub_sample=}: {advice}')
        self.sub_sample = {True: 2, False: 1}[sub_sample] if isinstance(sub_sample, bool) else sub_sample
        self.mode, self.residual = mode, residual
        inner_channels = max(in_channels // reduction, 1)
        if mode != 'gaussian':
            self.theta = nn.Conv2d(in_channels, inner_channels, 1)
            self.phi = nn.Conv2d(in_channels, inner_channels, 1)
        if mode == 'concatenation':
            self.concat_project = nn.Conv2d(2 * inner_channels, 1, 1, bias=False)
        self.g = nn.Conv2d(in_channels, inner_channels, 1)
        self.conv_out = nn.Conv2d(inner_channels, in_channels, 1)
        self.bn = nn.BatchNorm2d(in_channels)
        nn.init.zeros_(self.bn.weight)

    def forward(self, x: Tensor, t: Tensor, projected: Optional[Projected] = None) -> Tensor:
        """Let the student's pixels attend to the teacher's.

        Args:
            x (Tensor): Student feature, ``(N, C, H, W)``.
            t (Tensor): Teacher feature, ``(N, C, H', W')``.
            projected (tuple, optional): Where x is a 1x1 convolution of a feature of fewer channels, that feature,
                ``(N, B, H, W)``, and the convolution: the products with x are then such with that feature, for the
                dot product. Defaults to None.

        Returns:
            Tensor: ``z``, ``(N, C, H, W)``.
        """
        if self.g.weight.dtype in HALF:  # a block that is itself in half precision, not one under autocast
            x, t = x.to(self.g.weight.dtype), t.to(self.g.weight.dtype)
        known = dict(projected=projected) if self.mode == 'dot_product' else {}
        z = self._normalize(getattr(self, f'_{self.mode}')(x, t, **known))
        return z + x if self.residual else z

    @torch.no_grad()
    def affinity(self, x: Tensor, t: Tensor, pixels: Sequence[Tuple[int, int]]) -> Tensor:
        """Compute what single pixels of the student look at: rows of the matrix of affinities.

        Args:
            x (Tensor): Student feature, ``(1, C, H, W)``.
            t (Tensor): Teacher feature, ``(1, C, H', W')``.
            pixels (Sequence[tuple[int, int]]): The K pixels, as row and column.

        Returns:
            Tensor: ``f(i, j)`` of every pixel over the teacher's pooled map, ``(K, H'', W'')``.
        """
        rows, columns = zip(*pixels)
        queries = x[:, :, list(rows), list(columns)][..., None]  # (1, C, K, 1)
        keys = F.max_pool2d(t if self.mode == 'gaussian' else self.phi(t), self._side(t))
        queries = queries if self.mode == 'gaussian' else self.theta(queries)
        size, queries, keys = keys.shape[2:], queries.flatten(2), keys.flatten(2)
        if self.mode == 'concatenation':
            a, b = self.concat_project.weight.flatten(1).chunk(2, dim=1)
            f = F.relu((a @ queries).transpose(1, 2) + b @ keys) / keys.shape[2]
        elif self.mode == 'dot_product':
            f = queries.transpose(1, 2) @ keys / keys.shape[2]
        else:
            f = (queries.transpose(1, 2) @ keys).softmax(2)
        return f[0].unflatten(1, size)

    def _dot_product(self, x: Tensor, t: Tensor, projected: Optional[Projected] = None) -> Tensor:
        phi, g = self._keys_and_values(t)
        theta, out = ((conv.weight.flatten(1), conv.bias) for conv in (self.theta, self.conv_out))
        source, conv = projected or (x, None)
        (d, m), (b, c), p = phi.shape[1:], (source.shape[1], x.shape[1]), x.shape[2] * x.shape[3]
        # theta, the contraction and W are linear maps of a pixel of x, as is what x is projected by. One matrix for all
        # is the least work on large maps; on small ones its products are more kernels than they save. In half precision
        # they save more, as the other way has float32 products over the pixels.
        work, other = m * d * d + c * d * (d + b) + p * c * b, 2 * p * c * d + min(2 * p * m * d, (p + m) * d * d)
        if work >= (other if p >= 32 * c or source.dtype in HALF else other / 2):
            return self._project(dot_product_attention(self.theta(x).flatten(2), phi, g), x)
        if conv is not None:
            with torch.autocast(x.device.type, enabled=False):
                weight, bias = at_least_float32(*theta)
                bias = bias if conv.bias is None else torch.addmv(bias, weight, conv.bias.to(bias.dtype))
                theta = weight @ conv.weight.flatten(1).to(weight.dtype), bias
        return one_matrix(source.flatten(2), phi, g, theta, out).unflatten(2, x.shape[2:])

    def _embedded_gaussian(self, x: Tensor, t: Tensor) -> Tensor:
        phi, g = self._keys_and_values(t)
        return self._project(softmax_attention(self.theta(x).flatten(2), phi, g), x)

    def _gaussian(self, x: Tensor, t: Tensor) -> Tensor:
        keys, (g,) = F.max_pool2d(t, self._side(t)).flatten(2), self._keys_and_values(t, self.g)
        return self._project(softmax_attention(x.flatten(2), keys, g), x)

    def _concatenation(self, x: Tensor, t: Tensor) -> Tensor:
        phi, g = self._keys_and_values(t)
        of_query, of_key = self.concat_project.weight.flatten(1).chunk(2, dim=1)
        a, b = F.conv2d(self.theta(x), of_query[:, :, None, None]), F.conv1d(phi, of_key[:, :, None])
        return self._project(concatenation_attention(a.flatten(1), b.flatten(1), g), x)

    def _keys_and_values(self, t: Tensor, *convolutions: nn.Conv2d) -> Tuple[Tensor, ...]:
        """``phi(t)`` and ``g(t)``, or those that are given, each ``(N, D, M)``, from one product."""
        convolutions = convolutions or (self.phi, self.g)
        weight = torch.cat([c.weight for c in convolutions])
        bias = torch.cat([c.bias for c in convolutions])
        pixels = pooled_product(t, weight.flatten(1), bias, self._side(t))
        return tuple(part.transpose(1, 2) for part in pixels.chunk(len(convolutions), dim=2))

    def _side(self, t: Tensor) -> int:
        return self.sub_sample if self.sub_sample <= min(t.shape[2:]) else 1

    def _project(self, y: Tensor, x: Tensor) -> Tensor:
        """``W y`` in the height and width of x."""
        # The product of three features leaves the range of half precision long before these do.
        with torch.autocast(y.device.type, enabled=False):
            return F.conv2d(y.unflatten(2, x.shape[2:]), *at_least_float32(self.conv_out.weight, self.conv_out.bias))

    def _normalize(self, y: Tensor) -> Tensor:
        y = y.to(self.bn.weight.dtype) if self.bn.weight.dtype in HALF else y
        # A synchronized one waits for all ranks.
        alone = isinstance(self.bn, nn.BatchNorm2d) or _world_size() == 1
        if self.training and y.numel() == y.shape[1] and alone:
            # One pixel of one image has no variance to normalize by: take the running statistics.
            bn = self.bn
            return F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, False, 0.0, bn.eps)
        return self.bn(y)


def _world_size() -> int:
    started = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if started else 1
