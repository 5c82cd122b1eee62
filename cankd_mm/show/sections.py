"""The parts of the page, of a pair at its stages."""

from pathlib import Path
from typing import Dict, List, Optional, Sequence, Union

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor

from cankd_mm.config.metric import Metric
from cankd_mm.engine.val_loop import teacher_is_rateable
from cankd_mm.show import pictures, predictions, samples
from cankd_mm.show.attention import IDENTITY, Point, added_by, looks, points_of, to_input
from cankd_mm.show.features import Level, levels_of
from cankd_mm.show.page import Picture, Section, Table
from cankd_mm.show.samples import Sample
from cankd_mm.show.stages import AFTER, ALONE, BEFORE, Live, Stages
from cankd_mm.show.training import logged

_TEACHER = 'teacher'
_NAMES = {BEFORE: 'before', AFTER: 'after', ALONE: 'student alone'}
Pair = Union[Stages, Live]
_MAPS = 4  # images whose maps are shown; figures are of all


def changes(stages: Pair, cfg: Config, chosen: Sequence[Sample], rated: bool = False) -> Section:
    """Show what teacher, student and student alone predict.

    Args:
        stages (Stages | Live): The pair.
        cfg (Config): Its config.
        chosen (Sequence[Sample]): The images.
        rated (bool): Whether the models are rated on the validation set, class by class. Defaults to False.

    Returns:
        Section: Predictions beside the ground truth, and the models' figures.
    """
    models = [AFTER, *([ALONE] if ALONE in stages else [])]
    words = []
    if teacher_is_rateable(stages.model):
        models.insert(0, _TEACHER)
    else:
        words.append('The teacher predicts nothing, or other classes than the data has, and is left out here.')
    truth = any(key in chosen[0].annotations for key in ('gt_instances', 'gt_sem_seg'))
    with predictions.in_scope(cfg):
        meta = predictions.dataset_meta(cfg)
        first = [
            predictions.draw(s, None, cfg.default_scope, meta) if truth else pictures.shrunk(s.image, predictions.SIDE)
            for s in chosen
        ]
        columns, ratings = [first], {}
        for name in models:
            with stages.at(AFTER if name == _TEACHER else name) as pair:
                model = pair.teacher if name == _TEACHER else pair
                found = [predictions.predict(model, sample) for sample in chosen]
                columns.append([predictions.draw(s, f, cfg.default_scope, meta) for s, f in zip(chosen, found)])
                if rated:
                    ratings[name] = predictions.rate(model, cfg)
    titles = ['ground truth' if truth else 'image', *models]
    boxes = ' Boxes of a score above 0.3 are drawn.' if cfg.default_scope == 'mmdet' else ''
    drawn = Picture('predictions', f'By column: {", ".join(titles)}.{boxes}', [*zip(*columns)], titles)
    if not ratings:
        return Section('What it changed', words, [], [drawn])
    return Section('What it changed', words, [_ratings(ratings)], [_classes(ratings), drawn])


def _ratings(ratings: Dict[str, predictions.Ratings]) -> Table:
    any_of_them = next(iter(ratings.values()))
    sizes = list(any_of_them.sizes)
    rows = [[name, *map(_figure, (r.overall, *(r.sizes[size] for size in sizes)))] for name, r in ratings.items()]
    explained = (
        'small, medium and large are objects of up to 32x32, up to 96x96, and more pixels.'
        if sizes
        else 'the mean over the classes.'
    )
    return Table(
        ['model', any_of_them.metric, *sizes],
        rows,
        f'{any_of_them.metric} on all images of the validation set, in per cent; {explained}',
    )


def _classes(ratings: Dict[str, predictions.Ratings]) -> Picture:
    any_of_them = next(iter(ratings.values()))
    names = predictions.telling_classes(list(ratings.values()))
    plot = pictures.bars({n: [r.classes[c] for c in names] for n, r in ratings.items()}, names, any_of_them.metric)
    which = (
        'every class'
        if len(names) == len(any_of_them.classes)
        else f'the {len(names)} of {len(any_of_them.classes)} classes on which the models differ most'
    )
    return Picture('classes', f'{any_of_them.metric} of {which}, on the validation set.', [[plot]])


