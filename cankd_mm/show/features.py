"""What student and teacher have in common on one image, level by level."""

from typing import Dict, Iterator, List, NamedTuple, Optional

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from cankd_mm.errors import SetupError
from cankd_mm.models import CanBlock, CanKDLoss, FeatureDistill
from cankd_mm.models.algorithms.frozen_teacher import empty_sources
from cankd_mm.models.losses.normalized_mse import NORMS

EPS = 1e-5


class Level(NamedTuple):
    """One distilled feature of one image, as its loss compares it; every map is of one image.

    Args:
        name (str): The loss without its ``loss_``, as in the log: ``'neck_0'``.
        student (Tensor): Student feature after connector and resizing, ``(1, C, H, W)``.
        teacher (Tensor): Teacher feature as the block attends to it, ``(1, C, H', W')``.
        target (Tensor): Teacher feature in the student's size, ``(1, C, H, W)``.
        norm (str, optional): What both are normalized by: ``'instance'``, ``'layer'``, or None.
        block (CanBlock, optional): The level's block.
    """

    name: str
    student: Tensor
    teacher: Tensor
    target: Tensor
    norm: Optional[str]
    block: Optional[CanBlock]

    def normalized(self, feature: Tensor) -> Tensor:
        """Normalize a feature as the loss does.

        Args:
            feature (Tensor): ``(1, C, H, W)``.

        Returns:
            Tensor: ``(1, C, H, W)``.
        """
        if self.norm is None:
            return feature.float()
        var, mean = torch.var_mean(feature.float(), NORMS[self.norm], correction=0, keepdim=True)
        return (feature - mean) * (var + EPS).rsqrt()

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
        """Compute how the student's and the teacher's feature correlate over the pixels.

        Returns:
            Tensor: Pearson's correlation of every channel, ``(C,)``; zero where one of both is constant.
        """
        student, target = (f[0].flatten(1).double() for f in (self.student, self.target))
        student, target = student - student.mean(1, keepdim=True), target - target.mean(1, keepdim=True)
        size = student.norm(dim=1) * target.norm(dim=1)
        return torch.where(size > 0, (student * target).sum(1) / size, 0.0).float()

    def cka(self) -> float:
        """Compute how alike both features are up to a rotation of the channels, by linear centred kernel alignment.

        `Kornblith et al. 2019 <https://arxiv.org/abs/1905.00414>`_, over the pixels. Two networks that were trained
        apart have their channels in different orders, which this does not see.

        Returns:
            float: 1 where both are alike, 0 where they have nothing in common, or where one is constant.
        """
        student, target = (f[0].flatten(1).double() for f in (self.student, self.target))
        student, target = student - student.mean(1, keepdim=True), target - target.mean(1, keepdim=True)
        size = (student @ student.T).norm() * (target @ target.T).norm()
        return float((student @ target.T).square().sum() / size) if size > 0 else 0.0


@torch.no_grad()
def levels_of(model: FeatureDistill, inputs: Tensor, data_samples: List[BaseDataElement]) -> Dict[str, Level]:
    """Run student and teacher on one image, and pair what their recorders take.

    A loss that is not :class:`CanKDLoss` is looked at as that without a block is: after instance norm.

    Args:
        model (FeatureDistill): In eval mode.
        inputs (Tensor): The image normalized for the student, ``(1, 3, H, W)``.
        data_samples (list[BaseDataElement]): What belongs to it.

    Returns:
        dict[str, Level]: The levels by the names of their losses.

    Raises:
        SetupError: If a distilled feature is not there without a training step, or is no map.
    """
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
        return {level.name: level for level in _levels(distiller)}
    finally:
        for recorder in (*teacher.recorders.values(), *student.recorders.values()):
            recorder.reset_data_buffer()


def _levels(distiller) -> Iterator[Level]:
    for name, loss in distiller.distill_losses.items():
        name = name.replace('loss_', '', 1)
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
        yield Level(name, *ours.resized(student, teacher), ours.norm, ours.can)
