"""Rate a student where there are no labels: by the predictions of its teacher, which count as true."""

import hashlib
import time
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.fileio import load
from mmengine.logging import print_log

from cankd_mm.apis.data import inner_datasets
from cankd_mm.apis.label import label
from cankd_mm.apis.label_files import LABELS, LOCK, is_empty, table
from cankd_mm.config.metric import AGAINST_TEACHER
from cankd_mm.config.pair import is_distillation, without_labels
from cankd_mm.config.read import read_config
from cankd_mm.errors import SetupError
from cankd_mm.stack.machine import process_rank
from cankd_mm.work_dir import is_locked

_SECONDS = 2.0  # between two looks at whether the labels are there
_PATIENCE = 1800.0  # seconds without a sign of who makes them, as long as torch has processes wait for each other


def rate_against_teacher(cfg: Config, config: str, split: str, images: str) -> None:
    """Have the teacher of a pair label images, and the config's ``'val'`` or ``'test'`` rate on these labels.

    They are those of :func:`label`, in ``teacher_labels_...`` of the work folder, for these images and weights, or of
    the folder above, where a search has them for all of its trainings. Metrics get the prefix ``against_teacher``.
    Where several processes train, the first one labels and the others wait.
    """
    weights = cfg.model.get('teacher_ckpt')
    changed = Path(weights).stat().st_mtime if weights and Path(weights).is_file() else 0
    name = f'{Path(images).absolute()} {weights} {changed}'
    name = f'teacher_labels_{hashlib.sha256(name.encode()).hexdigest()[:8]}'
    waits, folder = cfg.get('launcher', 'none') != 'none' and process_rank(), Path(cfg.work_dir).parent / name
    if not _are_whole(folder):
        folder = Path(cfg.work_dir) / name
        _wait_for(folder) if waits else label(config, images, str(folder), weights)
    found = load(str(folder / LABELS))
    if not waits:
        print_log(f'The labels of the teacher, in {str(folder)!r}:\n{table(found)}', 'current')
    if is_empty(found):
        problem = f'The teacher finds nothing that it is sure of on {images!r}'
        raise SetupError(f'{problem}: give other images, or its own.')
    loader, key = cfg[f'{split}_dataloader'], f'{split}_evaluator'
    own, data = next(inner_datasets(loader.dataset)), read_config(str(folder / 'data.py')).data
    loader.dataset = ConfigDict(data, pipeline=own.pipeline, test_mode=True)
    given = cfg[key][0] if isinstance(cfg[key], list) else cfg[key]
    of_boxes = dict(type='CocoMetric', ann_file=str(folder / str(data.get('ann_file'))), metric='bbox')
    of_pixels = dict(type='IoUMetric', iou_metrics=given.get('iou_metrics', ['mIoU']))
    evaluator = of_boxes if cfg.get('default_scope') == 'mmdet' else of_pixels
    cfg[key] = ConfigDict(evaluator, prefix=AGAINST_TEACHER)


def _are_whole(folder: Path) -> bool:
    return (folder / LABELS).exists() and 'counts' in load(str(folder / LABELS))


def _wait_for(folder: Path) -> None:
    """Wait for the labels of the first process, as long as it holds their folder or writes into it."""
    since, before = time.monotonic(), 0.0
    while not _are_whole(folder):  # hidden is the lock, which a look may touch
        changed = max((path.stat().st_mtime for path in folder.glob('[!.]*')), default=0.0)
        if changed != before or is_locked(folder / LOCK):
            since, before = time.monotonic(), changed
        if time.monotonic() - since > _PATIENCE:
            problem = f'The first process no longer labels images in {str(folder)!r}, for which this one waits'
            raise SetupError(f'{problem}: see what that one said last.')
        time.sleep(_SECONDS)


def rate_unlabeled(cfg: Config, config: str, *splits: str) -> None:
    """Have those of some splits whose images have no labels rate by :func:`rate_against_teacher`."""
    for split in splits:
        if not without_labels(cfg, split):
            continue
        if not is_distillation(cfg):
            problem = f'{config!r} rates on images without labels, and has no teacher whose predictions count'
            raise SetupError(f'{problem}: give the config of a pair, or a {split}_dataloader with labels.')
        images = next(inner_datasets(cfg[f'{split}_dataloader'].dataset)).images
        rate_against_teacher(cfg, config, split, images)
