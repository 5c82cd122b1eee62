"""Deformable convolutions in plain torch, by the names and arguments of mmcv's compiled operators."""

from typing import Optional

import torch
from torch import Tensor

from cankd_mm.stack.ops.sampling import bilinear, full_precision, gradients


def deform_conv(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Optional[Tensor] = None,
    bias: Optional[Tensor] = None,
    stride: tuple = (1, 1),
    padding: tuple = (0, 0),
    dilation: tuple = (1, 1),
    groups: int = 1,
    deform_groups: int = 1,
) -> Tensor:
    """Convolve pixels that are displaced (deformable convolution, v2 with a mask).

    Args:
        input (Tensor): ``(N, C, H, W)``.
        offset (Tensor): Row and column, for every place of the kernel, ``(N, G * K * 2, H', W')`` with G deformable
            groups and K places.
        weight (Tensor): ``(C', C / groups, kh, kw)``.
        mask (Tensor, optional): What samples are multiplied by, ``(N, G * K, H', W')``. Defaults to None.
        bias (Tensor, optional): ``(C', )``. Defaults to None.
        stride (tuple[int]): Defaults to (1, 1).
        padding (tuple[int]): Defaults to (0, 0).
        dilation (tuple[int]): Defaults to (1, 1).
        groups (int): Defaults to 1.
        deform_groups (int): Defaults to 1.

    Returns:
        Tensor: ``(N, C', H', W')``.
    """
    n, channels = input.shape[:2]
    kh, kw = weight.shape[2:]
    places, (height, width) = kh * kw, offset.shape[2:]
    offset = full_precision(offset).reshape(n * deform_groups, places, 2, height * width)
    kernel = torch.arange(places, device=input.device)
    out = torch.arange(height * width, device=input.device)
    rows = (kernel // kw * dilation[0])[:, None] + out // width * stride[0] - padding[0]
    columns = (kernel % kw * dilation[1])[:, None] + out % width * stride[1] - padding[1]
    y, x = (offset[:, :, 0] + rows).flatten(1), (offset[:, :, 1] + columns).flatten(1)
    maps = input.reshape(n * deform_groups, channels // deform_groups, *input.shape[2:])
    samples = bilinear(maps, y, x, border=False)
    if mask is not None:
        samples = samples * mask.reshape(n * deform_groups, 1, places * height * width)
    samples = samples.reshape(n, groups, channels // groups * places, height * width)
    output = torch.einsum('ngkp,gok->ngop', samples, weight.to(samples.dtype).reshape(groups, -1, samples.shape[2]))
    output = output.reshape(n, -1, height, width)
    return output if bias is None else output + bias[:, None, None]


def deform_conv_forward(input, weight, offset, output, columns, ones, **kwargs) -> None:
    """Convolve into ``output``, see :func:`deform_conv`."""
    output.copy_(deform_conv(input, offset, weight, **v1_options(kwargs)).view_as(output))


def deform_conv_backward_input(input, offset, grad_output, grad_input, grad_offset, weight, columns, **kwargs) -> None:
    """Write the gradients of input and offset into ``grad_input`` and ``grad_offset``."""
    options = v1_options(kwargs)
    found = gradients(lambda i, o: deform_conv(i, o, weight, **options), [input, offset], grad_output)
    grad_input.copy_(found[0]), grad_offset.copy_(found[1])


def deform_conv_backward_parameters(input, offset, grad_output, grad_weight, columns, ones, scale, **kwargs) -> None:
    """Add the gradient of the weight to ``grad_weight``."""
    options = v1_options(kwargs)
    grad_weight += scale * gradients(lambda w: deform_conv(input, offset, w, **options), [grad_weight], grad_output)[0]


def modulated_deform_conv_forward(
    input, weight, bias, ones, offset, mask, output, columns, with_bias, **kwargs
) -> None:
    """Convolve into ``output``, with a mask."""
    output.copy_(
        deform_conv(input, offset, weight, mask, bias if with_bias else None, **v2_options(kwargs)).view_as(output)
    )


def modulated_deform_conv_backward(
    input, weight, bias, ones, offset, mask, columns, grad_input, grad_weight, grad_bias, grad_offset, grad_mask,
    grad_output, with_bias, **kwargs
) -> None:  # fmt: skip
    """Write all gradients."""
    options = v2_options(kwargs)
    found = gradients(lambda i, o, w, m: deform_conv(i, o, w, m, **options), [input, offset, weight, mask], grad_output)
    for taken, gradient in zip((grad_input, grad_offset, grad_weight, grad_mask), found):
        taken.copy_(gradient)
    if with_bias:
        grad_bias.copy_(grad_output.sum((0, 2, 3)))


def v1_options(o: dict) -> dict:
    """Translate what mmcv's operator of version 1 is called with into arguments of :func:`deform_conv`."""
    return dict(
        stride=(o['dH'], o['dW']),
        padding=(o['padH'], o['padW']),
        dilation=(o['dilationH'], o['dilationW']),
        groups=o['group'],
        deform_groups=o['deformable_group'],
    )


def v2_options(o: dict) -> dict:
    """Translate what mmcv's operator of version 2 is called with into arguments of :func:`deform_conv`."""
    return dict(
        stride=(o['stride_h'], o['stride_w']),
        padding=(o['pad_h'], o['pad_w']),
        dilation=(o['dilation_h'], o['dilation_w']),
        groups=o['group'],
        deform_groups=o['deformable_group'],
    )
