"""Which steps of a pipeline an image without labels goes through."""

import copy
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, Optional

import cv2
import numpy as np
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope

from cankd_mm.config.types import type_name
from cankd_mm.errors import SetupError
from cankd_mm.models.utils import untouched_generators

_TRIALS = 20  # as many steps draw whether they do something
_SIZE = 240, 320


def running(steps: list, scope: Optional[str], left_out: List[str]) -> list:
    """Leave out steps that an image without labels does not go through."""
    with _image(scope) as path:
        while True:
            failing = _failing(steps, dict(img_path=path, img_id=0, seg_fields=[]), _TRIALS)
            if failing is None:
                return steps
            if failing == 0:
                problem = 'is the first step of its training pipeline, and loads no image from a file'
                raise SetupError(f"The student's {type_name(steps[0])} {problem}: begin with LoadImageFromFile.")
            left_out.append(type_name(steps[failing]))
            steps = [step for number, step in enumerate(steps) if number != failing]


def needing_labels(steps: list, scope: Optional[str], info: dict) -> List[int]:
    """List the numbers of the steps that run with labels and not without, by what is said of each image."""
    left = list(range(len(steps)))
    with _image(scope) as path:
        info = dict(info, img_path=path, img_id=path)
        labelled = dict(info, **_labels(scope))
        while True:
            run = [steps[number] for number in left]
            failing, still = _failing(run, info, 1), _failing(run, labelled, 1)
            if failing is None or still is not None and still <= failing:  # the first image tells other reasons
                return [number for number in range(len(steps)) if number not in left]
            del left[failing]


def _labels(scope: Optional[str]) -> dict:
    """What an image has where nothing is on it."""
    labels = dict(gt_seg_map=np.zeros(_SIZE, np.uint8))
    if scope == 'mmdet':
        from mmdet.structures.bbox import HorizontalBoxes

        none = np.zeros(0, int)
        labels.update(gt_bboxes=HorizontalBoxes(np.zeros((0, 4), np.float32)), gt_bboxes_labels=none)
        labels.update(gt_ignore_flags=none.astype(bool))
    return labels


@contextmanager
def _image(scope: Optional[str]) -> Iterator[str]:
    """Write an image to try steps on, and leave no trace."""
    with tempfile.TemporaryDirectory() as folder, untouched_generators(), DefaultScope.overwrite_default_scope(scope):
        path = str(Path(folder) / 'image.png')
        cv2.imwrite(path, np.random.default_rng(0).integers(0, 255, (*_SIZE, 3), np.uint8))
        yield path


def _failing(steps: list, info: dict, trials: int) -> Optional[int]:
    """Find the first step that fails in some trials; None where an image goes through all."""
    run = [Compose([step]) for step in steps]
    for _ in range(trials):
        results = copy.deepcopy(info)
        for number, step in enumerate(run):
            try:
                results = step(results)
            except Exception:  # whatever a step makes of labels that are not there
                return number
    return None
