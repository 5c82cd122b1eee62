"""Pooling of regions of interest in plain torch, by the names and arguments of mmcv's compiled operators."""

import math
from typing import Iterator, Tuple

import torch
from torch import Tensor

from cankd_mm.stack.ops.sampling import bilinear, corners, full_precision, gradients


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Pool bilinear samples of regions (RoIAlign).

    Args:
        input (Tensor): Features, ``(N, C, H, W)``.
        rois (Tensor): Image, ``x1, y1, x2, y2`` in pixels of the image, ``(R, 5)``.
        output (Tensor): Takes the result, ``(R, C, aligned_height, aligned_width)``.
        argmax_y (Tensor): Takes the rows of the maxima, like ``output``.
        argmax_x (Tensor): Takes the columns of the maxima, like ``output``.
        aligned_height (int): Rows of bins.
        aligned_width (int): Columns of bins.
        spatial_scale (float): Pixels of the feature over those of the image.
        sampling_ratio (int): Samples of a bin in each direction; 0 takes as many as the bin has pixels.
        pool_mode (int): 0 for the maximum of the samples, 1 for their mean.
        aligned (bool): Whether pixels have their centre at half numbers.
    """
    bins = (aligned_height, aligned_width)
    for chosen, y, x, count in _places(rois, bins, spatial_scale, sampling_ratio, aligned):
        samples = _sample(input, rois[chosen], y, x, count)
        if pool_mode == 1:
            output[chosen] = samples.mean(3).unflatten(2, bins).to(output.dtype)
            continue
        values, place = samples.max(3)
        output[chosen] = values.unflatten(2, bins).to(output.dtype)
        for taken, where in ((argmax_y, y), (argmax_x, x)):
            where = where.unflatten(1, (-1, count))[:, None].expand(*samples.shape)
            taken[chosen] = where.gather(3, place[..., None])[..., 0].unflatten(2, bins).to(taken.dtype)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient of :func:`roi_align_forward` to ``grad_input``, ``(N, C, H, W)``."""
    bins = (aligned_height, aligned_width)
    if pool_mode == 1:
        # Into one map: that of a pyramid's first level is large, and there are many sizes of regions.
        total = full_precision(grad_input)
        for chosen, y, x, count in _places(rois, bins, spatial_scale, sampling_ratio, aligned):
            share = full_precision(grad_output[chosen]).flatten(2).repeat_interleave(count, 2) / count
            for image, of_image in _by_image(rois[chosen]):
                grad = share[of_image].transpose(0, 1).flatten(1)
                into = total[image].flatten(1)  # a view
                for index, weight in corners(y[of_image].flatten(), x[of_image].flatten(), *grad_input.shape[2:], True):
                    into.scatter_add_(1, index.expand_as(grad), (grad * weight).to(into.dtype))
        if total is not grad_input:
            grad_input.copy_(total)
        return
    for roi, y, x, grad in zip(rois, argmax_y, argmax_x, grad_output):
        # Every channel has its maximum elsewhere.
        image = grad_input[int(roi[0])]

        def maximum(features: Tensor, y: Tensor = y, x: Tensor = x) -> Tensor:
            return bilinear(features[:, None], y.flatten(1), x.flatten(1), border=True)[:, 0]

        image += gradients(maximum, [image], grad.flatten(1))[0]


def _places(rois: Tensor, bins: tuple, scale: float, ratio: int, aligned: bool):
    """Where regions are sampled: of those with equally many samples, their indices, rows and columns, and how many."""
    rois = full_precision(rois)
    start = rois[:, 1:3] * scale - (0.5 if aligned else 0)  # x, y
    size = rois[:, 3:5] * scale - (0.5 if aligned else 0) - start
    if not aligned:
        size = size.clamp(min=1)
    bin_size = size / rois.new_tensor([bins[1], bins[0]])
    counts = torch.full_like(bin_size, ratio) if ratio > 0 else bin_size.ceil().clamp(min=0)
    for count in counts.unique(dim=0):
        chosen = (counts == count).all(1).nonzero()[:, 0]
        nx, ny = (int(c) for c in count)
        if nx == 0 or ny == 0:
            continue
        ys = _grid(start[chosen, 1], bin_size[chosen, 1], bins[0], ny)  # (r, ph, ny)
        xs = _grid(start[chosen, 0], bin_size[chosen, 0], bins[1], nx)
        shape = (len(chosen), bins[0], bins[1], ny, nx)
        y = ys[:, :, None, :, None].expand(shape).flatten(1)
        x = xs[:, None, :, None, :].expand(shape).flatten(1)
        yield chosen, y, x, ny * nx


