"""Where the block looks: single pixels of the student over the teacher's image, and what the block adds."""

from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from cankd_mm.errors import SetupError
from cankd_mm.show.features import FeaturePair, feature_pairs
from cankd_mm.show.page import Picture, Section, Table
from cankd_mm.show.pictures import heat, shrunk
from cankd_mm.show.samples import Sample
from cankd_mm.show.stages import AFTER, Stages

Point = Tuple[float, float]
_POINTS = 3  # of an image
# A block that adds less than this share of its input counts as the identity that it starts from.
_IDENTITY = 1e-3


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


def section(stages: Stages, chosen: Sequence[Sample], at: Optional[Point] = None) -> Section:
    """Show where single pixels of the student look in the teacher, and what the blocks add.

    Args:
        stages (Stages): The pair.
        chosen (Sequence[Sample]): The images.
        at (tuple[float, float], optional): x and y in pixels of the image. Defaults to None, the centres of the
            largest objects.

    Returns:
        Section: A table, and pictures of every level with a block.
    """
    model = stages.at(AFTER)
    found: Dict[str, List[Tuple[float, List[Look]]]] = {}
    rows: Dict[str, list] = {}
    blocks = {}
    for sample in chosen:
        image, pairs = feature_pairs(model, sample)
        size, shown = image.shape[:2], shrunk(image)
        original = sample.annotations.metainfo['ori_shape'][:2]
        points = [at] if at else points_of(sample.annotations, original)
        resized = sample.annotations.metainfo['img_shape'][:2]
        points = [(x * resized[1] / original[1], y * resized[0] / original[0]) for x, y in points]
        for name, pair in pairs.items():
            if pair.block is None:
                continue
            blocks[name], added, seen = pair.block, added_by(pair), looks(pair, points, size)
            found.setdefault(name, []).append((float(added.mean()), seen))
            marked = [_marked(*heat([look.affinity], image), point, size) for look, point in zip(seen, points)]
            gaps = [None] * (_POINTS - len(marked))
            rows.setdefault(name, []).append([shown, *marked, *gaps, *heat([added], image)])
    if not blocks:
        return Section('Where the block looks', ['No level of this training has a Can block.'])
    words, table, drawn = [], [], []
    for name, block in blocks.items():
        gate = block.bn.weight.abs().mean().item()
        all_looks = [look for _, seen in found[name] for look in seen]
        added = float(np.mean([mean for mean, _ in found[name]]))
        there = float(np.mean([look.added for look in all_looks]))
        top = float(np.mean([look.top_tenth for look in all_looks]))
        if added < _IDENTITY:
            words.append(
                f'The block of {name} has stayed the identity: it adds {added:.1e} of what comes in, and its gate, '
                f'which starts at 0, is {gate:.1e}.'
            )
        table.append([name, f'{gate:.4f}', f'{100 * added:.2f} %', f'{100 * there:.2f} %', f'{100 * top:.0f} %'])
        meaning = (
            f"Level {name}, affinity {block.mode}: what each marked pixel looks at in the teacher's map, on a scale of "
            'its own, red is most; at the right, how much the block adds to every pixel.'
        )
        titles = ['input', *['from the cross'] * _POINTS, 'what the block adds']
        drawn.append(Picture(f'{name}_attention', meaning, rows[name], titles))
    heads = ['level', 'gate', 'added, all pixels', 'added, marked pixels', 'affinity on a tenth of the pixels']
    meaning = (
        "The gate is the mean size of the weight of the block's batch norm, 0 in the block that is the identity. Added "
        'is |BN(W y)| / |x|, what the block adds over what comes in. The last figure is how much of the affinity of a '
        'marked pixel lies on the tenth of the teacher where it is largest: 10 % if it looks everywhere alike.'
    )
    return Section('Where the block looks', words, [Table(heads, table, meaning)], drawn)


@torch.no_grad()
def looks(pair: FeaturePair, points: Sequence[Point], size: Tuple[int, int]) -> List[Look]:
    """Look through a level's block from points of the image.

    Args:
        pair (FeaturePair): The features of a level with a block.
        points (Sequence[tuple[float, float]]): Points of the model's input, as x and y in pixels.
        size (tuple[int, int]): Height and width of that input.

    Returns:
        list[Look]: One for each point.
    """
    height, width = pair.student.shape[2:]
    pixels = [(min(int(y * height / size[0]), height - 1), min(int(x * width / size[1]), width - 1)) for x, y in points]
    added = added_by(pair)
    found = []
    for pixel in pixels:  # one row of the matrix at a time
        affinity = pair.block.affinity(pair.student, pair.teacher, [pixel])[0].float()
        sizes = affinity.abs().flatten().sort(descending=True).values
        tenth = max(round(len(sizes) / 10), 1)
        share = float(sizes[:tenth].sum() / sizes.sum()) if sizes.sum() > 0 else tenth / len(sizes)
        found.append(Look(pixel, affinity, share, float(added[pixel])))
    return found


@torch.no_grad()
def added_by(pair: FeaturePair) -> Tensor:
    """Measure what a level's block adds to its input: ``|BN(W y)| / |x|`` of every pixel, ``(H, W)``."""
    z = pair.block(pair.student, pair.teacher)
    added = z - pair.student if pair.block.residual else z
    return added.norm(dim=1)[0] / pair.student.norm(dim=1)[0].clamp(min=1e-12)


def points_of(sample: BaseDataElement, shape: Tuple[int, int], count: int = _POINTS) -> List[Point]:
    """Choose points to look from: the centres of the largest objects, or of a grid where there are none.

    Args:
        sample (BaseDataElement): The image's annotations, where it has any.
        shape (tuple[int, int]): Height and width of the image.
        count (int): How many at most. Defaults to 3.

    Returns:
        list[tuple[float, float]]: Points of the image, as x and y in pixels.
    """
    found = []
    if 'gt_instances' in sample and len(sample.gt_instances):
        boxes = sample.gt_instances.bboxes
        boxes = torch.as_tensor(getattr(boxes, 'tensor', boxes))[:, :4]
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        largest = boxes[areas.argsort(descending=True)[:count]].tolist()
        found = [((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in largest]
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


def _marked(picture: np.ndarray, point: Point, size: Tuple[int, int]) -> np.ndarray:
    """Mark a point of an image of this size on a picture of it."""
    at = int(point[0] * picture.shape[1] / size[1]), int(point[1] * picture.shape[0] / size[0])
    for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 2)):
        cv2.drawMarker(picture, at, colour, cv2.MARKER_CROSS, 18, thickness, cv2.LINE_AA)
    return picture


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
