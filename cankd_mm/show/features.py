"""Every distilled feature: what student and teacher have in common, level by level."""

from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cankd_mm.errors import SetupError
from cankd_mm.models import CanBlock, CanKDLoss, FeatureDistill
from cankd_mm.models.algorithms.frozen_teacher import empty_sources
from cankd_mm.models.losses.normalized_mse import NORMS
from cankd_mm.show.page import Picture, Section, Table
from cankd_mm.show.pictures import heat, histogram, shrunk
from cankd_mm.show.samples import Sample, preprocessed
from cankd_mm.show.stages import AFTER, ALONE, BEFORE, Stages

_EPS = 1e-5
_NAMES = {BEFORE: 'before', AFTER: 'after', ALONE: 'student alone'}
_MAPS = 4  # images whose maps are shown; figures are of all


class FeaturePair(NamedTuple):
    """One distilled feature of student and teacher on one image, as the loss compares them.

    Args:
        student (Tensor): Student feature after connector and resizing, ``(1, C, H, W)``.
        teacher (Tensor): Teacher feature as the block attends to it, ``(1, C, H', W')``.
        target (Tensor): Teacher feature in the student's size, ``(1, C, H, W)``.
        norm (str, optional): What both are normalized by: ``'instance'``, ``'layer'``, or None.
        block (CanBlock, optional): The level's block.
    """

    student: Tensor
    teacher: Tensor
    target: Tensor
    norm: Optional[str]
    block: Optional[CanBlock]

    def normalized(self, feature: Tensor) -> Tensor:
        """Normalize a feature ``(1, C, H, W)`` as the loss does, to the same shape."""
        if self.norm is None:
            return feature.float()
        var, mean = torch.var_mean(feature.float(), NORMS[self.norm], correction=0, keepdim=True)
        return (feature - mean) * (var + _EPS).rsqrt()

    def left(self, through_block: bool = False) -> Tensor:
        """Compute what is left between both after the normalization; its mean is the loss over its weight.

        Args:
            through_block (bool): Whether the student's feature goes through the block first. Defaults to False.

        Returns:
            Tensor: The squared difference, averaged over the channels, ``(H, W)``.
        """
        student = self.block(self.student, self.teacher) if through_block and self.block else self.student
        return (self.normalized(student) - self.normalized(self.target)).square_().mean(1)[0]

    def correlation(self) -> Tensor:
        """Compute Pearson's correlation of every channel over the pixels, ``(C,)``; zero where one is constant."""
        student, target = self._centred()
        size = student.norm(dim=1) * target.norm(dim=1)
        return torch.where(size > 0, (student * target).sum(1) / size, 0.0).float()

    def cka(self) -> float:
        """Compute how alike both features are up to a rotation of the channels, by linear centred kernel alignment.

        `Kornblith et al. 2019 <https://arxiv.org/abs/1905.00414>`_, over the pixels. Two networks that were trained
        apart have their channels in different orders, which this does not see.

        Returns:
            float: 1 where both are alike, 0 where they have nothing in common, or where one is constant.
        """
        student, target = self._centred()
        size = (student @ student.T).norm() * (target @ target.T).norm()
        return float((student @ target.T).square().sum() / size) if size > 0 else 0.0

    def _centred(self) -> List[Tensor]:
        """Both features as ``(C, H * W)``, without the mean of each channel."""
        flat = [feature[0].flatten(1).double() for feature in (self.student, self.target)]
        return [feature - feature.mean(1, keepdim=True) for feature in flat]


@torch.no_grad()
def feature_pairs(model: FeatureDistill, sample: Sample) -> Tuple[np.ndarray, Dict[str, FeaturePair]]:
    """Run student and teacher on one image, and pair what their recorders take.

    A loss that is not :class:`CanKDLoss` is looked at as that without a block is: after instance norm.

    Args:
        model (FeatureDistill): In eval mode.
        sample (Sample): The image.

    Returns:
        tuple[np.ndarray, dict[str, FeaturePair]]: What both were given, ``(H, W, 3)`` in RGB and black where it is
        padded; and the features by the names of their losses without ``loss_``, as in the log: ``'neck_0'``.

    Raises:
        SetupError: If a distilled feature is not there without a training step, or is no map.
    """
    inputs, data_samples = preprocessed(model, sample)
    distiller = model.distiller
    teacher, student = distiller.teacher_recorders, distiller.student_recorders
    try:
        model.frozen_teacher.record(teacher, inputs, data_samples)
        with student:
            model.extract_feat(inputs)
            if empty_sources(student):
                model(inputs, data_samples, mode='tensor')
        for source in empty_sources(student):
            raise SetupError(
                f'The feature {source!r} is recorded in training steps alone, and cannot be shown: distil from a '
                'module of the backbone, the neck, or a head that predictions run.'
            )
        names = [name.replace('loss_', '', 1) for name in distiller.distill_losses]
        return _picture(sample, inputs.shape[2:]), {name: _recorded(distiller, name) for name in names}
    finally:
        for recorder in (*teacher.recorders.values(), *student.recorders.values()):
            recorder.reset_data_buffer()


