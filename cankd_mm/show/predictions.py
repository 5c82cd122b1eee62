"""What teacher, student and student alone predict: pictures beside the ground truth, and figures for each class."""

import copy
import inspect
import io
from contextlib import redirect_stdout
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from matplotlib.colors import hsv_to_rgb
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, TRANSFORMS, VISUALIZERS, DefaultScope
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from torch import Tensor
from torch.nn import functional as F

from cankd_mm.models.utils import quiet
from cankd_mm.show.pictures import shrunk
from cankd_mm.show.samples import Sample, innermost

SIDE = 480  # pixels of a picture's longer side


class Ratings(NamedTuple):
    """A model's figures in per cent, by class and by size of the objects; the latter of detectors alone."""

    metric: str
    overall: float
    classes: Dict[str, float]
    sizes: Dict[str, float]


@torch.no_grad()
def predict(model: BaseModel, sample: Sample) -> BaseDataElement:
    """Predict one image.

    Args:
        model (BaseModel): A detector or segmentor.
        sample (Sample): The image.

    Returns:
        BaseDataElement: The predictions beside the annotations, on the image's own pixels.
    """
    return model.test_step(copy.deepcopy(sample.data))[0]


def draw(
    sample: Sample, found: Optional[BaseDataElement], scope: str, dataset_meta: dict, score_thr: float = 0.3
) -> np.ndarray:
    """Draw predictions, or the ground truth, by the library's own visualizer.

    Args:
        sample (Sample): The image.
        found (BaseDataElement, optional): Predictions; None draws the ground truth.
        scope (str): ``'mmdet'`` or ``'mmseg'``.
        dataset_meta (dict): The classes and their colours.
        score_thr (float): Instances below are left out. Defaults to 0.3.

    Returns:
        np.ndarray: The picture, ``(H, W, 3)``.
    """
    image, drawn = sample.image, (sample.annotations if found is None else found).cpu()
    if scope == 'mmdet':
        image, drawn = _prepared(image, drawn)
    visualizer = _visualizer(scope)
    visualizer.dataset_meta = dict(dataset_meta)
    options = dict(pred_score_thr=score_thr) if scope == 'mmdet' else dict(with_labels=False)
    visualizer.add_datasample('', image, drawn, found is None, found is not None, **options)
    return shrunk(visualizer.get_image(), SIDE)


def _visualizer(scope: str) -> Visualizer:
    """A visualizer with nowhere to write to, and apart from that of a running training."""
    kind = VISUALIZERS.get(f'{scope}.{dict(mmdet="Det", mmseg="Seg")[scope]}LocalVisualizer')
    return kind(name='show') if scope == 'mmdet' else kind(name='show', alpha=0.6)


def _prepared(image: np.ndarray, drawn: BaseDataElement) -> Tuple[np.ndarray, BaseDataElement]:
    """Have boxes as tensors, and small images enlarged: what is drawn has a size of its own in pixels."""
    maps = {'gt_sem_seg', 'gt_panoptic_seg', 'pred_sem_seg', 'pred_panoptic_seg'} & set(drawn.keys())
    factor = 1.0 if maps else max(1.0, SIDE / max(image.shape[:2]))
    image = shrunk(image, SIDE) if factor > 1 else image
    drawn = drawn.clone()
    for key in {'gt_instances', 'pred_instances'} & set(drawn.keys()):
        instances = drawn.get(key)
        boxes = instances.bboxes
        instances.bboxes = torch.as_tensor(getattr(boxes, 'tensor', boxes)) * factor
        if 'masks' in instances and factor > 1:
            masks = instances.masks
            if isinstance(masks, Tensor):
                size = (len(masks), *image.shape[:2])
                masks = F.interpolate(masks[None].float(), size[1:])[0].bool() if len(masks) else masks.new_zeros(size)
            else:
                masks = masks.resize(image.shape[:2])
            instances.masks = masks
    return image, drawn


