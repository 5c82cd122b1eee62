"""A picture of what came out of the demo."""

from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mmcv.ops import nms
from mmdet.structures.bbox import bbox_overlaps

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


def picture(predictions: Dict[str, Dict[str, List[dict]]], path: Path) -> None:
    """Draw validation scenes with the ground truth, the student alone and the distilled student below each other.

    Detected digits are green where they are right (IoU of 0.5) and red where they are not.

    Args:
        predictions (dict): Per task, the predictions of its first scenes by the row's title.
        path (Path): The JPEG file to write.
    """
    loaded = {
        task: {title: _by_scene(found) for title, found in by_title.items()} for task, by_title in predictions.items()
    }
    scenes = min(len(found) for by_title in loaded.values() for found in by_title.values())
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
