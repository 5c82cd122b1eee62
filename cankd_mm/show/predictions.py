"""What it changed: what teacher, student and student alone predict, in pictures and in figures for each class."""

import copy
import inspect
import io
from contextlib import redirect_stdout
from typing import Dict, List, NamedTuple, Sequence, Tuple

import numpy as np
import torch
from matplotlib.colors import hsv_to_rgb
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, TRANSFORMS, VISUALIZERS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor
from torch.nn import functional as F

from cankd_mm.config.types import type_name
from cankd_mm.engine.val_loop import teacher_is_rateable
from cankd_mm.models.utils import quiet
from cankd_mm.show.page import Picture, Section, Table
from cankd_mm.show.pictures import bars, shrunk
from cankd_mm.show.samples import Sample, innermost
from cankd_mm.show.stages import AFTER, ALONE, Stages

SIDE = 480  # pixels of a picture's longer side
_TEACHER = 'teacher'


class Ratings(NamedTuple):
    """A model's figures in per cent, by class and by size of the objects; the latter of detectors alone."""

    metric: str
    overall: float
    classes: Dict[str, float]
    sizes: Dict[str, float]


@torch.no_grad()
def section(stages: Stages, cfg: Config, chosen: Sequence[Sample], rated: bool = False) -> Section:
    """Show what teacher, student and student alone predict.

    Args:
        stages (Stages): The pair.
        cfg (Config): Its config.
        chosen (Sequence[Sample]): The images.
        rated (bool): Whether the models are rated on the validation set, class by class. Defaults to False.

    Returns:
        Section: Predictions beside the ground truth, and the models' figures.
    """
    models = [_TEACHER, AFTER, *([ALONE] if ALONE in stages.weights else [])]
    words = []
    if not teacher_is_rateable(stages.model):
        models.remove(_TEACHER)
        words.append('The teacher predicts nothing, or other classes than the data has, and is left out here.')
    scope, meta = cfg.default_scope, dataset_meta(cfg)
    if any(key in chosen[0].annotations for key in ('gt_instances', 'gt_sem_seg')):
        titles = ['ground truth', *models]
        columns = [[draw(s.image, s.annotations, scope, meta, truth=True) for s in chosen]]
    else:
        titles = ['image', *models]
        columns = [[shrunk(s.image, SIDE) for s in chosen]]
    ratings = {}
    for name in models:
        model = stages.at(AFTER).teacher if name == _TEACHER else stages.at(name)
        found = [model.test_step(copy.deepcopy(sample.data))[0] for sample in chosen]
        columns.append([draw(s.image, f, scope, meta) for s, f in zip(chosen, found)])
        if rated:
            ratings[name] = rate_by_class(model, cfg)
    boxes = ' Boxes of a score above 0.3 are drawn.' if scope == 'mmdet' else ''
    drawn = Picture('predictions', f'By column: {", ".join(titles)}.{boxes}', [*zip(*columns)], titles)
    if not ratings:
        return Section('What it changed', words, [], [drawn])
    return Section('What it changed', words, [_overall(ratings)], [_by_class(ratings), drawn])


def _overall(ratings: Dict[str, Ratings]) -> Table:
    metric, _, _, sizes = ratings[AFTER]
    rows = [[name, *(_figure(value) for value in (r.overall, *r.sizes.values()))] for name, r in ratings.items()]
    explained = (
        'small, medium and large are objects of up to 32x32, up to 96x96, and more pixels.'
        if sizes
        else 'the mean over the classes.'
    )
    meaning = f'{metric} on all images of the validation set, in per cent; {explained}'
    return Table(['model', metric, *sizes], rows, meaning)


def _by_class(ratings: Dict[str, Ratings]) -> Picture:
    metric, _, classes, _ = ratings[AFTER]
    names = telling_classes(list(ratings.values()))
    plot = bars({model: [r.classes[name] for name in names] for model, r in ratings.items()}, names, metric)
    which = f'the {len(names)} of {len(classes)} classes on which the models differ most'
    which = 'every class' if len(names) == len(classes) else which
    return Picture('classes', f'{metric} of {which}, on the validation set.', [[plot]])


def _figure(value: float) -> str:
    return 'none' if np.isnan(value) else f'{value:.1f}'


def draw(
    image: np.ndarray,
    data_sample: BaseDataElement,
    scope: str,
    dataset_meta: dict,
    truth: bool = False,
    score_thr: float = 0.3,
    side: int = SIDE,
) -> np.ndarray:
    """Draw predictions, or the ground truth, by the library's own visualizer.

    Args:
        image (np.ndarray): The image, ``(H, W, 3)`` in RGB.
        data_sample (BaseDataElement): What is drawn, in pixels of the image.
        scope (str): ``'mmdet'`` or ``'mmseg'``.
        dataset_meta (dict): The classes and their colours.
        truth (bool): Whether the ground truth is drawn, and not the predictions. Defaults to False.
        score_thr (float): Predicted instances below are left out. Defaults to 0.3.
        side (int): Pixels of the picture's longer side. Defaults to 480.

    Returns:
        np.ndarray: The picture, ``(H, W, 3)``.
    """
    data_sample = data_sample.cpu()
    # A visualizer of its own has nowhere to write to, and is not that of a running training.
    if scope == 'mmdet':
        image, data_sample = _enlarged(image, data_sample, side)
        visualizer = VISUALIZERS.get('mmdet.DetLocalVisualizer')(name='show')
        options = dict(pred_score_thr=score_thr)
    else:
        visualizer = VISUALIZERS.get('mmseg.SegLocalVisualizer')(name='show', alpha=0.6)
        options = dict(with_labels=False)
    visualizer.dataset_meta = dict(dataset_meta)
    visualizer.add_datasample('', image, data_sample, draw_gt=truth, draw_pred=not truth, **options)
    return shrunk(visualizer.get_image(), side)