@torch.no_grad()
def rate(model: BaseModel, cfg: Config, split: str = 'val') -> Ratings:
    """Evaluate a model for each class.

    Args:
        model (BaseModel): A detector or segmentor.
        cfg (Config): Its config, with the data.
        split (str): ``'val'`` or ``'test'``. Defaults to 'val'.

    Returns:
        Ratings: COCO's average precision of boxes, or the intersection over union of label maps.
    """
    scope = cfg.default_scope
    loader_cfg = copy.deepcopy(cfg[f'{split}_dataloader'])
    given = cfg[f'{split}_evaluator']
    given = given[0] if isinstance(given, (list, tuple)) else given
    file = given.get('ann_file') if str(given.type).split('.')[-1] == 'CocoMetric' else None
    if scope == 'mmdet' and file is None:
        _keep_annotations(loader_cfg.dataset)
    loader = Runner.build_dataloader(loader_cfg, seed=0)
    metainfo = loader.dataset.metainfo
    if scope == 'mmseg':
        metric = METRICS.build(dict(type='mmseg.IoUMetric'))
        metric.dataset_meta = metainfo
        for batch in loader:
            metric.process(batch, [sample.to_dict() for sample in model.test_step(batch)])
        areas = [sum(parts) for parts in zip(*metric.results)]
        found = metric.total_area_to_metrics(*areas, ['mIoU'])['IoU'] * 100
        return Ratings('mIoU', float(np.nanmean(found)), dict(zip(metainfo['classes'], found.tolist())), {})
    metric = METRICS.build(dict(type='mmdet.CocoMetric', ann_file=file, metric='bbox', classwise=True))
    evaluator = Evaluator([metric])
    evaluator.dataset_meta = metainfo
    for batch in loader:
        evaluator.process(model.test_step(batch), batch)
    with redirect_stdout(io.StringIO()), quiet():  # of pycocotools' and MMDetection's own tables
        found = evaluator.evaluate(len(loader.dataset))

    def figure(name: str) -> float:
        value = 100 * float(found.get(f'coco/{name}', 0.0))  # nothing is reported where nothing was detected
        return value if value >= 0 else float('nan')

    sizes = {name: figure(f'bbox_mAP_{name[0]}') for name in ('small', 'medium', 'large')}
    classes = {name: figure(f'{name}_precision') for name in metainfo['classes']}
    return Ratings('box AP', figure('bbox_mAP'), classes, sizes)


def _keep_annotations(dataset: dict) -> None:
    """Have a data set that is not in COCO's format hand on the annotations that COCO's metric wants."""
    for inner in (dataset.get('dataset'), *(dataset.get('datasets') or ())):
        if inner:
            _keep_annotations(inner)
    for step in dataset.get('pipeline') or ():
        if str(step['type']).split('.')[-1] == 'PackDetInputs':
            usual = inspect.signature(TRANSFORMS.get('mmdet.PackDetInputs')).parameters['meta_keys'].default
            step['meta_keys'] = (*(step.get('meta_keys') or usual), 'instances')


def telling_classes(ratings: Sequence[Ratings], most: int = 25) -> List[str]:
    """Choose the classes to show, of many those on which the models differ most.

    Args:
        ratings (Sequence[Ratings]): Of several models.
        most (int): How many at most. Defaults to 25.

    Returns:
        list[str]: The classes, in the data's order.
    """
    names = list(ratings[0].classes)
    if len(names) <= most:
        return names

    def spread(name: str) -> float:
        figures = [r.classes[name] for r in ratings if not np.isnan(r.classes[name])]
        return max(figures) - min(figures) if figures else -1.0

    chosen = set(sorted(names, key=spread, reverse=True)[:most])
    return [name for name in names if name in chosen]


def dataset_meta(cfg: Config) -> dict:
    """Find the names and colours of the classes, without reading the data.

    Args:
        cfg (Config): A config of a training.

    Returns:
        dict: ``classes``, and ``palette`` with a colour for each.
    """
    loader = cfg.get('val_dataloader') or cfg.test_dataloader
    meta = dict(DATASETS.build(dict(innermost(loader), lazy_init=True)).metainfo)
    if len(meta.get('palette') or ()) != len(meta['classes']):
        hues = np.arange(len(meta['classes'])) / len(meta['classes'])
        colours = hsv_to_rgb(np.stack([hues, np.full_like(hues, 0.75), np.full_like(hues, 0.95)], 1))
        meta['palette'] = [tuple(colour) for colour in (255 * colours).astype(int).tolist()]
    return meta


def in_scope(cfg: Config):
    """Have the registries look into a config's own library first.

    Args:
        cfg (Config): The config.

    Returns:
        ContextManager: The scope.
    """
    return DefaultScope.overwrite_default_scope(cfg.default_scope)
