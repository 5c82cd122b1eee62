"""The parts of the page, of a pair at its stages."""

import copy
import re
from collections import defaultdict
from numbers import Real
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import numpy as np
import torch
from mmengine.config import Config

from cankd_mm.config.metric import Metric, of_teacher
from cankd_mm.engine.runner import teacher_is_rateable
from cankd_mm.show import page, predictions
from cankd_mm.show.features import FeaturePair, Point, feature_pairs, points_of
from cankd_mm.show.page import Picture, Section, Table
from cankd_mm.show.stages import AFTER, ALONE, BEFORE, Sample, Stages
from cankd_mm.work_dir import read_scalars

_TEACHER, _STUDENT = 'teacher', 'student'
_MAPS = 4  # images whose maps are shown; figures are of all
_POINTS = 3  # of an image, from which a block is looked through


@torch.no_grad()
def changes(stages: Stages, cfg: Config, chosen: Sequence[Sample], rated: bool = False) -> Section:
    """Show predictions beside the ground truth and, if rated, the models' figures on the whole validation set."""
    models = [_TEACHER, _STUDENT, *([ALONE] if ALONE in stages.weights else [])]
    words, ratings = [], {}
    if not teacher_is_rateable(stages.model):
        models.remove(_TEACHER)
        words.append('The teacher predicts nothing, or other classes than the data has, and is left out here.')
    scope, meta = cfg.default_scope, predictions.dataset_meta(cfg)
    columns = {'image': [page.shrunk(s.image, predictions.SIDE) for s in chosen]}
    if any(key in chosen[0].annotations for key in ('gt_instances', 'gt_sem_seg')):
        drawn = [predictions.draw(s.image, s.annotations, scope, meta, truth=True) for s in chosen]
        columns = {'ground truth': drawn}
    for name in models:
        model = stages.at(ALONE if name == ALONE else AFTER)
        model = model.teacher if name == _TEACHER else model
        found = [model.test_step(copy.deepcopy(sample.data))[0] for sample in chosen]
        columns[name] = [predictions.draw(s.image, f, scope, meta) for s, f in zip(chosen, found)]
        if rated:
            ratings[name] = predictions.rate_by_class(model, cfg)
    boxes = ' Boxes of a score above 0.3 are drawn.' if scope == 'mmdet' else ''
    drawn = Picture('predictions', f'By column: {", ".join(columns)}.{boxes}', [*zip(*columns.values())], [*columns])
    if not rated:
        return Section('What it changed', words, pictures=[drawn])
    metric, _, classes, sizes = ratings[_STUDENT]
    rows = [[name, *map(page.per_cent, (r.overall, *r.sizes.values()))] for name, r in ratings.items()]
    sizes_are = 'small, medium and large are objects of up to 32x32, up to 96x96, and more pixels.'
    meaning = f'{metric} on all images of the validation set, in per cent; '
    overall = Table(['model', metric, *sizes], rows, meaning + (sizes_are if sizes else 'the mean over the classes.'))
    names = predictions.telling_classes(list(ratings.values()))
    plot = page.bars({model: [r.classes[name] for name in names] for model, r in ratings.items()}, names, metric)
    which = f'the {len(names)} of {len(classes)} classes on which the models differ most'
    which = 'every class' if len(names) == len(classes) else which
    by_class = Picture('classes', f'{metric} of {which}, on the validation set.', [[plot]])
    return Section('What it changed', words, [overall], [by_class, drawn])


class _Measured:
    """What is kept of a level's feature at one stage on one image."""

    def __init__(self, pair: FeaturePair, through_block: bool) -> None:
        self.size = 'x'.join(map(str, pair.student.shape[1:]))
        self.norm = f'after {pair.norm} norm' if pair.norm else 'as they are'
        both = (pair.normalized(feature) for feature in (pair.student, pair.target))
        self.student, self.teacher = (feature.abs().mean(1)[0].cpu() for feature in both)  # (H, W)
        self.left = pair.left().cpu()
        self.through = pair.left(through_block=True).mean().item() if through_block else float('nan')
        self.correlation, self.cka = pair.correlation().cpu(), pair.cka()


