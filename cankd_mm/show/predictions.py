"""What a model predicts: pictures by the libraries' own visualizers, and figures for each class."""

import copy
import io
from collections import defaultdict
from contextlib import redirect_stdout
from typing import Dict, List, NamedTuple, Sequence

import numpy as np
import torch
from matplotlib.colors import hsv_to_rgb
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, VISUALIZERS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor

from cankd_mm.apis.data import innermost
from cankd_mm.config.types import type_name
from cankd_mm.models.utils import quiet
from cankd_mm.show.page import shrunk

SIDE = 480  # pixels of a picture's longer side


class Ratings(NamedTuple):
    """A model's figures in per cent."""

    metric: str
    overall: float
    classes: Dict[str, float]
    sizes: Dict[str, float]  # of the objects; of detectors alone


def draw(
    image: np.ndarray, data_sample: BaseDataElement, scope: str, meta: dict, truth: bool = False, side: int = SIDE
) -> np.ndarray:
    """Draw predictions of scores above 0.3, or the ground truth, by the visualizer of ``'mmdet'`` or ``'mmseg'``."""
    data_sample = data_sample.cpu()  # a copy
    # A visualizer of its own has nowhere to write to, and is not that of a running training.
    if scope == 'mmdet':
        from mmdet.structures.mask import BitmapMasks  # not there beside MMSegmentation alone

        visualizer, options = VISUALIZERS.get('mmdet.DetLocalVisualizer')(name='show'), dict(pred_score_thr=0.3)
        # Lines and letters have a size of their own in pixels: small images are enlarged before, and boxes with them.
        has_map = any(key.endswith(('sem_seg', 'panoptic_seg')) for key in data_sample.keys())
        factor = 1.0 if has_map else max(1.0, side / max(image.shape[:2]))
        image = shrunk(image, side) if factor > 1 else image
        for key in {'gt_instances', 'pred_instances'} & set(data_sample.keys()):
            instances = data_sample.get(key)
            instances.bboxes = torch.as_tensor(getattr(instances.bboxes, 'tensor', instances.bboxes)) * factor
            if 'masks' in instances and factor > 1:
                masks = instances.masks
                masks = BitmapMasks(masks.byte().numpy(), *masks.shape[1:]) if isinstance(masks, Tensor) else masks
                instances.masks = masks.resize(image.shape[:2])
    else:
        visualizer = VISUALIZERS.get('mmseg.SegLocalVisualizer')(name='show', alpha=0.6)
        options = dict(with_labels=False)
    visualizer.dataset_meta = dict(meta)
    visualizer.add_datasample('', image, data_sample, draw_gt=truth, draw_pred=not truth, **options)
    return shrunk(visualizer.get_image(), side)


@torch.no_grad()
def rate_by_class(model: BaseModel, cfg: Config) -> Ratings:
    """Evaluate a detector's average precision of boxes, as COCO has it, or a segmentor's intersection over union."""
    metric, annotations = dict(type='mmseg.IoUMetric'), {}
    loader = Runner.build_dataloader(copy.deepcopy(cfg.val_dataloader), seed=0)
    dataset, classes = loader.dataset, loader.dataset.metainfo['classes']
    if cfg.default_scope != 'mmseg':
        given = cfg.val_evaluator[0] if isinstance(cfg.val_evaluator, (list, tuple)) else cfg.val_evaluator
        file = given.get('ann_file') if type_name(given) == 'CocoMetric' else None
        metric = dict(type='mmdet.CocoMetric', ann_file=file, metric='bbox', classwise=True)
        # Without a file in COCO's format, the metric compares with annotations that come with the predictions.
        infos = (dataset.get_data_info(index) for index in range(0 if file else len(dataset)))
        annotations = {info['img_id']: dict(instances=info['instances']) for info in infos}
    evaluator = Evaluator(metric)
    evaluator.dataset_meta = dataset.metainfo
    for batch in loader:
        found = model.test_step(batch)
        for sample in found if annotations else ():
            sample.set_metainfo(annotations[sample.img_id])
        evaluator.process(found, batch)
    if cfg.default_scope == 'mmseg':
        (metric,) = evaluator.metrics
        found = metric.total_area_to_metrics(*map(sum, zip(*metric.results)), ['mIoU'])['IoU'] * 100
        return Ratings('mIoU', float(np.nanmean(found)), dict(zip(classes, found.tolist())), {})
    with redirect_stdout(io.StringIO()), quiet():  # of pycocotools' and MMDetection's own tables
        found = evaluator.evaluate(len(dataset))
    # Nothing is reported where nothing was detected, and -1 where there is no object.
    found = defaultdict(float, {key: 100 * float(v) if v >= 0 else float('nan') for key, v in found.items()})
    by_class = {name: found[f'coco/{name}_precision'] for name in classes}
    sizes = {name: found[f'coco/bbox_mAP_{name[0]}'] for name in ('small', 'medium', 'large')}
    return Ratings('box AP', found['coco/bbox_mAP'], by_class, sizes)


def telling_classes(ratings: Sequence[Ratings], most: int = 25) -> List[str]:
    """Choose the classes to show: all, or of many those on which the models differ most, in the data's order."""
    names = list(ratings[0].classes)
    figures = np.nan_to_num([[r.classes[name] for name in names] for r in ratings])
    widest = np.argsort(figures.min(0) - figures.max(0), kind='stable')[:most]
    return [names[index] for index in sorted(widest)]


def dataset_meta(cfg: Config) -> dict:
    """Find the ``classes`` of a training's data and a ``palette`` with a colour for each, without reading the data."""
    loader = cfg.get('val_dataloader') or cfg.test_dataloader
    meta = dict(DATASETS.build(dict(innermost(loader), lazy_init=True)).metainfo)
    if len(meta.get('palette') or ()) != len(meta['classes']):
        hues = np.arange(len(meta['classes'])) / len(meta['classes'])
        colours = 255 * hsv_to_rgb([(hue, 0.75, 0.95) for hue in hues])
        meta['palette'] = [tuple(colour) for colour in colours.astype(int).tolist()]
    return meta
