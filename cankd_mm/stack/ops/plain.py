"""Operators in plain torch, by the names and arguments of mmcv's compiled ones, which write into what they are given.

Boxes ``(N, 4)`` are ``x1, y1, x2, y2`` in pixels, with an ``offset`` of 1 where equal corners are a box of one pixel.
Regions ``(R, 5)``, ``rois``, have the index of their image before that.
"""

import functools
import traceback
from typing import Callable, Iterator, List, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cankd_mm.errors import SetupError

MMCV_BUILD = 'MMCV_WITH_OPS=1 pip install --no-build-isolation mmcv==2.1.0'
_NMS_ROWS = 1024  # rows of the matrix of overlaps that are held at a time


def nms(bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """List the boxes that overlap none of a higher score by more than a threshold, highest first."""
    order = scores.sort(descending=True, stable=True)[1]
    boxes = bboxes[order]
    removed = np.zeros(len(order), dtype=bool)
    for start in range(0, len(order), _NMS_ROWS):
        # A removed box removes no other, and no box removes one of a higher score.
        rows = np.flatnonzero(~removed[start : start + _NMS_ROWS])
        left = boxes[start:]
        over = _overlaps(left[torch.as_tensor(rows, device=boxes.device)], left, offset) > iou_threshold
        for row, suppressed in zip(rows, over.cpu().numpy()):
            if not removed[start + row]:
                removed[start + row + 1 :] |= suppressed[row + 1 :]
    return order[torch.as_tensor(np.flatnonzero(~removed), device=order.device)]


def softnms(boxes, scores, dets, iou_threshold, sigma, min_score, method, offset) -> Tensor:
    """Lower the scores of boxes that overlap one of a higher score, write those that keep ``min_score`` into ``dets``
    ``(N, 5)``, and list them. The methods are 0 'naive' and 1 'linear', from ``iou_threshold`` on, and 2 'gaussian'.
    """
    left, scores, kept = torch.arange(len(boxes)), scores.clone(), []
    while len(left):
        best = left[scores[left].argmax()]
        dets[len(kept)] = torch.cat([boxes[best], scores[best, None]])
        kept.append(best)
        left = left[left != best]
        overlap = _overlaps(boxes[best, None], boxes[left], offset)[0]
        lower = 1 - overlap if method == 1 else 0 * overlap
        weight = torch.exp(-(overlap**2) / sigma) if method == 2 else torch.where(overlap >= iou_threshold, lower, 1.0)
        scores[left] = scores[left] * weight
        left = left[scores[left] >= min_score]
    return torch.stack(kept) if kept else left


def _overlaps(a: Tensor, b: Tensor, offset: int) -> Tensor:
    """Compute intersections over unions, ``(A, B)``."""
    width, height = (
        (torch.min(a[:, None, i + 2], b[:, i + 2]) - torch.max(a[:, None, i], b[:, i]) + offset).clamp_(min=0)
        for i in (0, 1)
    )
    inter = width.mul_(height)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2] + offset).prod(1) for boxes in (a, b))
    return inter / (area_a[:, None] + area_b - inter)


def roi_align_forward(input, rois, output, argmax_y, argmax_x, **options) -> None:
    """Write the means of bilinear samples of regions into ``output``, ``(R, C, aligned_height, aligned_width)``."""
    with torch.autocast(input.device.type, enabled=False):
        for r, image, y, x, rows, columns in _regions(rois, input, **options):
            output[r] = rows @ full_precision(input[image, :, y, x]) @ columns.T


def roi_align_backward(grad_output, rois, argmax_y, argmax_x, grad_input, **options) -> None:
    """Add the gradient of :func:`roi_align_forward` to ``grad_input``, ``(N, C, H, W)``."""
    total = full_precision(grad_input)
    with torch.autocast(total.device.type, enabled=False):
        for r, image, y, x, rows, columns in _regions(rois, grad_input, **options):
            total[image, :, y, x] += rows.T @ full_precision(grad_output[r]) @ columns
    grad_input.copy_(total)


def _regions(
    rois, features, aligned_height, aligned_width, spatial_scale, sampling_ratio, pool_mode, aligned
) -> Iterator[Tuple[int, int, slice, slice, Tensor, Tensor]]:
    """Yield every region's index, image, rows and columns of pixels, and their weights: as samples lie on a grid, a
    bin's mean is a weighted sum over rows of weighted sums over columns.
    """
    if pool_mode != 1:
        raise missing_operator('roi_align with max pooling')
    axes, corners = [], full_precision(rois[:, 1:]) * spatial_scale - (0.5 if aligned else 0)
    for axis, bins in ((1, aligned_height), (0, aligned_width)):
        start, end = corners[:, axis], corners[:, axis + 2]
        size = end - start if aligned else (end - start).clamp(min=1)
        weights, spans = _axis_weights(start, size, bins, features.shape[3 - axis], sampling_ratio)
        axes += [spans, weights.to(full_precision(features[:0]).dtype)]
    rows, row_weights, columns, column_weights = axes
    for r, (image, y, x) in enumerate(zip(rois[:, 0].long().tolist(), rows, columns)):
        yield r, image, y, x, row_weights[r, :, y], column_weights[r, :, x]