class _Seen:
    """What is kept of a level over stages and images."""

    def __init__(self, level: Level) -> None:
        self.size = 'x'.join(map(str, level.student.shape[1:]))
        self.norm = level.norm
        self.left: Dict[str, List[Tensor]] = {}
        self.correlations: Dict[str, List[Tensor]] = {}
        self.through: List[float] = []
        self.cka: Dict[str, List[float]] = {}
        self.maps: List[Dict[str, Tensor]] = []
        self.images: List[np.ndarray] = []

    def add(self, stage: str, number: int, level: Level, image: np.ndarray) -> None:
        self.left.setdefault(stage, []).append(level.left().cpu())
        self.correlations.setdefault(stage, []).append(level.correlation().cpu())
        self.cka.setdefault(stage, []).append(level.cka())
        if stage == AFTER:
            self.through.append(level.left(through_block=True).mean().item())
        if number >= _MAPS:
            return
        if number == len(self.maps):
            self.maps.append({_TEACHER: level.normalized(level.target).abs().mean(1)[0].cpu()})
            self.images.append(image)
        self.maps[number][stage] = level.normalized(level.student).abs().mean(1)[0].cpu()

    def row(self, name: str, stages: Sequence[str]) -> List[str]:
        left = [
            f'{np.mean([float(m.mean()) for m in self.left[s]]):.3f}' if s in self.left else 'connector' for s in stages
        ]
        cka = [f'{np.mean(self.cka[s]):.2f}' if s in self.left else 'connector' for s in stages]
        return [name, self.size, *left, f'{np.mean(self.through):.3f}', *cka]

    def correlation(self, stage: str) -> Tensor:
        return torch.stack(self.correlations[stage]).mean(0)


def features(stages: Pair, chosen: Sequence[Sample]) -> List[Section]:
    """Show every distilled feature: what is left between student and teacher, and the maps of both.

    Args:
        stages (Stages | Live): The pair.
        chosen (Sequence[Sample]): The images.

    Returns:
        list[Section]: One with the figures of all levels, and one for each level.
    """
    order = [stage for stage in _NAMES if stage in stages]
    seen: Dict[str, _Seen] = {}
    for stage in sorted(order, key=lambda stage: stage != AFTER):
        with stages.at(stage) as model:
            for number, sample in enumerate(chosen):
                inputs, data_samples = samples.preprocessed(model, sample)
                image = samples.picture_of(sample, inputs)
                for name, level in levels_of(model, inputs, data_samples).items():
                    # A connector is trained with its student; that of the distilled one says nothing of another.
                    if stage == ALONE and f'loss_{name}' in model.distiller.connectors:
                        continue
                    seen.setdefault(name, _Seen(level)).add(stage, number, level, image)
    heads = ['level', 'size', *(f'left, {_NAMES[s]}' for s in order), 'left, through the block']
    heads += [f'CKA, {_NAMES[s]}' for s in order]
    meaning = (
        'The size is channels x height x width. Left is the mean squared difference between student and teacher after '
        'the normalization of the loss, which is the loss over its weight: after instance norm 0 where both are equal, '
        '2 where they have nothing in common. '
        'CKA says how alike both are whatever the order of their channels, 1 at most, over the pixels of an image.'
    )
    if any(ALONE in stages and ALONE not in level.left for level in seen.values()):
        meaning += ' Of the student alone nothing can be said where a connector lies between, trained with the other.'
    table = Table(heads, [level.row(name, order) for name, level in seen.items()], meaning)
    summary = Section('Every distilled feature', [], [table], [])
    return [summary, *(_level(name, level, order) for name, level in seen.items())]


def _level(name: str, seen: _Seen, order: Sequence[str]) -> Section:
    order = [stage for stage in order if stage in seen.left]
    names = [_NAMES[stage] for stage in order]
    norm = dict(instance='after instance norm', layer='after layer norm').get(seen.norm, 'as they are')
    maps, left = [], []
    for number, (image, of_image) in enumerate(zip(seen.images, seen.maps)):
        shown = pictures.shrunk(image)
        maps.append([shown, *pictures.heat([of_image[_TEACHER], *(of_image[s] for s in order)], image)])
        left.append([shown, *pictures.heat([seen.left[s][number] for s in order], image)])
    students = [name if name == _NAMES[ALONE] else f'student, {name}' for name in names]
    drawn = [
        Picture(
            f'{name}_features',
            f"The teacher's and the student's feature {norm}: the mean size of the channels, on one scale for an "
            'image. Red is large.',
            maps,
            ['input', _TEACHER, *students],
        ),
        Picture(
            f'{name}_left',
            'What is left between both, on one scale for an image. Red is where the student is least like its teacher.',
            left,
            ['input', *names],
        ),
        Picture(
            f'{name}_correlation',
            'How many channels of the student correlate how much with the same channel of the teacher.',
            [[pictures.histogram({_NAMES[s]: seen.correlation(s) for s in order}, 'correlation with the teacher')]],
        ),
    ]
    return Section(f'Level {name}', [], [], drawn)