def _enlarged(image: np.ndarray, data_sample: BaseDataElement, side: int) -> Tuple[np.ndarray, BaseDataElement]:
    """Have boxes as tensors, and small images enlarged: lines and letters have a size of their own in pixels."""
    maps = {'gt_sem_seg', 'gt_panoptic_seg', 'pred_sem_seg', 'pred_panoptic_seg'} & set(data_sample.keys())
    factor = 1.0 if maps else max(1.0, side / max(image.shape[:2]))
    image = shrunk(image, side) if factor > 1 else image
    data_sample = data_sample.clone()
    for key in {'gt_instances', 'pred_instances'} & set(data_sample.keys()):
        instances = data_sample.get(key)
        boxes = instances.bboxes
        instances.bboxes = torch.as_tensor(getattr(boxes, 'tensor', boxes)) * factor
        masks = instances.get('masks')
        if masks is None or factor == 1:
            continue
        if not isinstance(masks, Tensor):
            instances.masks = masks.resize(image.shape[:2])
        elif len(masks):
            instances.masks = F.interpolate(masks[None].float(), image.shape[:2])[0].bool()
        else:
            instances.masks = masks.new_zeros(0, *image.shape[:2])
    return image, data_sample


@torch.no_grad()
def rate_by_class(model: BaseModel, cfg: Config) -> Ratings:
    """Evaluate a model on the validation set for each class.

    Args:
        model (BaseModel): A detector or segmentor.
        cfg (Config): Its config, with the data.

    Returns:
        Ratings: COCO's average precision of boxes, or the intersection over union of label maps.
    """
    loader_cfg = copy.deepcopy(cfg.val_dataloader)
    if cfg.default_scope == 'mmseg':
        metric = METRICS.build(dict(type='mmseg.IoUMetric'))
    else:
        given = cfg.val_evaluator
        given = given[0] if isinstance(given, (list, tuple)) else given
        file = given.get('ann_file') if type_name(given) == 'CocoMetric' else None
        if file is None:
            _keep_annotations(loader_cfg.dataset)
        metric = METRICS.build(dict(type='mmdet.CocoMetric', ann_file=file, metric='bbox', classwise=True))
    loader = Runner.build_dataloader(loader_cfg, seed=0)
    evaluator = Evaluator([metric])
    evaluator.dataset_meta = loader.dataset.metainfo
    classes = loader.dataset.metainfo['classes']
    for batch in loader:
        evaluator.process(model.test_step(batch), batch)
    if cfg.default_scope == 'mmseg':
        areas = [sum(parts) for parts in zip(*metric.results)]
        found = metric.total_area_to_metrics(*areas, ['mIoU'])['IoU'] * 100
        return Ratings('mIoU', float(np.nanmean(found)), dict(zip(classes, found.tolist())), {})
    with redirect_stdout(io.StringIO()), quiet():  # of pycocotools' and MMDetection's own tables
        found = evaluator.evaluate(len(loader.dataset))

    def figure(name: str) -> float:
        value = 100 * float(found.get(f'coco/{name}', 0.0))  # nothing is reported where nothing was detected
        return value if value >= 0 else float('nan')

    sizes = {name: figure(f'bbox_mAP_{name[0]}') for name in ('small', 'medium', 'large')}
    return Ratings('box AP', figure('bbox_mAP'), {name: figure(f'{name}_precision') for name in classes}, sizes)


def _keep_annotations(dataset: dict) -> None:
    """Have a data set that is not in COCO's format hand on the annotations that COCO's metric wants."""
    for inner in (dataset.get('dataset'), *(dataset.get('datasets') or ())):
        if inner:
            _keep_annotations(inner)
    for step in dataset.get('pipeline') or ():
        if type_name(step) == 'PackDetInputs':
            usual = inspect.signature(TRANSFORMS.get('mmdet.PackDetInputs')).parameters['meta_keys'].default
            step['meta_keys'] = (*(step.get('meta_keys') or usual), 'instances')


def telling_classes(ratings: Sequence[Ratings], most: int = 25) -> List[str]:
    """Choose the classes to show: all, or of many those on which the models differ most, in the data's order."""
    names = list(ratings[0].classes)
    figures = np.nan_to_num([[r.classes[name] for name in names] for r in ratings])
    widest = np.argsort(figures.min(0) - figures.max(0), kind='stable')[:most]
    return [names[index] for index in sorted(widest)]


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
