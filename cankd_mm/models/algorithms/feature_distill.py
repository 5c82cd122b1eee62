import hashlib
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

    - the teacher runs ``extract_feat`` only, no head, and never target assignment or losses; a pass with the heads
      where what is distilled lies in one of them, such as a segmentor's logits;
    - the teacher stays wholly in eval mode: no dropout, no stochastic depth, frozen batch norm statistics;
    - the teacher sees the image normalized its own way, see :class:`TeacherInput`;
    - a teacher whose checkpoint does not fit, or that has none, is an error;
    - checkpoints hold no teacher, which has a file of its own, but its fingerprint;
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
        self.teacher_ckpt = teacher_ckpt
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
        self._teacher_runs_heads = False
        self._teacher_fingerprint: Optional[Tensor] = None
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
        self._teacher_fingerprint = None
        for part, source in self.init_from_teacher.items():
            self.student.get_submodule(part).load_state_dict(self.teacher.get_submodule(source).state_dict())

    def loss(self, inputs: Tensor, data_samples: Optional[List[BaseDataElement]] = None) -> Dict[str, Tensor]:
        """Compute the student's task losses and the distillation losses of a batch.

        Args:
            inputs (Tensor): Images normalized for the student, ``(N, 3, H, W)``.
            data_samples (list[BaseDataElement], optional): Their annotations.

        Returns:
            dict[str, Tensor]: The losses, under ``student.`` and ``distill.``, and for the log ``distill_to_task``, the
            distillation losses' sum over the task losses'.
        """
        if self.distillation_stopped:
            return add_prefix(self.student(inputs, data_samples, mode='loss'), 'student')
        distiller = self.distiller
        distiller.set_deliveries_override(False)
        with torch.no_grad(), self._teacher_autocast(inputs), distiller.teacher_recorders, distiller.deliveries:
            images = self.teacher_input(inputs, data_samples)
            if not self._teacher_runs_heads:
                self.teacher.extract_feat(images)
                self._teacher_runs_heads = bool(self._empty_recorders())
            if self._teacher_runs_heads:
                self.teacher(images, data_samples, mode='tensor')
        for source in self._empty_recorders():
            raise SetupError(
                f"The teacher's {source!r} recorded nothing, as neither its extract_feat (backbone and neck) nor its "
                'heads run it: record a module of these.'
            )
        distiller.set_deliveries_override(True)
        with distiller.student_recorders, distiller.deliveries:
            losses = add_prefix(self.student(inputs, data_samples, mode='loss'), 'student')
        distill_losses = distiller.compute_distill_losses()
        # A log entry, since its name has no 'loss': the first thing to look at when loss_weight is in question.
        with torch.no_grad():
            (distill, _), (task, _) = self.parse_losses(distill_losses), self.parse_losses(losses)
            ratio = distill / task.float().clamp(min=torch.finfo(torch.float32).tiny)
        return {**losses, **add_prefix(distill_losses, 'distill'), 'distill_to_task': ratio}

    def _empty_recorders(self) -> List[str]:
        recorders = self.distiller.teacher_recorders.recorders.values()
        return [recorder.source for recorder in recorders if not recorder.data_buffer]

    def state_dict(self, *args, **kwargs) -> Dict[str, Tensor]:
        """Collect the student, the Can blocks and the connectors, and in place of the teacher its fingerprint.

        Returns:
            dict[str, Tensor]: As of any module; ``teacher_fingerprint`` is of :meth:`teacher_fingerprint`.
        """
        state_dict = super().state_dict(*args, **kwargs)
        prefix = kwargs.get('prefix', '')
        for key in [key for key in state_dict if key.startswith(f'{prefix}teacher.')]:
            del state_dict[key]
        state_dict[f'{prefix}teacher_fingerprint'] = self.teacher_fingerprint()
        return state_dict

    def _load_from_state_dict(self, state_dict: Dict[str, Tensor], prefix: str, *args) -> None:
        # The teacher stays what its own file made it, also where a checkpoint of another algorithm holds one.
        state_dict.pop(f'{prefix}teacher_fingerprint', None)
        state_dict.update({f'{prefix}teacher.{key}': value for key, value in self.teacher.state_dict().items()})
        super()._load_from_state_dict(state_dict, prefix, *args)

    def teacher_fingerprint(self) -> Tensor:
        """Tell one teacher's weights from another's.

        Returns:
            Tensor: The SHA-256 of the teacher's parameters and buffers, 32 bytes.
        """
        if self._teacher_fingerprint is None:
            digest = hashlib.sha256()
            for key, value in self.teacher.state_dict().items():
                digest.update(key.encode())
                digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy())
            self._teacher_fingerprint = torch.tensor(list(digest.digest()), dtype=torch.uint8)
        return self._teacher_fingerprint

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