def attention(stages: Pair, chosen: Sequence[Sample], at: Optional[Point] = None) -> Section:
    """Show where single pixels of the student look in the teacher, and what the blocks add.

    Args:
        stages (Stages | Live): The pair.
        chosen (Sequence[Sample]): The images.
        at (tuple[float, float], optional): x and y in pixels of the image. Defaults to None, the centres of the
            largest objects.

    Returns:
        Section: A table, and pictures of every level with a block.
    """
    found: Dict[str, list] = {}
    rows: Dict[str, list] = {}
    blocks = {}
    with stages.at(AFTER) as model:
        for sample in chosen:
            inputs, data_samples = samples.preprocessed(model, sample)
            size, image = tuple(inputs.shape[2:]), samples.picture_of(sample, inputs)
            points = [at] if at else points_of(sample.annotations, sample.annotations.metainfo['ori_shape'][:2])
            points = [to_input(point, sample.annotations) for point in points]
            for name, level in levels_of(model, inputs, data_samples).items():
                if level.block is None:
                    continue
                seen, added, blocks[name] = looks(level, points, size), added_by(level), level.block
                found.setdefault(name, []).append((float(added.mean()), seen))
                shown = [pictures.heat([look.affinity], image)[0] for look in seen]
                shown = [pictures.marked(p, [point], size) for p, point in zip(shown, points)]
                added = pictures.heat([added], image)[0]
                rows.setdefault(name, []).append([pictures.shrunk(image), *shown, *[None] * (3 - len(shown)), added])
    if not blocks:
        return Section('Where the block looks', ['No level of this training has a Can block.'], [], [])
    words, table = [], []
    for name, seen in found.items():
        gate = blocks[name].bn.weight.abs().mean().item()
        added = float(np.mean([mean for mean, _ in seen]))
        there = float(np.mean([look.added for _, found_there in seen for look in found_there]))
        top = float(np.mean([look.top_tenth for _, found_there in seen for look in found_there]))
        if added < IDENTITY:
            words.append(
                f'The block of {name} has stayed the identity: it adds {added:.1e} of what comes in, and its gate, '
                f'which starts at 0, is {gate:.1e}.'
            )
        table.append([name, f'{gate:.4f}', f'{100 * added:.2f} %', f'{100 * there:.2f} %', f'{100 * top:.0f} %'])
    heads = ['level', 'gate', 'added, all pixels', 'added, marked pixels', 'affinity on a tenth of the pixels']
    meaning = (
        "The gate is the mean size of the weight of the block's batch norm, 0 in the block that is the identity. Added "
        'is |BN(W y)| / |x|, what the block adds over what comes in. The last figure is how much of the affinity of a '
        'marked pixel lies on the tenth of the teacher where it is largest: 10 % if it looks everywhere alike.'
    )
    drawn = [
        Picture(
            f'{name}_attention',
            f"Level {name}, affinity {blocks[name].mode}: what each marked pixel looks at in the teacher's map, on a "
            'scale of its own, red is most; at the right, how much the block adds to every pixel.',
            lines,
            ['input', 'from the cross', 'from the cross', 'from the cross', 'what the block adds'],
        )
        for name, lines in rows.items()
    ]
    return Section('Where the block looks', words, [Table(heads, table, meaning)], drawn)


_CURVES = dict(
    losses=('loss', True, "The student's task loss, and the distillation loss of every level, with its weight."),
    ratio=('ratio', False, 'The distillation losses over the task loss.'),
    metrics=('per cent', False, 'On the validation set: the student over the training, and the teacher.'),
    gates=('mean |weight|', False, "How far every block has left the identity: its batch norm's weight starts at 0."),
    rate=('learning rate', False, 'The learning rate of the first group of parameters.'),
)


def run(folder: Path, metric: Optional[Metric]) -> Section:
    """Show what a training logged.

    Args:
        folder (Path): Its work folder.
        metric (Metric, optional): What rates it.

    Returns:
        Section: Its curves.
    """
    lines = logged(folder, metric)
    if not lines:
        words = [f'There is no log of the training beside the checkpoint, in {folder}: its curves are left out.']
        return Section('The run', words, [], [])
    drawn = [
        Picture(name, meaning, [[pictures.curves(lines[name], what, log)]])
        for name, (what, log, meaning) in _CURVES.items()
        if name in lines
    ]
    words = (
        [] if 'gates' in lines else ["Without CanBlockMonitorHook in the config, the blocks' gates were not logged."]
    )
    return Section('The run', words, [], drawn)


def _figure(value: float) -> str:
    return 'none' if np.isnan(value) else f'{value:.1f}'