class _Attended:
    """What is kept of a block on one image, through which points of the image have looked."""

    def __init__(self, pair: FeaturePair, sample: Sample, image: np.ndarray, at: Optional[Point]) -> None:
        info, size, added = sample.annotations.metainfo, image.shape[:2], pair.added()
        (height, width), (old_height, old_width) = info['img_shape'][:2], info['ori_shape'][:2]
        points = [at] if at else points_of(sample.annotations, (old_height, old_width), _POINTS)
        points = [(x * width / old_width, y * height / old_height) for x, y in points]
        affinities, self.top_tenth, self.there = pair.looks(points, size)
        self.block, self.added = pair.block, float(added.mean())
        crosses = [page.marked(page.heat([a], image)[0], point, size) for a, point in zip(affinities, points)]
        gaps = [None] * (_POINTS - len(points))
        self.pictures = [page.shrunk(image), *crosses, *gaps, *page.heat([added], image)]


@torch.no_grad()
def features(stages: Stages, chosen: Sequence[Sample], at: Optional[Point] = None) -> List[Section]:
    """Show the figures of all levels, the maps of each, and where the blocks look from a point or the objects."""
    levels: Dict[str, Dict[str, List[_Measured]]] = defaultdict(lambda: defaultdict(list))
    attended: Dict[str, List[_Attended]] = defaultdict(list)
    order = [stage for stage in (BEFORE, AFTER, ALONE) if stage in stages.weights]
    for stage in order:
        model, images = stages.at(stage), []
        for sample in chosen:
            image, pairs = feature_pairs(model, sample)
            images.append(page.shrunk(image))
            for name, pair in pairs.items():
                # A connector is trained with its student; that of the distilled one says nothing of another.
                if stage == ALONE and f'loss_{name}' in model.distiller.connectors:
                    continue
                levels[name][stage].append(_Measured(pair, through_block=stage == AFTER))
                if stage == AFTER and pair.block and len(images) <= _MAPS:
                    attended[name].append(_Attended(pair, sample, image, at))
    return [_figures(levels, order), *(_maps(*level, images) for level in levels.items()), _attention(attended)]


def _by_level(heads: Sequence[str], rows: List[List[str]], meaning: str) -> Table:
    """Lay out rows of levels as columns, which are fewer, so that the table is not wider than a phone."""
    head, *figures = zip(heads, *rows)
    return Table(head, figures, meaning)


def _figures(levels: Dict[str, Dict[str, List[_Measured]]], order: Sequence[str]) -> Section:
    heads = ['level', 'size', *(f'left, {s}' for s in order), 'left, through the block', *(f'CKA, {s}' for s in order)]
    rows = []
    for name, measures in levels.items():
        left = [_mean([m.left.mean() for m in measures.get(stage, ())], 3) for stage in order]
        cka = [_mean([m.cka for m in measures.get(stage, ())], 2) for stage in order]
        rows.append([name, measures[AFTER][0].size, *left, _mean([m.through for m in measures[AFTER]], 3), *cka])
    meaning = (
        'The size is channels x height x width. Left is the mean squared difference between student and teacher after '
        'the normalization of the loss, which is the loss over its weight: after instance norm 0 where both are equal, '
        '2 where they have nothing in common. CKA says how alike both are over the pixels of an image, 1 at most, '
        'whatever the order of their channels.'
    )
    if any(len(measures) < len(order) for measures in levels.values()):
        meaning += ' Of the student alone nothing can be said where a connector lies between, trained with the other.'
    return Section('Every distilled feature', tables=[_by_level(heads, rows, meaning)])


def _mean(figures: Sequence[float], digits: int) -> str:
    return f'{np.mean([float(figure) for figure in figures]):.{digits}f}' if figures else 'connector'


def _maps(name: str, measures: Dict[str, List[_Measured]], images: Sequence[np.ndarray]) -> Section:
    features, left, norm = [], [], measures[AFTER][0].norm
    for image, *here in zip(images[:_MAPS], *measures.values()):
        features.append([image, *page.heat([here[0].teacher, *(m.student for m in here)], image)])
        left.append([image, *page.heat([m.left for m in here], image)])
    students = [stage if stage == ALONE else f'student, {stage}' for stage in measures]
    correlations = {stage: torch.stack([m.correlation for m in of]).mean(0) for stage, of in measures.items()}
    plot = page.histogram(correlations, 'correlation with the teacher')
    sizes = f"The teacher's and the student's feature {norm}: the mean size of the channels, on one scale for an image."
    rest = 'What is left between both, on one scale for an image. Red is where the student is least like its teacher.'
    spread = 'How many channels of the student correlate how much with the same channel of the teacher.'
    drawn = [
        Picture(f'{name}_features', f'{sizes} Red is large.', features, ['input', _TEACHER, *students]),
        Picture(f'{name}_left', rest, left, ['input', *measures]),
        Picture(f'{name}_correlation', spread, [[plot]]),
    ]
    return Section(f'Level {name}', pictures=drawn)


