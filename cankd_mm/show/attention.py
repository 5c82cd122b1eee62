"""Where single pixels of the student look, over the teacher's image."""

from typing import List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from cankd_mm.errors import SetupError
from cankd_mm.show.features import Level

Point = Tuple[float, float]
# What a block adds, over its input, below which it counts as the identity that it starts from.
IDENTITY = 1e-3


class Look(NamedTuple):
    """What one pixel of the student looks at, and what comes of it.

    Args:
        pixel (tuple[int, int]): Row and column in the student's feature.
        affinity (Tensor): Over the teacher's pooled feature, ``(H, W)``.
        top_tenth (float): The share of its size on the tenth of the pixels where it is largest, 0.1 if equal.
        added (float): The size of what the block adds there, over that of its input.
    """

    pixel: Tuple[int, int]
    affinity: Tensor
    top_tenth: float
    added: float


@torch.no_grad()
def looks(level: Level, points: Sequence[Point], size: Tuple[int, int]) -> List[Look]:
    """Look through a level's block from points of the image.

    Args:
        level (Level): A level with a block.
        points (Sequence[tuple[float, float]]): Points of the model's input, as x and y in pixels.
        size (tuple[int, int]): Height and width of that input.

    Returns:
        list[Look]: One for each point.
    """
    height, width = level.student.shape[2:]
    pixels = [(min(int(y * height / size[0]), height - 1), min(int(x * width / size[1]), width - 1)) for x, y in points]
    added = added_by(level)
    found = []
    for pixel in pixels:  # one row of the matrix at a time
        affinity = level.block.affinity(level.student, level.teacher, [pixel])[0].float()
        sizes = affinity.abs().flatten().sort(descending=True).values
        tenth = max(round(len(sizes) / 10), 1)
        share = float(sizes[:tenth].sum() / sizes.sum()) if sizes.sum() > 0 else tenth / len(sizes)
        found.append(Look(pixel, affinity, share, float(added[pixel])))
    return found


@torch.no_grad()
def added_by(level: Level) -> Tensor:
    """Measure what a block adds to its input.

    Args:
        level (Level): A level with a block.

    Returns:
        Tensor: ``|BN(W y)| / |x|`` of every pixel, ``(H, W)``.
    """
    z = level.block(level.student, level.teacher)
    added = z - level.student if level.block.residual else z
    return added.norm(dim=1)[0] / level.student.norm(dim=1)[0].clamp(min=1e-12)


def points_of(sample: BaseDataElement, shape: Tuple[int, int], count: int = 3) -> List[Point]:
    """Choose points to look from: the centres of the largest objects, or of a grid where there are none.

    Args:
        sample (BaseDataElement): The image's annotations, where it has any.
        shape (tuple[int, int]): Height and width of the image.
        count (int): How many. Defaults to 3.

    Returns:
        list[tuple[float, float]]: Points of the image, as x and y in pixels.
    """
    found = []
    if 'gt_instances' in sample and len(sample.gt_instances):
        boxes = sample.gt_instances.bboxes
        boxes = torch.as_tensor(getattr(boxes, 'tensor', boxes))[:, :4]
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        for x1, y1, x2, y2 in boxes[areas.argsort(descending=True)[:count]].tolist():
            found.append(((x1 + x2) / 2, (y1 + y2) / 2))
    elif 'gt_sem_seg' in sample:
        found = _middles(sample.gt_sem_seg.data.squeeze().numpy(), count)
    height, width = shape
    grid = [(width * x / 4, height * y / 4) for x, y in ((2, 2), (1, 1), (3, 3), (3, 1), (1, 3))]
    return (found or grid)[:count]


def _middles(labels: np.ndarray, count: int) -> List[Point]:
    """The innermost pixel of the largest region of each of the classes that have the largest ones."""
    regions = []
    for label in np.unique(labels[labels != 255]):
        _, ids, stats, _ = cv2.connectedComponentsWithStats((labels == label).astype(np.uint8))
        largest = 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
        inside = np.pad((ids == largest).astype(np.uint8), 1)
        y, x = np.unravel_index(cv2.distanceTransform(inside, cv2.DIST_L2, 5).argmax(), inside.shape)
        regions.append((stats[largest, cv2.CC_STAT_AREA], (float(x) - 0.5, float(y) - 0.5)))
    return [point for _, point in sorted(regions, reverse=True)[:count]]


def to_input(point: Point, sample: BaseDataElement) -> Point:
    """Take a point of the image to the model's input.

    Args:
        point (tuple[float, float]): x and y in pixels of the image file.
        sample (BaseDataElement): What the pipeline says of the image.

    Returns:
        tuple[float, float]: x and y in pixels of the input.
    """
    (height, width), (new_height, new_width) = sample.metainfo['ori_shape'][:2], sample.metainfo['img_shape'][:2]
    return point[0] * new_width / width, point[1] * new_height / height


def check_point(point: Optional[Point], sample: BaseDataElement) -> None:
    """Check that a point that a user gave lies on an image.

    Args:
        point (tuple[float, float], optional): x and y in pixels.
        sample (BaseDataElement): What the pipeline says of the image.

    Raises:
        SetupError: If it does not.
    """
    height, width = sample.metainfo['ori_shape'][:2]
    if point is not None and not (0 <= point[0] < width and 0 <= point[1] < height):
        raise SetupError(
            f'The point x={point[0]:g}, y={point[1]:g} lies outside of {sample.metainfo.get("img_path")!r}, which has '
            f'{width}x{height} pixels: give --at a point inside, or images that have it.'
        )
