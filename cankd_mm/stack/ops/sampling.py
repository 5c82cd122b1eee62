"""What the operators share: bilinear samples of a map, and gradients of what is written in plain torch."""

from typing import Callable, Iterator, Sequence, Tuple

import torch
from torch import Tensor


def corners(y: Tensor, x: Tensor, height: int, width: int, border: bool) -> Iterator[Tuple[Tensor, Tensor]]:
    """Find the four pixels around fractional places.

    Args:
        y (Tensor): Rows, in pixels, of any shape.
        x (Tensor): Columns, in pixels, like ``y``.
        height (int): Of the map.
        width (int): Of the map.
        border (bool): What lies outside. True, as for RoIs: the border's pixels up to one pixel outside, and zero
            beyond. False, as for deformable convolutions: zero, to which the border's pixels fade.

    Yields:
        tuple[Tensor, Tensor]: The places of one corner in the flattened map, and its share of the sample, like ``y``.
    """
    if border:
        inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
        y, x = y.clamp(0, max(height - 1, 0)), x.clamp(0, max(width - 1, 0))
    else:
        inside = (y > -1) & (y < height) & (x > -1) & (x < width)
    top, left = y.floor(), x.floor()
    for row, row_weight in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, column_weight in ((left, 1 - (x - left)), (left + 1, x - left)):
            there = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
            yield index, row_weight * column_weight * there


def bilinear(maps: Tensor, y: Tensor, x: Tensor, border: bool) -> Tensor:
    """Sample maps at fractional places.

    Args:
        maps (Tensor): ``(B, C, H, W)``.
        y (Tensor): Rows, in pixels, ``(B, S)``.
        x (Tensor): Columns, in pixels, ``(B, S)``.
        border (bool): What lies outside, see :func:`corners`.

    Returns:
        Tensor: The samples, ``(B, C, S)``.
    """
    flat, samples = maps.flatten(2), 0
    for index, weight in corners(y, x, *maps.shape[2:], border):
        samples = samples + flat.gather(2, index[:, None].expand(*maps.shape[:2], -1)) * weight[:, None]
    return samples


def gradients(function: Callable[..., Tensor], tensors: Sequence[Tensor], grad_output: Tensor) -> Tuple[Tensor, ...]:
    """Differentiate a function that is written in plain torch.

    Args:
        function (Callable): Of the tensors.
        tensors (Sequence[Tensor]): Where it is differentiated.
        grad_output (Tensor): The gradient of its value.

    Returns:
        tuple[Tensor]: The gradient of each of the tensors.
    """
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in tensors]
        output = function(*inputs)
        return torch.autograd.grad(output, inputs, grad_output.to(output.dtype))


def full_precision(tensor: Tensor) -> Tensor:
    """Take a tensor in float32 at least: half a pixel is lost in float16 at the thousandth.

    Args:
        tensor (Tensor): Any floating point numbers.

    Returns:
        Tensor: The same in float32, or as it is.
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