def _grid(start: Tensor, bin_size: Tensor, bins: int, count: int) -> Tensor:
    """Coordinates of the samples of every bin, ``(r, bins, count)``."""
    step = (torch.arange(count, device=start.device, dtype=start.dtype) + 0.5) / count
    place = torch.arange(bins, device=start.device, dtype=start.dtype)[:, None] + step
    return start[:, None, None] + place * bin_size[:, None, None]


def _sample(features: Tensor, rois: Tensor, y: Tensor, x: Tensor, count: int) -> Tensor:
    """Samples of regions, image by image, ``(r, C, bins, samples of a bin)``, of which there are ``count``."""
    dtype = torch.promote_types(features.dtype, y.dtype)
    parts = features.new_zeros(len(rois), features.shape[1], y.shape[1], dtype=dtype)
    for image, chosen in _by_image(rois):
        found = bilinear(features[image][None], y[chosen].reshape(1, -1), x[chosen].reshape(1, -1), border=True)
        parts = parts.index_copy(0, chosen, found[0].unflatten(1, (len(chosen), -1)).transpose(0, 1))
    return parts.unflatten(2, (-1, count))


def _by_image(rois: Tensor) -> Iterator[Tuple[int, Tensor]]:
    """The images that regions are in, with the indices of the regions in each."""
    images = rois[:, 0].long()
    for image in images.unique().tolist():
        yield image, (images == image).nonzero()[:, 0]


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Take the maximum of the pixels of every bin of a region (RoIPool).

    Args:
        input (Tensor): Features, ``(N, C, H, W)``.
        rois (Tensor): Image, ``x1, y1, x2, y2`` in pixels of the image, ``(R, 5)``.
        output (Tensor): Takes the result, ``(R, C, pooled_height, pooled_width)``.
        argmax (Tensor): Takes the places of the maxima in a map, -1 for empty bins, like ``output``.
        pooled_height (int): Rows of bins.
        pooled_width (int): Columns of bins.
        spatial_scale (float): Pixels of the feature over those of the image.
    """
    height, width = input.shape[2:]
    output.zero_(), argmax.fill_(-1)
    for r, roi in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (
            roi[1] * spatial_scale,
            roi[2] * spatial_scale,
            (roi[3] + 1) * spatial_scale,
            (roi[4] + 1) * spatial_scale,
        )
        if x2 <= x1 or y2 <= y1:
            continue
        rows, columns = _edges(y1, y2, pooled_height, height), _edges(x1, x2, pooled_width, width)
        for i, (top, bottom) in enumerate(rows):
            for j, (left, right) in enumerate(columns):
                if bottom > top and right > left:
                    part = input[int(roi[0]), :, top:bottom, left:right].flatten(1)
                    output[r, :, i, j], place = part.max(1)
                    argmax[r, :, i, j] = ((place // (right - left) + top) * width + place % (right - left) + left).to(
                        argmax.dtype
                    )


def _edges(start: float, end: float, bins: int, limit: int) -> list:
    size = (end - start) / bins
    edges = [(math.floor(i * size + start), math.ceil((i + 1) * size + start)) for i in range(bins)]
    return [(min(max(a, 0), limit), min(max(b, 0), limit)) for a, b in edges]


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient of :func:`roi_pool_forward` to ``grad_input``, ``(N, C, H, W)``."""
    for roi, place, grad in zip(rois, argmax.flatten(2).long(), grad_output.flatten(2)):
        grad_input[int(roi[0])].flatten(1).scatter_add_(1, place.clamp(min=0), grad * (place >= 0))
