"""Non-maximum suppression in plain torch, by the names and arguments of mmcv's compiled operators."""

import numpy as np
import torch
from torch import Tensor

_ROWS = 1024  # of the matrix of overlaps that are held at a time


def nms(bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Suppress boxes that overlap one of a higher score by more than a threshold.

    Args:
        bboxes (Tensor): ``x1, y1, x2, y2`` in pixels, ``(N, 4)``.
        scores (Tensor): ``(N, )``.
        iou_threshold (float): Of the intersection over the union.
        offset (int): 1 where a box of one pixel has equal corners, otherwise 0.

    Returns:
        Tensor: Indices of what is kept, the highest score first, ``(K, )``.
    """
    order = scores.sort(descending=True, stable=True)[1]
    boxes = bboxes[order]
    removed = np.zeros(len(order), dtype=bool)
    for start in range(0, len(order), _ROWS):
        # What is removed already removes nothing, and a box none of a higher score.
        rows = np.flatnonzero(~removed[start : start + _ROWS])
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
        iou_threshold (float): From which on 'naive' and 'linear' change a score.
        sigma (float): Of the method 'gaussian'.
        min_score (float): What falls below is left out.
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
    """Intersections over unions, ``(A, B)``."""
    width, height = (
        (torch.min(a[:, None, i + 2], b[:, i + 2]) - torch.max(a[:, None, i], b[:, i]) + offset).clamp_(min=0)
        for i in (0, 1)
    )
    inter = width.mul_(height)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2] + offset).prod(1) for boxes in (a, b))
    return inter / (area_a[:, None] + area_b[None] - inter)
