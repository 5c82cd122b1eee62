from contextlib import contextmanager
from functools import lru_cache
from typing import Dict, Iterator, List, Optional, Sequence, Union
from unittest.mock import patch

import torch
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement
from mmrazor.models.utils import add_prefix
from mmrazor.registry import MODELS
from torch import Tensor
from torch.utils._pytree import tree_map

from cankd_mm.errors import SetupError
from cankd_mm.models.algorithms.backbone_teacher import BackboneTeacher
from cankd_mm.models.algorithms.frozen_teacher import FrozenTeacher, TeacherInput
from cankd_mm.models.algorithms.parts import Parts, find_parts
from cankd_mm.models.builders import build_model
from cankd_mm.models.checkpoints import load_pretrained, pretrained_cfg
from cankd_mm.models.distillers.recording import detach, empty_sources, recording
from cankd_mm.models.utils import find_module


@MODELS.register_module()
class FeatureDistill(BaseModel):
    """Distill the features of a frozen teacher into a student, beside the student's own task loss.

    What it builds **is the student**, a detector or segmentor whose class gets :class:`FeatureDistill` as a further
    base class, as :func:`torch.distributed.fsdp.fully_shard` does. Hooks, optimizers, evaluation and checkpoints find
    the model that they know; what is trained beside it stands under ``distiller``. Further differences from
    :class:`mmrazor.models.SingleTeacherDistill`:

    - the teacher runs ``extract_feat`` alone, heads as well where one of them is distilled, and target assignment and
      losses only for deliveries;
    - the teacher stays wholly in eval mode, and sees the image normalized its own way;
    - the teacher is no part of the module tree, and checkpoints hold its fingerprint in place of its weights.

    Args:
        architecture (BaseModel | dict | str): The student, its config, or the path of a config that has it as its
            ``model``. A student that is built already is changed in place.
        teacher (BaseModel | dict | str): The same of the teacher, also ``'mmdet::PATH'``. A backbone alone serves as
            well: ``'timm::NAME'``, or a :class:`BackboneTeacher`.
        distiller (dict): Config of the distiller, usually a :class:`CanKDDistiller`.
        teacher_ckpt (str, optional): The teacher's checkpoint, a path or an address. Defaults to None, what the
            teacher's own ``init_cfg`` loads or timm has.
        init_from_teacher (str | Sequence[str] | Mapping[str, str], optional): Parts of the student that start from the
            teacher's weights of the same name (the paper's "inheriting strategy"), a mapping from its parts to the
            teacher's, or ``'auto'``, all behind the backbone whose names and shapes fit. Defaults to None.
        frozen_parts (Sequence[str]): Those of them that stay as the teacher has them, in eval mode. A training without
            labels needs it of the heads, which nothing else would keep. Defaults to (), none.
        teacher_dtype (str, optional): ``'bfloat16'`` or ``'float16'`` runs the teacher under autocast in that type,
            also where the student trains in full precision. Defaults to None, the student's type.
        data_preprocessor (dict, optional): The student's, where its own config has none. Defaults to None.

    Raises:
        SetupError: If a checkpoint or a part does not exist or fit, or a training starts without the teacher's weights.

    Examples:
        >>> model = dict(
        ...     _scope_='mmrazor', type='FeatureDistill', architecture=student,
        ...     teacher='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py', teacher_ckpt='teacher.pth',
        ...     distiller=dict(type='CanKDDistiller', source='neck', levels=4, loss=dict(type='CanKDLoss')))
    """

    def __new__(cls, architecture, *args, data_preprocessor=None, **kwargs) -> BaseModel:
        """Build the student, and make this class the first base of its class."""
        student = build_model(architecture, 'student', data_preprocessor)
        for attribute in ('teacher', 'distiller'):
            if hasattr(student, attribute):
                raise SetupError(
                    f'The student {type(student).__name__} has a {attribute} of its own, and cannot be distilled '
                    "beside it: give the detector or segmentor inside it as the student's config."
                )
        student.__class__ = _distilled(cls, type(student))
        return student

    def __init__(
        self,
        architecture: Union[BaseModel, dict, str],
        teacher: Union[BaseModel, dict, str],
        distiller: dict,
        teacher_ckpt: Optional[str] = None,
        init_from_teacher: Optional[Parts] = None,
        frozen_parts: Sequence[str] = (),
        teacher_dtype: Optional[str] = None,
        data_preprocessor: Optional[dict] = None,
    ) -> None:
        # __new__ has built the student: nothing of it is initialized again.
        before = set(self.__dict__)
        try:
            self._add_distillation(teacher, distiller, teacher_ckpt, init_from_teacher or {}, teacher_dtype)
            self.frozen_parts = list(frozen_parts)
            for part in self.frozen_parts:
                if not any(f'{part}.'.startswith(f'{inherited}.') for inherited in self.init_from_teacher):
                    problem = f"frozen_parts names {part!r}, which does not start from the teacher's"
                    raise SetupError(f'{problem}: name it in init_from_teacher as well, or let it train.')
                find_module(self, part, 'student').requires_grad_(False)
        except BaseException:  # the student may be the caller's, and goes on without one
            for name in set(self.__dict__) - before:
                del self.__dict__[name]
            self._modules.pop('distiller', None)
            detach(self)
            self.__class__ = self._student_type
            raise

    def _add_distillation(
        self,
        teacher: Union[BaseModel, dict, str],
        distiller: dict,
        teacher_ckpt: Optional[str],
        init_from_teacher: Parts,
        teacher_dtype: Optional[str],
    ) -> None:
        if teacher_dtype not in (None, 'bfloat16', 'float16'):
            advice = "set teacher_dtype to 'bfloat16' or 'float16', or leave it out."
            raise SetupError(f'FeatureDistill cannot run the teacher in {teacher_dtype!r}: {advice}')
        teacher = build_model(teacher, 'teacher')
        weights = dict(checkpoint=teacher_ckpt) if teacher_ckpt else pretrained_cfg(teacher)
        if weights is not None:
            load_pretrained(teacher, weights, 'teacher')
        self.teacher_ckpt = weights and weights['checkpoint']
        if weights is None and isinstance(teacher, BackboneTeacher) and teacher.name:
            self.teacher_ckpt = teacher.load_own_weights()
        # What is recorded must not be overwritten by the layer that comes next.
        for module in (*self.modules(), *teacher.modules()):
            if hasattr(module, 'inplace'):
                module.inplace = False
        # Not a child, and so in no state dict, no optimizer and no average of the weights, and nothing broadcasts it.
        object.__setattr__(self, 'frozen_teacher', FrozenTeacher(teacher, self, teacher_dtype))
        # The distiller's parts are MMRazor's, whatever library the rest of the config is of.
        with DefaultScope.overwrite_default_scope('mmrazor'):
            distiller = MODELS.build(distiller)
            distiller.prepare_from_student(self)
            distiller.prepare_from_teacher(teacher)
        self.distiller = distiller
        self.distillation_stopped = False  # set by MMRazor's StopDistillHook
        self.distill_scale = 1.0  # set by DistillScheduleHook
        self.init_from_teacher = find_parts(self, teacher, init_from_teacher)

    def __reduce_ex__(self, protocol: int) -> tuple:
        """Copy and pickle a model whose class stands in no module."""
        return _empty, (type(self).__mro__[1], self._student_type), self.__dict__

    @property
    def teacher(self) -> BaseModel:
        """The teacher."""
        return self.frozen_teacher.model

    @property
    def teacher_input(self) -> TeacherInput:
        """What turns the student's batch into the teacher's."""
        return self.frozen_teacher.input

    @contextmanager
    def student_alone(self) -> Iterator[BaseModel]:
        """Take the distiller out of the module tree meanwhile, which leaves the student as it is without one."""
        distiller = self._modules.pop('distiller')
        try:
            yield self
        finally:
            self._modules['distiller'] = distiller

    def init_weights(self) -> None:
        """Initialize the student, then copy the parts that start from the teacher's weights."""
        if self.teacher_ckpt is None:
            advice = 'set model.teacher_ckpt in the config or with --cfg-options model.teacher_ckpt=PATH.'
            raise SetupError(f'The teacher {type(self.teacher).__name__} has no trained weights: {advice}')
        with self.student_alone():  # a rule of its init_cfg is for its own layers
            super().init_weights()
        self.distiller.init_weights()
        for part, source in self.init_from_teacher.items():
            self.get_submodule(part).load_state_dict(self.teacher.get_submodule(source).state_dict())

    def loss(self, inputs: Tensor, data_samples: Optional[List[BaseDataElement]] = None) -> Dict[str, Tensor]:
        """Compute the student's task losses, under ``student.``, the distillation losses, under ``distill.``, and for
        the log, where an image has labels, ``distill_to_task``, the sum of the latter over that of the former.
        """
        distiller = self.distiller
        if self.distillation_stopped:
            losses = add_prefix(self._task_losses(inputs, data_samples), 'student')
            # Distributed training wants a gradient for every parameter that it has started with, and the log zeros.
            zero = 0 * sum((p.sum() for p in distiller.parameters() if p.requires_grad), inputs.new_zeros(()))
            distill_losses = dict.fromkeys(distiller.distill_losses, zero)
            return {**losses, **add_prefix(distill_losses, 'distill'), 'distill_to_task': zero.detach()}
        distiller.set_deliveries_override(False)
        with distiller.deliveries:
            # Anything that a training runs may be delivered.
            losses = bool(distiller.deliveries.deliveries)
            self.frozen_teacher.record(distiller.teacher_recorders, inputs, data_samples, losses)
        distiller.set_deliveries_override(True)
        with recording(distiller.student_recorders, self, 'student'), distiller.deliveries:
            losses = add_prefix(self._task_losses(inputs, data_samples), 'student')
        distill_losses = {k: self.distill_scale * v for k, v in distiller.compute_distill_losses().items()}
        if data_samples and all(map(is_unlabeled, data_samples)):
            return {**losses, **add_prefix(distill_losses, 'distill')}
        # A log entry, since its name has no 'loss': the first thing to look at when loss_weight is in question.
        with torch.no_grad():
            (distill, _), (task, _) = self.parse_losses(distill_losses), self.parse_losses(losses)
            ratio = torch.where(task == 0, 0, distill / task.float())  # infinity is no JSON
        return {**losses, **add_prefix(distill_losses, 'distill'), 'distill_to_task': ratio}

    def _task_losses(self, inputs: Tensor, data_samples: Optional[List[BaseDataElement]]) -> Dict[str, Tensor]:
        """Compute the student's own losses on the images that have labels; all go through it, and are recorded."""
        labeled = [number for number, sample in enumerate(data_samples or ()) if not is_unlabeled(sample)]
        if data_samples is None or len(labeled) == len(data_samples):
            return super().loss(inputs, data_samples)
        features = self.extract_feat(inputs)
        recorders = self.distiller.student_recorders
        if empty_sources(recorders) and not self.distillation_stopped:  # a head is distilled
            with patch.object(self, 'extract_feat', lambda inputs: features):
                self(inputs, data_samples, mode='tensor')
            for source in empty_sources(recorders):
                problem = f"The student's {source!r} is run where labels are, and a batch has images without"
                raise SetupError(f'{problem}: distil from the backbone, the neck, or a head that predictions run.')
        if not labeled:  # distributed training wants a gradient for every parameter
            return dict(loss=0 * sum((p.sum() for p in self.parameters() if p.requires_grad), inputs.new_zeros(())))
        part = tree_map(lambda feature: feature[labeled] if isinstance(feature, Tensor) else feature, features)
        with patch.object(self, 'extract_feat', lambda inputs: part):
            return super().loss(inputs[labeled], [data_samples[number] for number in labeled])

    def get_extra_state(self) -> Tensor:
        """Put the teacher's fingerprint into checkpoints, as ``_extra_state``."""
        return self.frozen_teacher.fingerprint

    def set_extra_state(self, state: Tensor) -> None:
        """Ignore the fingerprint of a checkpoint, which resuming a training compares."""

    def train(self, mode: bool = True) -> 'FeatureDistill':
        """Set the mode of the student and the losses; the teacher stays in eval mode."""
        self.frozen_teacher.train()
        super().train(mode)
        for part in getattr(self, 'frozen_parts', ()):  # none while it is built
            self.get_submodule(part).eval()
        return self

    def _apply(self, *args: object, **kwargs: object) -> 'FeatureDistill':
        """Move the teacher with the student, for ``to``, ``cuda``, ``half`` and their like."""
        if 'frozen_teacher' in self.__dict__:
            self.frozen_teacher._apply(*args, **kwargs)
        return super()._apply(*args, **kwargs)

    def to_empty(self, *args: object, **kwargs: object) -> 'FeatureDistill':
        """Forget the student's weights, and keep the teacher's, which nothing loads again."""
        teacher = self.__dict__.pop('frozen_teacher')
        try:
            return super().to_empty(*args, **kwargs)
        finally:
            object.__setattr__(self, 'frozen_teacher', teacher)

    def _set_device(self, device: torch.device) -> None:
        self.teacher._set_device(device)
        super()._set_device(device)


def is_unlabeled(sample: BaseDataElement) -> bool:
    """Tell whether an image has no labels, as :class:`UnlabeledImages` says."""
    return bool(sample.metainfo.get('unlabeled'))


@lru_cache(maxsize=None)
def _distilled(cls: type, student: type) -> type:
    """The class of a student that is distilled, one for all of its kind."""
    return type(student.__name__, (cls, student), dict(_student_type=student))


def _empty(cls: type, student: type) -> FeatureDistill:
    return object.__new__(_distilled(cls, student))
