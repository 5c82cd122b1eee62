"""What student and teacher have in common on one image, level by level, and where the blocks look."""

import copy
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor
from torch.nn import functional as F

from cankd_mm.errors import SetupError
from cankd_mm.models import CanBlock, CanKDLoss, FeatureDistill
from cankd_mm.models.distillers.recording import empty_sources, recording
from cankd_mm.models.losses.normalized_mse import NORMS
from cankd_mm.show.stages import Sample

Point = Tuple[float, float]


class FeaturePair(NamedTuple):
    """One distilled feature of student and teacher on one image, as the loss compares them."""

    student: Tensor  # after connector and resizing, (1, C, H, W)
    teacher: Tensor  # as the block attends to it, (1, C, H', W')
    target: Tensor  # the teacher's in the student's size, (1, C, H, W)
    norm: Optional[str]
    block: Optional[CanBlock]

    def normalized(self, feature: Tensor) -> Tensor:
        """Normalize a feature ``(1, C, H, W)`` as the loss does, to the same shape."""
        feature = feature.float()
        return F.layer_norm(feature, feature.shape[NORMS[self.norm][0] :]) if self.norm else feature

    def left(self, through_block: bool = False) -> Tensor:
        """Compute the squared difference after the normalization, ``(H, W)``; its mean is the loss over its weight."""
        student = self.block(self.student, self.teacher) if through_block and self.block else self.student
        return (self.normalized(student) - self.normalized(self.target)).square_().mean(1)[0]

    def correlation(self) -> Tensor:
        """Compute Pearson's correlation of every channel over the pixels, ``(C,)``; zero where one is constant."""
        return F.cosine_similarity(*self._centred(), dim=1).float()

    def cka(self) -> float:
        """Compute linear centred kernel alignment over the pixels: 1 where both are alike, 0 where one is constant.

        `Kornblith et al. 2019 <https://arxiv.org/abs/1905.00414>`_. It does not see a rotation of the channels, whose
        order differs in networks that were trained apart.
        """
        student, target = self._centred()
        size = (student @ student.T).norm() * (target @ target.T).norm()
        return float((student @ target.T).square().sum() / size) if size > 0 else 0.0

    def added(self) -> Tensor:
        """Compute what the block adds to its input, ``|BN(W y)| / |x|`` of every pixel, ``(H, W)``."""
        z = self.block(self.student, self.teacher)
        added = z - self.student if self.block.residual else z
        return added.norm(dim=1)[0] / self.student.norm(dim=1)[0].clamp(min=1e-12)

    def looks(self, points: Sequence[Point], size: Tuple[int, int]) -> Tuple[Tensor, Tensor, Tensor]:
        """Look through the block from K points of the model's input, which has this height and width.

        Returns the affinities over the teacher's pooled feature, ``(K, H, W)``; the share of each on the tenth of the
        pixels where it is largest, ``(K,)``, 0.1 if it is even; and what the block adds to these points, ``(K,)``.
        """
        height, width = self.student.shape[2:]
        rows = [min(int(y * height / size[0]), height - 1) for _, y in points]
        columns = [min(int(x * width / size[1]), width - 1) for x, _ in points]
        affinity = self.block.affinity(self.student, self.teacher, [*zip(rows, columns)]).float()
        sizes = affinity.abs().flatten(1).sort(descending=True).values
        tenth = max(round(sizes.shape[1] / 10), 1)
        shares = (sizes[:, :tenth].sum(1) / sizes.sum(1)).nan_to_num(tenth / sizes.shape[1])
        return affinity, shares, self.added()[rows, columns]

    def _centred(self) -> List[Tensor]:
        """Both features as ``(C, H * W)``, without the mean of each channel."""
        flat = [feature[0].flatten(1).double() for feature in (self.student, self.target)]
        return [feature - feature.mean(1, keepdim=True) for feature in flat]


def feature_pairs(model: FeatureDistill, sample: Sample) -> Tuple[np.ndarray, Dict[str, FeaturePair]]:
    """Run student and teacher on an image, and pair the features that each loss takes.

    The image is returned as both are given it, ``(H, W, 3)`` in RGB and black where it is padded. The pairs have the
    names of the losses without ``loss_``, as in the log: ``'neck_0'``.
    """
    data = model.data_preprocessor(copy.deepcopy(sample.data), False)
    inputs, data_samples, distiller = data['inputs'], data['data_samples'], model.distiller
    image = sample.data['inputs'][0].float().clamp(0, 255).byte()
    image = image.flip(0) if len(image) == 3 else image[:1].expand(3, -1, -1)  # OpenCV reads blue first
    image = F.pad(image, (0, inputs.shape[3] - image.shape[2], 0, inputs.shape[2] - image.shape[1]))
    model.frozen_teacher.record(distiller.teacher_recorders, inputs, data_samples)
    with recording(distiller.student_recorders, model, 'student'):
        model.extract_feat(inputs)
        if empty_sources(distiller.student_recorders):
            model(inputs, data_samples, mode='tensor')
    for source in empty_sources(distiller.student_recorders):
        problem = f'The feature {source!r} is recorded in training steps alone, and cannot be shown'
        raise SetupError(f'{problem}: distil from the backbone, the neck, or a head that predictions run.')
    pairs = {}
    for key, loss in distiller.distill_losses.items():
        name, records = key.replace('loss_', '', 1), distiller.loss_forward_mappings[key].values()
        features = {record['from_student']: distiller.get_record(**record) for record in records}
        student, teacher = features.get(True), features.get(False)
        if not all(isinstance(f, Tensor) and f.dim() == 4 for f in (student, teacher)):
            raise SetupError(f'What the loss of {name!r} compares is no feature map (N, C, H, W), and cannot be shown.')
        if student.shape[1] != teacher.shape[1]:
            channels = f'The features of {name!r} have {student.shape[1]} and {teacher.shape[1]} channels'
            raise SetupError(f'{channels}, whatever their loss makes of it: only those of equal channels can be shown.')
        # Any other loss is looked at as a CanKDLoss without a block: after instance norm.
        ours = loss if isinstance(loss, CanKDLoss) else CanKDLoss(student.shape[1], mode=None, resize='student')
        pairs[name] = FeaturePair(*ours.resized(student, teacher), ours.norm, ours.can)
    return image.permute(1, 2, 0).numpy(), pairs


def points_of(sample: BaseDataElement, shape: Tuple[int, int], count: int) -> List[Point]:
    """Choose points of the image: the centres of its largest objects, or of a grid where there are none."""
    (height, width), found = shape, []
    if 'gt_instances' in sample and len(sample.gt_instances):
        boxes = sample.gt_instances.bboxes
        boxes = torch.as_tensor(getattr(boxes, 'tensor', boxes))[:, :4]
        largest = (boxes[:, 2:] - boxes[:, :2]).prod(1).argsort(descending=True)
        found = [((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in boxes[largest].tolist()]
    elif 'gt_sem_seg' in sample:
        labels, deepest = sample.gt_sem_seg.data.squeeze().numpy(), []
        for label in np.unique(labels[labels != 255]):
            depth = cv2.distanceTransform(np.pad(labels == label, 1).astype(np.uint8), cv2.DIST_L2, 5)
            _, most, _, (x, y) = cv2.minMaxLoc(depth)
            deepest.append((most, (x - 0.5, y - 0.5)))  # the pixel with the most of its class around it
        found = [point for _, point in sorted(deepest, reverse=True)]
    grid = [(width * x / 4, height * y / 4) for x, y in ((2, 2), (1, 1), (3, 3), (3, 1), (1, 3))]
    return (found or grid)[:count]
