from contextlib import nullcontext
from typing import ContextManager, Dict, List, Mapping, Optional, Sequence, Union

import torch
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement
from mmrazor.models import SingleTeacherDistill
from mmrazor.models.utils import add_prefix
from mmrazor.registry import MODELS
from torch import Tensor, nn

from cankd_mm.errors import SetupError
from cankd_mm.models.algorithms.teacher_input import TeacherInput
from cankd_mm.models.builders import build_model, load_checkpoint, load_weights
from cankd_mm.models.utils import find_module

Parts = Union[Sequence[str], Mapping[str, str]]


@MODELS.register_module()
class FeatureDistill(SingleTeacherDistill):
    """Distill the features of a frozen teacher into a student, beside the student's own task loss.

    For detectors of MMDetection and segmentors of MMSegmentation alike. It differs from
    :class:`mmrazor.models.SingleTeacherDistill` where that wastes time or feeds the teacher the wrong input:

    - the teacher runs ``extract_feat`` only: no head, no target assignment, no losses;
    - the teacher stays wholly in eval mode: no dropout, no stochastic depth, frozen batch norm statistics;
    - the teacher sees the image normalized its own way, see :class:`TeacherInput`;
    - a teacher whose checkpoint does not fit, or that has none, is an error;
    - parts of the student can start from the teacher's weights (the paper's "inheriting strategy").

    Args:
        architecture (BaseModel | dict): The student or its config.
        teacher (BaseModel | dict | str): The teacher, its config, or the path of a config that has it as its
            ``model``: a file, or ``'mmdet::retinanet/retinanet_r101_fpn_2x_coco.py'``.
        distiller (dict): Config of the distiller, usually a :class:`CanKDDistiller`.
        teacher_ckpt (str, optional): The teacher's checkpoint, a path or an address. Training without one is an
            error, unless the teacher's own ``init_cfg`` loads one. Defaults to None.
        init_from_teacher (Sequence[str] | Mapping[str, str], optional): Parts of the student, as in
            ``student.named_modules()``, that start from the weights of the teacher's part of the same name; or a
            mapping from the student's part to the teacher's. Defaults to None.
        teacher_dtype (str, optional): ``'bfloat16'`` or ``'float16'`` runs the teacher under autocast in that type,
            also where the student trains in full precision. Measured for RetinaNet R101 at 800x1216 on two cores of an
            AMD EPYC: the teacher's pass takes 1.1 s in bfloat16 in place of 2.5 s. Defaults to None, the student's.
        compile_teacher (bool): Whether the teacher's pass goes through :func:`torch.compile`. Every new image size
            is compiled once more, so that it is of use for crops of one size. On the machine above it was slower than
            without; on a GPU it has not been measured. Defaults to False.
        data_preprocessor (dict | nn.Module, optional): Defaults to None, the student's.
        init_cfg (dict, optional): Initialization config. Defaults to None.

    Raises:
        SetupError: If the teacher's checkpoint is not there or does not fit, if it is missing at the start of a
            training, or if a part of ``init_from_teacher`` does not exist or differs in shape.

    Examples:
        >>> model = dict(
        ...     _scope_='mmrazor', type='FeatureDistill', architecture=_base_.model,
        ...     teacher='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
        ...     teacher_ckpt='work_dirs/retinanet_r101/epoch_24.pth',
        ...     init_from_teacher=['neck', 'bbox_head'],
        ...     distiller=dict(type='CanKDDistiller', source='neck', levels=4, loss=dict(type='CanKDLoss')))
    """

    def __init__(
        self,
        architecture: Union[BaseModel, dict],
        teacher: Union[BaseModel, dict, str],
        distiller: dict,
        teacher_ckpt: Optional[str] = None,
        init_from_teacher: Optional[Parts] = None,
        teacher_dtype: Optional[str] = None,
        compile_teacher: bool = False,
        data_preprocessor: Optional[Union[dict, nn.Module]] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        if teacher_dtype not in (None, 'bfloat16', 'float16'):
            raise SetupError(
                f"FeatureDistill cannot run the teacher in {teacher_dtype!r}: set teacher_dtype to 'bfloat16' or "
                "'float16', or leave it out."
            )
        student, teacher = build_model(architecture, 'student'), build_model(teacher, 'teacher')
        # The distiller's parts are MMRazor's, whatever library the rest of the config is of.
        with DefaultScope.overwrite_default_scope('mmrazor'):
            super().__init__(
                distiller=distiller,
                teacher=teacher,
                architecture=student,
                data_preprocessor=data_preprocessor,
                init_cfg=init_cfg,
            )
        if teacher_ckpt:
            state_dict = load_checkpoint(teacher_ckpt, 'teacher')['state_dict']
            load_weights(self.teacher, state_dict, teacher_ckpt, 'teacher')
            # Keeps init_weights from overwriting what was loaded.
            self.teacher._is_init = True
        self.teacher_input = TeacherInput(self.data_preprocessor, self.teacher.data_preprocessor)
        parts = init_from_teacher or {}
        self.init_from_teacher = dict(parts) if isinstance(parts, Mapping) else {part: part for part in parts}
        for part, source in self.init_from_teacher.items():
            _check_parts(
                find_module(self.student, part, 'student'), find_module(self.teacher, source, 'teacher'), part, source
            )
        self.teacher_dtype = teacher_dtype
        if compile_teacher:
            self.teacher.extract_feat = torch.compile(self.teacher.extract_feat)
        self.teacher.eval()

    def init_weights(self) -> None:
        """Initialize the student, then copy the parts that start from the teacher's weights."""
        if not self.teacher._is_init and self.teacher.init_cfg is None:
            raise SetupError(
                f'The teacher {type(self.teacher).__name__} has no trained weights: set model.teacher_ckpt '
                'in the config or with --cfg-options model.teacher_ckpt=PATH.'
            )
        super().init_weights()
        for part, source in self.init_from_teacher.items():
            self.student.get_submodule(part).load_state_dict(self.teacher.get_submodule(source).state_dict())

    def loss(self, inputs: Tensor, data_samples: Optional[List[BaseDataElement]] = None) -> Dict[str, Tensor]:
        """Compute the student's task losses and the distillation losses of a batch.

        Args:
            inputs (Tensor): Images normalized for the student, ``(N, 3, H, W)``.
            data_samples (list[BaseDataElement], optional): Their annotations.

        Returns:
            dict[str, Tensor]: The losses, under ``student.`` and ``distill.``.
        """
        if self.distillation_stopped:
            return add_prefix(self.student(inputs, data_samples, mode='loss'), 'student')
        distiller = self.distiller
        distiller.set_deliveries_override(False)
        with torch.no_grad(), self._teacher_autocast(inputs), distiller.teacher_recorders, distiller.deliveries:
            self.teacher.extract_feat(self.teacher_input(inputs, data_samples))
        for recorder in distiller.teacher_recorders.recorders.values():
            if not recorder.data_buffer:
                raise SetupError(
                    f"The teacher's {recorder.source!r} recorded nothing, as FeatureDistill runs only the "
                    "teacher's extract_feat (backbone and neck): record a module of these."
                )
        distiller.set_deliveries_override(True)
        with distiller.student_recorders, distiller.deliveries:
            losses = add_prefix(self.student(inputs, data_samples, mode='loss'), 'student')
        losses.update(add_prefix(distiller.compute_distill_losses(), 'distill'))
        return losses

    def _teacher_autocast(self, inputs: Tensor) -> ContextManager:
        if self.teacher_dtype is None:
            return nullcontext()
        return torch.autocast(inputs.device.type, dtype=getattr(torch, self.teacher_dtype))

    def train(self, mode: bool = True) -> 'FeatureDistill':
        """Set the mode of the student and the losses; the teacher stays in eval mode.

        Args:
            mode (bool): Whether to train. Defaults to True.

        Returns:
            FeatureDistill: Itself.
        """
        super().train(mode)
        self.teacher.eval()
        return self


def _check_parts(student: nn.Module, teacher: nn.Module, part: str, source: str) -> None:
    """Raise where the student's part cannot take the weights of the teacher's."""
    ours, theirs = student.state_dict(), teacher.state_dict()
    for key in sorted(ours.keys() | theirs.keys()):
        if key not in ours or key not in theirs:
            owner, other = ('student', 'teacher') if key in ours else ('teacher', 'student')
            raise SetupError(
                f"init_from_teacher cannot fill the student's {part!r} from the teacher's {source!r}: the "
                f'{owner} has {key}, the {other} has not; take a part that both share.'
            )
        if ours[key].shape != theirs[key].shape:
            raise SetupError(
                f"init_from_teacher cannot fill the student's {part}.{key} {tuple(ours[key].shape)} from the teacher's "
                f'{source}.{key} {tuple(theirs[key].shape)}: leave {part!r} out, or give both models the same.'
            )
