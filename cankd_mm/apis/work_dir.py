"""What MMEngine leaves in a work folder."""

import json
import statistics
from pathlib import Path
from typing import List, Optional

from mmengine.fileio import load

USAGE = 'usage.json'  # where the one who runs a training notes its memory

_STUDENT = 'student/'

# What the evaluators of MMDetection and MMSegmentation call a metric, and what makes per cent of it.
METRICS = {'box AP': ('coco/bbox_mAP', 100), 'mIoU': ('mIoU', 1), 'VOC mAP': ('pascal_voc/mAP', 100)}


def read_scalars(work_dir: Path) -> List[dict]:
    """Read the scalars that MMEngine has logged of a training, over all its resumptions.

    Args:
        work_dir (Path): The work folder.

    Returns:
        list[dict]: One entry per logged step and per validation, in order.
    """
    entries = []
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # the line that is being written
                continue
            # Before 0.2 a distillation reported its student's metrics under a prefix.
            entries.append({key[len(_STUDENT) :] if key.startswith(_STUDENT) else key: entry[key] for key in entry})
    return entries


def last_checkpoint(work_dir: Path) -> Optional[Path]:
    """Find the checkpoint that was written last, and completely.

    Args:
        work_dir (Path): The work folder.

    Returns:
        Path | None: The checkpoint, None where there is none.
    """
    # MMEngine names a checkpoint here when it is written.
    pointer = work_dir / 'last_checkpoint'
    if not pointer.exists():
        return None
    checkpoint = work_dir / Path(pointer.read_text().strip()).name
    return checkpoint if checkpoint.is_file() else None


def final_checkpoint(train_cfg: dict) -> str:
    """Name the checkpoint that a training ends with.

    Args:
        train_cfg (dict): Of the config.

    Returns:
        str: ``epoch_<max_epochs>.pth`` or ``iter_<max_iters>.pth``.
    """
    if train_cfg.get('max_epochs') is not None:
        return f'epoch_{train_cfg["max_epochs"]}.pth'
    return f'iter_{train_cfg["max_iters"]}.pth'


def is_finished(work_dir: Path, train_cfg: dict) -> bool:
    """Tell whether a training has completely written its last checkpoint.

    Args:
        work_dir (Path): Its work folder.
        train_cfg (dict): Of its config.

    Returns:
        bool: Whether it has.
    """
    checkpoint = last_checkpoint(work_dir)
    return checkpoint is not None and checkpoint.name == final_checkpoint(train_cfg)


def seconds_per_step(work_dir: Path) -> Optional[float]:
    """Take the median of the logged times of an iteration.

    Args:
        work_dir (Path): A training's work folder.

    Returns:
        float | None: Seconds, data loading included; None where nothing was logged.
    """
    times = [entry['time'] for entry in read_scalars(work_dir) if 'loss' in entry and 'time' in entry]
    return round(statistics.median(times), 4) if times else None


def peak_memory(work_dir: Path) -> Optional[float]:
    """Look up how much memory a training took at most.

    Args:
        work_dir (Path): The work folder of a training that :func:`run_jobs` ran.

    Returns:
        float | None: Megabytes: of the GPU where it ran on one, of the whole process otherwise; None where unknown.
    """
    of_gpu = [entry['memory'] for entry in read_scalars(work_dir) if 'memory' in entry]
    if of_gpu:
        return float(max(of_gpu))
    usage = work_dir / USAGE
    return load(str(usage))['peak_mb'] if usage.exists() else None