def _recorded(distiller, name: str) -> FeaturePair:
    """What one loss takes of the recorders."""
    loss = distiller.distill_losses[f'loss_{name}']
    features = {}
    for record in distiller.loss_forward_mappings[f'loss_{name}'].values():
        features[record['from_student']] = distiller.get_record(**record)
    student, teacher = features.get(True), features.get(False)
    if not all(isinstance(f, Tensor) and f.dim() == 4 for f in (student, teacher)):
        raise SetupError(f'What the loss of {name!r} compares is no feature map (N, C, H, W), and cannot be shown.')
    ours = loss if isinstance(loss, CanKDLoss) else CanKDLoss(student.shape[1], mode=None, resize='student')
    if student.shape[1] != teacher.shape[1]:
        raise SetupError(
            f'The features of {name!r} have {student.shape[1]} and {teacher.shape[1]} channels, of which a loss of '
            f'its own makes one: only features of equal channels can be shown.'
        )
    return FeaturePair(*ours.resized(student, teacher), ours.norm, ours.can)


def _picture(sample: Sample, size: Tuple[int, int]) -> np.ndarray:
    """The image as a model of this input size is given it, ``(H, W, 3)`` in RGB."""
    image = sample.data['inputs'][0].float().clamp(0, 255)
    image = image.flip(0) if len(image) == 3 else image[:1].expand(3, -1, -1)  # OpenCV reads blue first
    padded = F.pad(image, (0, size[1] - image.shape[2], 0, size[0] - image.shape[1]))
    return padded.byte().permute(1, 2, 0).numpy()


class _Measured(NamedTuple):
    """What is kept of a feature at one stage on one image; all maps are ``(H, W)``."""

    shape: Tuple[int, int, int]
    norm: Optional[str]
    student: Tensor  # mean size of the channels
    teacher: Tensor
    left: Tensor
    through: float
    correlation: Tensor
    cka: float


@torch.no_grad()
def _measured(pair: FeaturePair, through_block: bool) -> _Measured:
    maps = [pair.normalized(feature).abs().mean(1)[0].cpu() for feature in (pair.student, pair.target)]
    through = pair.left(True).mean().item() if through_block else float('nan')
    correlation = pair.correlation().cpu()
    return _Measured(pair.student.shape[1:], pair.norm, *maps, pair.left().cpu(), through, correlation, pair.cka())


Measures = Dict[str, List[_Measured]]  # by stage, one for each image


def sections(stages: Stages, chosen: Sequence[Sample]) -> List[Section]:
    """Show every distilled feature: what is left between student and teacher, and the maps of both.

    Args:
        stages (Stages): The pair.
        chosen (Sequence[Sample]): The images.

    Returns:
        list[Section]: One with the figures of all levels, and one for each level.
    """
    order = [stage for stage in _NAMES if stage in stages.weights]
    levels: Dict[str, Measures] = {}
    for stage in order:
        model, images = stages.at(stage), []
        for sample in chosen:
            image, pairs = feature_pairs(model, sample)
            images.append(shrunk(image))
            for name, pair in pairs.items():
                # A connector is trained with its student; that of the distilled one says nothing of another.
                if stage != ALONE or f'loss_{name}' not in model.distiller.connectors:
                    by_stage = levels.setdefault(name, {})
                    by_stage.setdefault(stage, []).append(_measured(pair, through_block=stage == AFTER))
    return [_figures(levels, order), *(_maps(name, level, images) for name, level in levels.items())]


def _figures(levels: Dict[str, Measures], order: Sequence[str]) -> Section:
    heads = ['level', 'size', *(f'left, {_NAMES[s]}' for s in order), 'left, through the block']
    heads += [f'CKA, {_NAMES[s]}' for s in order]
    rows = []
    for name, measures in levels.items():
        after = measures[AFTER]
        left = [_mean([m.left.mean() for m in measures.get(s, ())], 3) for s in order]
        cka = [_mean([m.cka for m in measures.get(s, ())], 2) for s in order]
        rows.append([name, 'x'.join(map(str, after[0].shape)), *left, _mean([m.through for m in after], 3), *cka])
    meaning = (
        'The size is channels x height x width. Left is the mean squared difference between student and teacher after '
        'the normalization of the loss, which is the loss over its weight: after instance norm 0 where both are equal, '
        '2 where they have nothing in common. '
        'CKA says how alike both are whatever the order of their channels, 1 at most, over the pixels of an image.'
    )
    if any(len(measures) < len(order) for measures in levels.values()):
        meaning += ' Of the student alone nothing can be said where a connector lies between, trained with the other.'
    return Section('Every distilled feature', tables=[Table(heads, rows, meaning)])


def _mean(figures: Sequence[float], digits: int) -> str:
    return f'{np.mean([float(figure) for figure in figures]):.{digits}f}' if figures else 'connector'


def _maps(name: str, measures: Measures, images: Sequence[np.ndarray]) -> Section:
    names = [_NAMES[stage] for stage in measures]
    norm = dict(instance='after instance norm', layer='after layer norm').get(measures[AFTER][0].norm, 'as they are')
    features, left = [], []
    for number, image in enumerate(images[:_MAPS]):
        here = {stage: measured[number] for stage, measured in measures.items()}
        features.append([image, *heat([here[AFTER].teacher, *(m.student for m in here.values())], image)])
        left.append([image, *heat([m.left for m in here.values()], image)])
    students = [name if name == _NAMES[ALONE] else f'student, {name}' for name in names]
    correlations = {_NAMES[s]: torch.stack([m.correlation for m in all_m]).mean(0) for s, all_m in measures.items()}
    drawn = [
        Picture(
            f'{name}_features',
            f"The teacher's and the student's feature {norm}: the mean size of the channels, on one scale for an "
            'image. Red is large.',
            features,
            ['input', 'teacher', *students],
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
            [[histogram(correlations, 'correlation with the teacher')]],
        ),
    ]
    return Section(f'Level {name}', pictures=drawn)