def _axis_weights(start: Tensor, size: Tensor, bins: int, length: int, ratio: int) -> Tuple[Tensor, List[slice]]:
    """Compute the weights of pixels in bins along one axis, ``(R, bins, length)``, and where they can be above zero."""
    bin_size = size / bins
    count = torch.full_like(size, ratio) if ratio > 0 else bin_size.ceil().clamp(min=0)
    step = bin_size / count.clamp(min=1)
    pixels, bin_index = (torch.arange(n, device=size.device, dtype=size.dtype) for n in (length, bins))
    weights = size.new_zeros(len(size), bins, length)
    for k in range(int(count.max()) if len(count) else 0):
        place = start[:, None] + bin_index * bin_size[:, None] + (k + 0.5) * step[:, None]
        # The border's pixels reach one pixel out, and beyond that is zero.
        taken = (k < count)[:, None] & (place >= -1) & (place <= length)
        share = (1 - (place.clamp(0, length - 1)[..., None] - pixels).abs()).clamp(min=0)
        weights += share * (taken / count.clamp(min=1)[:, None])[..., None]
    first = start.floor().clamp(0, length - 1)
    last = torch.maximum((start + size).floor() + 2, first + 1).clamp(max=length)
    return weights, [slice(*ends) for ends in torch.stack([first, last], 1).long().tolist()]


def sigmoid_focal_loss_forward(input, target, weight, output, gamma, alpha) -> None:
    """Write the focal loss of logits, ``(N, C)``, into ``output``; ``weight`` holds the classes' or nothing."""
    output.copy_(_focal_loss(input, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(input, target, weight, grad_input, gamma, alpha) -> None:
    """Write the gradient of the sum of :func:`sigmoid_focal_loss_forward` into ``grad_input``."""
    loss = functools.partial(_focal_loss, target=target, weight=weight, gamma=gamma, alpha=alpha)
    _differentiate(loss, [input], torch.ones_like(input), [grad_input])


def _focal_loss(input: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    positive = target[:, None] == torch.arange(input.shape[1], device=input.device)  # no class is background
    p = input.sigmoid()
    foreground = -alpha * (1 - p) ** gamma * F.logsigmoid(input)
    loss = torch.where(positive, foreground, (alpha - 1) * p**gamma * F.logsigmoid(-input))
    if weight.numel():
        known = (target >= 0) & (target < len(weight))
        loss = loss * torch.where(known, weight[target.clamp(0, len(weight) - 1)], 1)[:, None]
    return loss


def ms_deform_attn_forward(value, shapes, start_index, locations, weights, im2col_step) -> Tensor:
    """Attend to a few places of every level, as mmcv does in torch."""
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)


def ms_deform_attn_backward(
    value, shapes, start_index, locations, weights, grad_output, grad_value, grad_locations, grad_weights, im2col_step
) -> None:
    """Write the gradients of value, locations and weights."""

    def attend(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn_forward(value, shapes, start_index, locations, weights, im2col_step)

    _differentiate(attend, [value, locations, weights], grad_output, [grad_value, grad_locations, grad_weights])


def _differentiate(function: Callable, tensors: Sequence[Tensor], grad_output: Tensor, into: Sequence[Tensor]) -> None:
    """Write the gradients of a function of tensors ``into`` others."""
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in tensors]
        output = function(*inputs)
        found = torch.autograd.grad(output, inputs, grad_output.to(output.dtype))
    for tensor, gradient in zip(into, found):
        tensor.copy_(gradient)


def full_precision(tensor: Tensor) -> Tensor:
    """Convert half precision to float32: in float16, the thousandth pixel loses half a pixel."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def missing_operator(name: str) -> SetupError:
    """Say that neither mmcv nor this package has an operator, which part of the model needs it, and what to install."""
    return SetupError(
        f'mmcv-lite has no operator {name!r}, which {calling_module()} needs, and cankd_mm none in its place: install '
        f'mmcv with its compiled operators, pip uninstall mmcv-lite; {MMCV_BUILD}.'
    )


def calling_module() -> str:
    """Name the innermost module on the call stack that is not mmcv's own, or else the outermost of mmcv's."""
    found = None
    for frame, _ in traceback.walk_stack(None):
        module = frame.f_locals.get('self')
        found = type(module) if isinstance(module, nn.Module) else found
        if found and not found.__module__.startswith(('mmcv.', 'torch.')):
            break
    return found.__name__ if found else 'The model'


OPERATORS = (nms, softnms, roi_align_forward, roi_align_backward, sigmoid_focal_loss_forward)
OPERATORS += (sigmoid_focal_loss_backward, ms_deform_attn_forward, ms_deform_attn_backward)
