"""Operators in plain torch, by the names and arguments of mmcv's compiled ones, which write into what they are given."""

from typing import Callable, Iterator, List, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cankd_mm.stack.ops.missing import missing_operator

_NMS_ROWS = 1024  # rows of the matrix of overlaps that are held at a time


def nms(bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Suppress boxes that overlap one of a higher score by more than a threshold.

    Args:
        bboxes (Tensor): ``x1, y1, x2, y2`` in pixels, ``(N, 4)``.
        scores (Tensor): ``(N, )``.
        iou_threshold (float): Threshold of the intersection over the union.
        offset (int): 1 where a box of one pixel has equal corners, otherwise 0.

    Returns:
        Tensor: Indices of what is kept, the highest score first, ``(K, )``.
    """
    order = scores.sort(descending=True, stable=True)[1]
    boxes = bboxes[order]
    removed = np.zeros(len(order), dtype=bool)
    for start in range(0, len(order), _NMS_ROWS):
        # What is removed already removes nothing, and a box none of a higher score.
        rows = np.flatnonzero(~removed[start : start + _NMS_ROWS])
        left = boxes[start:]
        over = _overlaps(left[torch.as_tensor(rows, device=boxes.device)], left, offset) > iou_threshold
        for row, suppressed in zip(rows, over.cpu().numpy()):
            if not removed[start + row]:
                removed[start + row + 1 :] |= suppressed[row + 1 :]
    return order[torch.as_tensor(np.flatnonzero(~removed), device=order.device)]


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lower the scores of boxes that overlap one of a higher score (Soft-NMS).

    Args:
        boxes (Tensor): ``x1, y1, x2, y2`` in pixels, ``(N, 4)``.
        scores (Tensor): ``(N, )``.
        dets (Tensor): Takes boxes and scores of what is kept, ``(N, 5)``.
        iou_threshold (float): Overlap from which on 'naive' and 'linear' change a score.
        sigma (float): Width of the method 'gaussian'.
        min_score (float): Boxes whose score falls below it are left out.
        method (int): 0 'naive', 1 'linear', 2 'gaussian'.
        offset (int): As for :func:`nms`.

    Returns:
        Tensor: Indices of what is kept, in the order of ``dets``, ``(K, )``.
    """
    left, scores, kept = torch.arange(len(boxes)), scores.clone(), []
    while len(left):
        best = int(scores[left].argmax())
        index = left[best]
        dets[len(kept), :4], dets[len(kept), 4] = boxes[index], scores[index]
        kept.append(index)
        left = torch.cat([left[:best], left[best + 1 :]])
        overlap = _overlaps(boxes[index][None], boxes[left], offset)[0]
        if method == 2:
            weight = torch.exp(-(overlap**2) / sigma)
        else:
            weight = torch.where(overlap >= iou_threshold, 1 - overlap if method == 1 else 0 * overlap, 1.0)
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
    return inter / (area_a[:, None] + area_b[None] - inter)


def roi_align_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, **options
) -> None:
    """Write the means of bilinear samples of regions (RoIAlign) into ``output``.

    Args:
        input (Tensor): Features, ``(N, C, H, W)``.
        rois (Tensor): Image, ``x1, y1, x2, y2`` in pixels of the image, ``(R, 5)``.
        output (Tensor): Takes the result, ``(R, C, aligned_height, aligned_width)``.
        argmax_y (Tensor): Not used, as ``argmax_x``: places of maxima, where mmcv takes these.
        argmax_x (Tensor): See ``argmax_y``.
        **options: ``aligned_height`` and ``aligned_width``, the rows and columns of bins; ``spatial_scale``, pixels of
            the feature over those of the image; ``sampling_ratio``, samples of a bin in each direction, where 0 takes
            as many as the bin has pixels; ``pool_mode``, 1 for the mean; ``aligned``, whether pixels have their centre
            at half numbers.

    Raises:
        SetupError: With another ``pool_mode``.
    """
    for r, image, y, x, rows, columns in _regions(rois, input, **options):
        output[r] = rows @ full_precision(input[image, :, y, x]) @ columns.T


def roi_align_backward(
    grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor, **options
) -> None:
    """Add the gradient of :func:`roi_align_forward` to ``grad_input``, ``(N, C, H, W)``."""
    total = full_precision(grad_input)
    for r, image, y, x, rows, columns in _regions(rois, grad_input, **options):
        total[image, :, y, x] += rows.T @ full_precision(grad_output[r]) @ columns
    if total is not grad_input:
        grad_input.copy_(total)


