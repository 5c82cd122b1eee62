"""What came out of the demo: figures as JSON and as a table, and a picture to look at."""

import platform
import statistics
from importlib import metadata
from pathlib import Path
from typing import Dict, List

import matplotlib
import numpy as np
import torch
from mmengine.fileio import dump, load
from mmengine.model.utils import revert_sync_batchnorm
from torch import nn

from cankd_mm.demo.scenes import CLASSES, SceneComposer

matplotlib.use('Agg')

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


def machine() -> Dict[str, object]:
    """Describe the machine and the versions that the figures were measured on.

    Returns:
        dict: Processor, accelerators and versions.
    """
    processor = next(
        (line.split(':')[1].strip() for line in _lines('/proc/cpuinfo') if line.startswith('model name')),
        platform.processor(),
    )
    packages = ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmsegmentation', 'mmrazor', 'numpy', 'cankd-mm')
    return dict(
        processor=processor,
        threads=torch.get_num_threads(),
        accelerators=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        python=platform.python_version(),
        versions={name: metadata.version(name) for name in packages},
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

    Args:
        predictions (dict): Per task, the pickled predictions by the row's title.
        path (Path): The PNG file to write.
        scenes (int): How many scenes a task shows. Defaults to 8.
    """
    from matplotlib import pyplot as plt

    loaded = {
        task: {title: _by_scene(load(file)) for title, file in by_title.items()}
        for task, by_title in predictions.items()
    }
    scenes = min([scenes, *(len(found) for by_title in loaded.values() for found in by_title.values())])
    rows = sum(1 + len(by_title) for by_title in predictions.values())
    figure, axes = plt.subplots(rows, scenes, figsize=(1.6 * scenes, 1.6 * rows + 0.2 * rows), squeeze=False)
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
                    _draw_boxes(axis, *(_true_boxes(scene) if found is None else _found_boxes(found[column])))
                axis.set_axis_off()
            axes[row][0].set_title(title, loc='left', fontsize=11)
            row += 1
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.005, top=0.97, wspace=0.03, hspace=0.2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=75)
    plt.close(figure)


def write_json(results: dict, path: Path) -> None:
    """Write the results.

    Args:
        results (dict): The results.
        path (Path): The file.
    """
    dump(results, str(path), indent=2)


def _by_scene(samples: List[dict]) -> Dict[int, dict]:
    return {int(Path(sample['img_path']).name[:4]): sample for sample in samples}


def _true_boxes(scene):
    return [(*box, '#ffffff') for box in scene.boxes], [str(label) for label in scene.labels]


def _found_boxes(sample, threshold: float = 0.3):
    found = sample['pred_instances']
    keep = found['scores'] > threshold
    colours = [matplotlib.colors.to_hex(PALETTE[label + 1] / 255) for label in found['labels'][keep].tolist()]
    boxes = [
        (x, y, right - x, bottom - y, colour)
        for (x, y, right, bottom), colour in zip(found['bboxes'][keep].tolist(), colours)
    ]
    return boxes, [CLASSES[label] for label in found['labels'][keep].tolist()]


def _draw_boxes(axis, boxes, names) -> None:
    from matplotlib.patches import Rectangle

    for (x, y, width, height, colour), name in zip(boxes, names):
        axis.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=colour, linewidth=1.5))
        axis.text(
            x + 1,
            y - 2,
            name,
            fontsize=8,
            color='black',
            va='bottom',
            bbox=dict(facecolor=colour, edgecolor='none', pad=0.8),
        )


def _name_regions(axis, labels: np.ndarray) -> None:
    import cv2

    for label in np.unique(labels[labels > 0]):
        _, _, stats, centres = cv2.connectedComponentsWithStats((labels == label).astype(np.uint8))
        for (_, _, _, _, area), (x, y) in list(zip(stats, centres))[1:]:
            if area > 80:
                axis.text(x, y, CLASSES[label - 1], fontsize=9, color='white', ha='center', va='center', weight='bold')


def _lines(path: str) -> List[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
