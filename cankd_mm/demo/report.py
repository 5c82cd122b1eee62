"""A picture of what came out of the demo."""

from pathlib import Path
from typing import Dict, List, Optional

import numpy as np
import torch
from mmcv.ops import nms
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from cankd_mm.config.read import load_config
from cankd_mm.demo.scenes import CLASSES, Scene, SceneComposer
from cankd_mm.show.page import grid
from cankd_mm.show.predictions import draw

_SIDE = 160  # pixels of a scene in the picture
_VERDICTS = dict(classes=('there', 'wrong', 'right'), palette=[(255, 255, 255), (255, 0, 0), (0, 255, 0)])


def picture(predictions: Dict[str, Dict[str, List[dict]]], path: Path) -> None:
    """Draw the first validation scenes of each task, with a row for the ground truth and for each title's predictions.

    Detected digits are green where right (IoU of 0.5) and red elsewhere; segmented ones have the colour of their class.
    """
    count = min(len(samples) for by_title in predictions.values() for samples in by_title.values())
    strips = []
    for task, by_title in predictions.items():
        if task == 'detection':
            compose, annotate, scope, meta = SceneComposer('val'), _boxes, 'mmdet', _VERDICTS
        else:
            meta = load_config('cankd_mm::demo/fpn-r18w16_digits300.py').metainfo
            compose, annotate, scope = SceneComposer('val', cards=True), _regions, 'mmseg'
        scenes = [compose(number) for number in range(count)]
        for title, samples in {f'{task}: ground truth': [None] * count, **by_title}.items():
            shown = [(scene.image[..., ::-1], annotate(scene, sample)) for scene, sample in zip(scenes, samples)]
            drawn = [draw(*pair, scope, meta, truth=True, side=_SIDE) for pair in shown]
            strips.append(grid([drawn], [title, *[''] * (count - 1)], _SIDE))
    Image.fromarray(np.concatenate(strips)).save(path, quality=88)


def _boxes(scene: Scene, found: Optional[dict]) -> DetDataSample:
    """The digits that are there or, of those found with a score above 0.3 on one place, the surest."""
    boxes, digits = torch.tensor(scene.boxes, dtype=torch.float32), torch.tensor(scene.labels)
    boxes[:, 2:] += boxes[:, :2]
    verdicts = torch.zeros_like(digits)
    if found is not None:
        truth, sure = (boxes, digits), found['pred_instances']['scores'] > 0.3
        boxes, scores, digits = (found['pred_instances'][key][sure] for key in ('bboxes', 'scores', 'labels'))
        _, keep = nms(boxes, scores, iou_threshold=0.5)  # detectors suppress within a class only
        boxes, digits = boxes[keep], digits[keep]
        verdicts = 1 + ((bbox_overlaps(boxes, truth[0]) > 0.5) & (digits[:, None] == truth[1])).any(1).long()
    names = [CLASSES[digit] for digit in digits]
    return DetDataSample(gt_instances=InstanceData(bboxes=boxes, labels=verdicts, label_names=names))


def _regions(scene: Scene, found: Optional[dict]) -> SegDataSample:
    labels = torch.from_numpy(scene.label_map)[None] if found is None else found['pred_sem_seg']['data']
    return SegDataSample(gt_sem_seg=PixelData(data=labels))