def _regions(
    rois: Tensor,
    features: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> Iterator[Tuple[int, int, slice, slice, Tensor, Tensor]]:
    """Give, for every region, its index, image, rows and columns of pixels, and the weights of these in the bins.

    Samples lie on a grid, and so a bin's mean is a weighted sum over rows of weighted sums over columns.
    """
    if pool_mode != 1:
        raise missing_operator('roi_align with max pooling')
    axes = []
    for axis, bins in ((1, aligned_height), (0, aligned_width)):
        start, end = (
            full_precision(rois[:, i]) * spatial_scale - (0.5 if aligned else 0) for i in (axis + 1, axis + 3)
        )
        size = end - start if aligned else (end - start).clamp(min=1)
        weights, spans = _axis_weights(start, size, bins, features.shape[3 - axis], sampling_ratio)
        axes.append((spans, weights.to(full_precision(features[:0]).dtype)))
    (rows, row_weights), (columns, column_weights) = axes
    for r, image in enumerate(rois[:, 0].long().tolist()):
        y, x = rows[r], columns[r]
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
        # The border's pixels reach one pixel out, and beyond is nothing.
        taken = (k < count)[:, None] & (place >= -1) & (place <= length)
        share = (1 - (place.clamp(0, length - 1)[..., None] - pixels).abs()).clamp(min=0)
        weights += share * (taken / count.clamp(min=1)[:, None])[..., None]
    first = start.floor().clamp(0, length - 1)
    last = torch.maximum((start + size).floor() + 2, first + 1).clamp(max=length)
    return weights, [slice(*ends) for ends in torch.stack([first, last], 1).long().tolist()]


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the focal loss of every class into ``output``.

    Args:
        input (Tensor): Logits, ``(N, C)``.
        target (Tensor): Classes, of which others than 0 to C - 1 are background, ``(N, )``.
        weight (Tensor): Weights of the classes, ``(C, )``, or empty.
        output (Tensor): Takes the result, ``(N, C)``.
        gamma (float): The focusing parameter.
        alpha (float): The weight of the positive class.
    """
    output.copy_(_focal_loss(input, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the gradient of the sum of :func:`sigmoid_focal_loss_forward` into ``grad_input``, ``(N, C)``."""
    ones = torch.ones_like(input)
    grad_input.copy_(_gradients(lambda x: _focal_loss(x, target, weight, gamma, alpha), [input], ones)[0])


def _focal_loss(input: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    positive = target[:, None] == torch.arange(input.shape[1], device=input.device)
    p = input.sigmoid()
    loss = torch.where(
        positive,
        -alpha * (1 - p) ** gamma * F.logsigmoid(input),
        -(1 - alpha) * p**gamma * F.logsigmoid(-input),
    )
    if weight.numel():
        known = (target >= 0) & (target < len(weight))
        loss = loss * torch.where(known, weight[target.clamp(0, len(weight) - 1)], 1)[:, None]
    return loss


def ms_deform_attn_forward(
    value: Tensor, shapes: Tensor, start_index: Tensor, locations: Tensor, weights: Tensor, im2col_step: int
) -> Tensor:
    """Attend to a few places of every level, in mmcv's own torch form.

    Args:
        value (Tensor): ``(N, sum of H W over the levels, heads, C)``.
        shapes (Tensor): Height and width of the levels, ``(L, 2)``.
        start_index (Tensor): Where levels start, which the shapes say.
        locations (Tensor): Places between 0 and 1, ``(N, queries, heads, L, points, 2)``.
        weights (Tensor): ``(N, queries, heads, L, points)``.
        im2col_step (int): Used in the compiled form alone.

    Returns:
        Tensor: ``(N, queries, heads * C)``.
    """
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)


def ms_deform_attn_backward(
    value, shapes, start_index, locations, weights, grad_output, grad_value, grad_locations, grad_weights, im2col_step
) -> None:
    """Write the gradients of value, locations and weights."""
    found = _gradients(
        lambda v, x, w: ms_deform_attn_forward(v, shapes, start_index, x, w, im2col_step),
        [value, locations, weights],
        grad_output,
    )
    for taken, gradient in zip((grad_value, grad_locations, grad_weights), found):
        taken.copy_(gradient)


def _gradients(function: Callable[..., Tensor], tensors: Sequence[Tensor], grad_output: Tensor) -> Tuple[Tensor, ...]:
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


OPERATORS = (
    nms,
    softnms,
    roi_align_forward,
    roi_align_backward,
    sigmoid_focal_loss_forward,
    sigmoid_focal_loss_backward,
    ms_deform_attn_forward,
    ms_deform_attn_backward,
)
