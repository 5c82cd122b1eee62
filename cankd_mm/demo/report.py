"""What came out of the demo: figures as JSON and as a table, and a picture to look at."""

import statistics
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mmcv.ops import nms
from mmdet.structures.bbox import bbox_overlaps
from mmengine.fileio import load
from mmengine.model.utils import revert_sync_batchnorm
from torch import nn

from cankd_mm.demo.scenes import CLASSES, Scene, SceneComposer

PALETTE = np.array(
    [
        [0, 0, 0],
        [230, 25, 75],
        [60, 180, 75],
        [255, 225, 25],
        [0, 130, 200],
        [245, 130, 48],
        [145, 30, 180],
        [70, 240, 240],
        [240, 50, 230],
        [210, 245, 60],
        [0, 128, 128],
    ]
)


def table(rows: List[dict]) -> str:
    """Lay out results as Markdown, one row per kind of training with the mean and the spread over its seeds.

    Args:
        rows (list[dict]): One entry per training, with ``task``, ``kind``, ``seed``, ``metric``, ``value``,
            ``parameters`` and ``seconds_per_step``.

    Returns:
        str: The table.
    """
    lines = [
        '| task | model | metric | per seed | mean | std | parameters | s/step |',
        '|---|---|---|---|---|---|---|---|',
    ]
    groups: Dict[tuple, List[dict]] = {}
    for row in rows:
        groups.setdefault((row['task'], row['kind']), []).append(row)
    for (task, kind), group in groups.items():
        values = [row['value'] for row in group]
        spread = f'{statistics.stdev(values):.1f}' if len(values) > 1 else ''
        seconds = statistics.median(row['seconds_per_step'] for row in group)
        lines.append(
            f'| {task} | {kind} | {group[0]["metric"]} | {" ".join(f"{v:.1f}" for v in values)} | '
            f'{statistics.mean(values):.1f} | {spread} | {group[0]["parameters"] / 1e6:.2f} M | {seconds:.2f} |'
        )
    return '\n'.join(lines)


def count_parameters(model: nn.Module) -> int:
    """Count a model's parameters.

    Args:
        model (nn.Module): The model.

    Returns:
        int: The number.
    """
    return sum(p.numel() for p in revert_sync_batchnorm(model).parameters())


def picture(predictions: Dict[str, Dict[str, str]], path: Path, scenes: int = 8) -> None:
    """Draw validation scenes with the ground truth, the student alone and the distilled student below each other.

    Detected digits are green where they are right (IoU of 0.5) and red where they are not.

    Args:
        predictions (dict): Per task, the pickled predictions by the row's title.
        path (Path): The JPEG file to write.
        scenes (int): How many scenes a task shows. Defaults to 8.
    """
    loaded = {
        task: {title: _by_scene(load(file)) for title, file in by_title.items()}
        for task, by_title in predictions.items()
    }
    scenes = min([scenes, *(len(found) for by_title in loaded.values() for found in by_title.values())])
    rows = sum(1 + len(by_title) for by_title in predictions.values())
    # A Figure of its own, without pyplot: nothing of a user's matplotlib session changes.
    figure = Figure(figsize=(1.6 * scenes, 1.8 * rows))
    axes = figure.subplots(rows, scenes, squeeze=False)
    row = 0
    for task, by_title in loaded.items():
        compose = SceneComposer('val', cards=task == 'segmentation')
        truth = [compose(i) for i in range(scenes)]
        for title, found in {f'{task}: ground truth': None, **by_title}.items():
            for column, (axis, scene) in enumerate(zip(axes[row], truth)):
                axis.imshow(scene.image[..., ::-1])
                if task == 'segmentation':
                    labels = (
                        scene.label_map if found is None else found[column]['pred_sem_seg']['data'].squeeze().numpy()
                    )
                    axis.imshow(np.dstack([PALETTE[labels] / 255, np.where(labels > 0, 0.75, 0)]))
                    _name_regions(axis, labels)
                else:
                    _draw_boxes(axis, _true_boxes(scene) if found is None else _found_boxes(found[column], scene))
                axis.set_axis_off()
            axes[row][0].set_title(title, loc='left', fontsize=11)
            row += 1
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.005, top=1 - 0.2 / (1.8 * rows), wspace=0.03, hspace=0.2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, pil_kwargs=dict(quality=88))


def _by_scene(samples: List[dict]) -> Dict[int, dict]:
    return {int(Path(sample['img_path']).name[:4]): sample for sample in samples}


def _true_boxes(scene: Scene) -> List[Tuple[Sequence[float], int, str]]:
    return [(box, label, 'white') for box, label in zip(scene.boxes, scene.labels)]


def _found_boxes(sample: dict, scene: Scene, threshold: float = 0.3) -> List[Tuple[Sequence[float], int, str]]:
    """Boxes above a score, of those on one place the surest; green where such a digit stands there, red elsewhere."""
    sure = sample['pred_instances']['scores'] > threshold
    found = {key: sample['pred_instances'][key][sure] for key in ('bboxes', 'scores', 'labels')}
    # Detectors suppress within a class only: a doubtful second name would be drawn over the first.
    _, keep = nms(found['bboxes'], found['scores'], iou_threshold=0.5)
    boxes, labels = found['bboxes'][keep], found['labels'][keep]
    truth = torch.tensor(scene.boxes, dtype=boxes.dtype)
    truth[:, 2:] += truth[:, :2]
    right = (bbox_overlaps(boxes, truth) > 0.5) & (labels[:, None] == torch.tensor(scene.labels))
    return [
        ((x, y, x2 - x, y2 - y), label, 'lime' if hit else 'red')
        for (x, y, x2, y2), label, hit in zip(boxes.tolist(), labels.tolist(), right.any(1).tolist())
    ]


def _draw_boxes(axis, boxes: List[Tuple[Sequence[float], int, str]]) -> None:
    for (x, y, width, height), label, colour in boxes:
        axis.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=colour, linewidth=1.5))
        axis.text(x + 1, y - 2, CLASSES[label], fontsize=8, va='bottom', bbox=dict(fc=colour, ec='none', pad=0.8))


def _name_regions(axis, labels: np.ndarray) -> None:
    for label in np.unique(labels[labels > 0]):
        _, _, stats, centres = cv2.connectedComponentsWithStats((labels == label).astype(np.uint8))
        for (_, _, _, _, area), (x, y) in list(zip(stats, centres))[1:]:
            if area > 80:
                axis.text(x, y, CLASSES[label - 1], fontsize=9, color='white', ha='center', va='center', weight='bold')