def _attention(attended: Dict[str, List[_Attended]]) -> Section:
    if not attended:
        return Section('Where the block looks', ['No level of this training has a Can block.'])
    words, rows, drawn = [], [], []
    for name, of_images in attended.items():
        block, added = of_images[0].block, np.mean([image.added for image in of_images])
        gate = block.bn.weight.abs().mean().item()
        there, top = (float(torch.cat([getattr(i, key) for i in of_images]).mean()) for key in ('there', 'top_tenth'))
        if added < 1e-3:
            stays = f'The block of {name} has stayed the identity: it adds {added:.1e} of what comes in, and its gate, '
            words.append(f'{stays}which starts at 0, is {gate:.1e}.')
        rows.append([name, f'{gate:.4f}', f'{100 * added:.2f} %', f'{100 * there:.2f} %', f'{100 * top:.0f} %'])
        meaning = f"Level {name}, affinity {block.mode}: what each marked pixel looks at in the teacher's map, on a "
        meaning += 'scale of its own, red is most; at the right, how much the block adds to every pixel.'
        titles = ['input', *['from the cross'] * _POINTS, 'what the block adds']
        drawn.append(Picture(f'{name}_attention', meaning, [image.pictures for image in of_images], titles))
    heads = ['level', 'gate', 'added, all pixels', 'added, marked pixels', 'affinity on a tenth of the pixels']
    meaning = (
        "The gate is the mean size of the weight of the block's batch norm, 0 in the block that is the identity. Added "
        'is |BN(W y)| / |x|, what the block adds over what comes in. The last figure is how much of the affinity of a '
        'marked pixel lies on the tenth of the teacher where it is largest: 10 % if it looks everywhere alike.'
    )
    return Section('Where the block looks', words, [_by_level(heads, rows, meaning)], drawn)


# What a training logs, by plot: what the figures are, whether their scale is logarithmic, and what they mean.
_PLOTS = dict(
    losses=('loss', True, "The student's task loss, and the distillation loss of every level, with its weight."),
    ratio=('ratio', False, 'The distillation losses over the task loss.'),
    metrics=('per cent', False, 'On the validation set: the student over the training, and the teacher.'),
    gates=('mean |weight|', False, "How far every block has left the identity: its batch norm's weight starts at 0."),
    rate=('learning rate', False, 'The learning rate of the first group of parameters.'),
)
_AT_MOST = 400  # points of a line


def run(work_dir: Path, metric: Optional[Metric]) -> Section:
    """Show the curves of what a training logged in its work folder, whose runs the metric rates."""
    plots = {name: defaultdict(list) for name in _PLOTS}  # by line, pairs of iteration and figure
    iteration = 0
    for entry in read_scalars(work_dir):
        if 'loss' in entry:
            iteration = entry.get('iter', entry['step'])
            distill = {k.replace('distill.loss_', ''): v for k, v in entry.items() if k.startswith('distill.loss')}
            found = dict(
                losses={'task': entry['loss'] - sum(distill.values()), **distill},
                ratio={'distillation / task': entry.get('distill_to_task')},
                rate={'learning rate': entry.get('lr')},
                gates={m[1]: v for k, v in entry.items() if (m := re.fullmatch(r'can/(\w+)_weight', k))},
            )
        else:
            rated = dict(student=entry, teacher=of_teacher(entry)) if metric else {}
            found = dict(metrics={who: metric.of(reported) for who, reported in rated.items() if reported})
        for plot, values in found.items():
            for name, value in values.items():
                if isinstance(value, Real) and abs(value) != float('inf'):
                    plots[plot][name].append((iteration, value))
    if not any(plots.values()):
        words = f'There is no log of the training beside the checkpoint, in {work_dir}: its curves are left out.'
        return Section('The run', [words])
    words = [] if plots['gates'] else ["Without CanBlockMonitorHook in the config, the blocks' gates were not logged."]
    drawn = []
    for name, (what, log, meaning) in _PLOTS.items():
        if plots[name]:
            thinned = {key: line[:: -(-len(line) // _AT_MOST)] for key, line in plots[name].items()}
            drawn.append(Picture(name, meaning, [[page.curves(thinned, what, log)]]))
    return Section('The run', words, pictures=drawn)
