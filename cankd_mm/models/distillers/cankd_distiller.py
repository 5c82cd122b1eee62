import inspect
import re
from difflib import get_close_matches
from typing import Dict, List, Optional, Tuple

from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmrazor.models import ConfigurableDistiller
from mmrazor.models.architectures.connectors import ConvModuleConnector
from mmrazor.models.task_modules import RecorderManager
from mmrazor.registry import MODELS
from torch import Tensor, nn

from cankd_mm.config.types import class_of, installed_libraries
from cankd_mm.errors import SetupError
from cankd_mm.models.distillers.levels import Levels, pair_levels
from cankd_mm.models.distillers.probe import Level, probe_both
from cankd_mm.models.distillers.recording import prepare
from cankd_mm.models.losses import CanKDLoss

_LONG_FORM = ('student_recorders', 'teacher_recorders', 'connectors', 'distill_losses', 'loss_forward_mappings')


@MODELS.register_module()
class CanKDDistiller(ConfigurableDistiller):
    """A ConfigurableDistiller that is told in three lines what to distill.

    ``source``, ``levels`` and ``loss`` are expanded into the long form, the recorders, connectors, losses and mappings
    of :class:`mmrazor.models.ConfigurableDistiller`, with one loss per level. A tiny forward pass of both models finds
    channels and sizes. Where sizes differ, the loss has to resize: see ``resize`` of :class:`CanKDLoss`.

    Entries of the long form can be given as well. Recorders of the short form are named after their source, losses and
    connectors ``loss_<source>_<level>`` (dots become underscores): an entry under such a name replaces the expanded
    one, any other is added.

    Args:
        source (str, optional): The module whose output is distilled, ``'neck'``, ``'backbone.layer4'``. Defaults to
            None, the long form alone.
        levels (int | Sequence[int], optional): How many of the source's outputs are distilled, counted from the
            first, or which ones, counted from 0, or from -1 for the last. Defaults to None, all of which the teacher
            has one of the same stride.
        loss (dict, optional): Config of the loss that every level gets, any loss of MMRazor of two features. Channel
            counts are filled in. ``loss_weight`` may be a list, one weight for each level. The short form needs it.
        connector (dict, optional): Config of a connector of MMRazor that every level of the student goes through, such
            as ``dict(type='MGDConnector', lambda_mgd=0.65)``. Channel counts are filled in. Defaults to None, a 1x1
            convolution to the teacher's channels where they differ.
        teacher_source (str, optional): The teacher's module. Defaults to None, ``source``.
        teacher_levels (int | Sequence[int], optional): The teacher's levels, in the same order. Defaults to None, those
            of the same strides as the student's; where no stride is the same and the loss resizes, of the same numbers.
        level_weights (str, optional): ``'pixels'`` weighs every level by its pixels, with strides 8, 16 and 32 by 1,
            1/4 and 1/16, as losses that sum over pixels do. Defaults to None, all the same, as in the paper.
        **long_form: The arguments of :class:`mmrazor.models.ConfigurableDistiller`.

    Raises:
        SetupError: If the source, a level or the loss does not exist, or levels differ in size and are not resized.

    Examples:
        >>> # The first four levels of a feature pyramid.
        >>> distiller = dict(type='CanKDDistiller', source='neck', levels=4,
        ...                  loss=dict(type='CanKDLoss', loss_weight=5.0))
        >>> # The last stage of a segmentor's backbone, and a loss of MMRazor.
        >>> distiller = dict(type='CanKDDistiller', source='backbone.layer4',
        ...                  loss=dict(type='PKDLoss', loss_weight=6.0))
    """

    def __init__(
        self,
        source: Optional[str] = None,
        levels: Levels = None,
        loss: Optional[dict] = None,
        connector: Optional[dict] = None,
        teacher_source: Optional[str] = None,
        teacher_levels: Levels = None,
        level_weights: Optional[str] = None,
        **long_form,
    ) -> None:
        self._image_size = long_form.pop('image_size', None)  # an option of 0.2, taken until 0.4
        self._short_form = source is not None
        self._factors: Dict[str, float] = {}
        if not self._short_form:
            teachers = dict(teacher_source=teacher_source, teacher_levels=teacher_levels)
            given = dict(levels=levels, loss=loss, connector=connector, level_weights=level_weights, **teachers)
            for name in (name for name, value in given.items() if value is not None):
                advice = "name the module to distill, such as source='neck'."
                raise SetupError(f'CanKDDistiller got {name} but no source: {advice}')
            super().__init__(**long_form)
            return
        if loss is None:
            advice = "give one, such as loss=dict(type='CanKDLoss')."
            raise SetupError(f'CanKDDistiller got {source=} but no loss: {advice}')
        if level_weights not in (None, 'pixels'):
            advice = "set 'pixels', leave it out, or give a list as the loss's loss_weight."
            raise SetupError(f'CanKDDistiller got {level_weights=}: {advice}')
        # The parts that refer to each other are built once both models are known.
        self._given = {name: dict(long_form.pop(name, None) or {}) for name in _LONG_FORM}
        super().__init__(**long_form)
        self.source, self.teacher_source = source, teacher_source or source
        self.levels, self.teacher_levels, self.level_weights = levels, teacher_levels, level_weights
        self.loss, self.connector = loss, connector

    def prepare_from_student(self, model: BaseModel) -> None:
        """Look for what is recorded of the student, which the short form does with the teacher's."""
        if self._short_form:
            self._student = lambda: model  # no part of the module tree, of which the distiller is one
        else:
            prepare(self.student_recorders, model, 'student')

    def prepare_from_teacher(self, model: nn.Module) -> None:
        """Find the shapes of both models' features, expand the short form, and look for what is recorded."""
        if self._short_form:
            student = self._student()
            del self._student
            features = probe_both(student, self.source, model, self.teacher_source, self._image_size)
            self.student_recorders, self.teacher_recorders = map(self._recorders, features)
            prepare(self.student_recorders, student, 'student')
            self._build_expanded(*features)
        prepare(self.teacher_recorders, model, 'teacher')

    def _recorders(self, levels: List[Level]) -> RecorderManager:
        level, given = levels[0], self._given[f'{levels[0].whose}_recorders']
        kind = 'ModuleOutputCopies' if level.overwritten else 'ModuleOutputs'
        return RecorderManager({level.source: dict(type=kind, source=level.source), **given})

    def compute_distill_losses(self) -> Dict[str, Tensor]:
        """Compute the losses of the recorded features by name, and free the features."""
        losses = {}
        for name, records in self.loss_forward_mappings.items():
            inputs = {argument: self.get_record(**record) for argument, record in records.items()}
            losses[name] = self.distill_losses[name](**inputs, **self._projected(name))
        for manager in (self.student_recorders, self.teacher_recorders):
            for recorder in manager.recorders.values():
                recorder.reset_data_buffer()
        for name, value in losses.items():
            if not isinstance(value, Tensor):
                found = f'{name}, {type(self.distill_losses[name]).__name__}, returned {type(value).__name__}'
                raise SetupError(f"The distiller's loss {found}: its forward has to return a tensor.")
        for name, factor in self._factors.items():
            losses[name] = factor * losses[name]
        return losses

    def _projected(self, name: str) -> dict:
        """Give CanKDLoss what its student's feature is a 1x1 convolution of, which spares it work."""
        loss, records = self.distill_losses[name], self.loss_forward_mappings[name]
        if type(loss).forward is not CanKDLoss.forward or 's_feature' not in records:
            return {}
        record = dict(records['s_feature'])
        conv = _plain_convolution(self.connectors[record.pop('connector')]) if record.get('connector') else None
        return {} if conv is None else dict(projected=(self.get_record(**record), conv))

    def _build_expanded(self, ours: List[Level], theirs: List[Level]) -> None:
        """Build connectors, losses and mappings of the short form merged with those that were given."""
        # CanKDLoss calls the option `resize`, PKDLoss `resize_stu`.
        resizes = any(self.loss.get(option) is not None for option in ('resize', 'resize_stu'))
        pairs = pair_levels(ours, theirs, self.levels, self.teacher_levels, resizes)
        connectors, losses, mappings = {}, {}, {}
        finest = min(student.stride for student, _ in pairs)
        weights = self.loss.get('loss_weight')
        weights = list(weights) if isinstance(weights, (list, tuple)) else None
        if weights is not None and len(weights) != len(pairs):
            raise SetupError(
                f"The distiller's loss has {len(weights)} weights, {weights}, for {len(pairs)} levels: give one weight "
                'for each level, or a single one for all.'
            )
        for number, (student, teacher) in enumerate(pairs):
            loss = self.loss if weights is None else dict(self.loss, loss_weight=weights[number])
            name = f'loss_{student.source.replace(".", "_")}_{student.index or 0}'
            in_channel, out_channel = student.shape[1], teacher.shape[1]
            if self.connector is not None or in_channel != out_channel:
                connector = self.connector or dict(type='ConvModuleConnector', act_cfg=None)
                connectors[name], _ = _complete('connector', connector, in_channel, out_channel)
            student_record = dict(recorder=student.source, from_student=True, data_idx=student.index)
            if name in connectors or name in self._given['connectors']:
                student_record['connector'] = name
            teacher_record = dict(recorder=teacher.source, from_student=False, data_idx=teacher.index)
            losses[name], cls = _complete('loss', loss, out_channel, out_channel)
            if name not in self._given['loss_forward_mappings']:
                mappings[name] = dict(zip(_arguments(cls), (student_record, teacher_record)))
            how, counts = 'through a connector' if 'connector' in student_record else 'as it is', ''
            if self.level_weights == 'pixels':
                self._factors[name] = (finest / student.stride) ** 2
                counts = f', and counts {self._factors[name]:.3g}'
            print_log(f'{name}: {self.loss["type"]} takes {student} {how} to {teacher}{counts}.', logger='current')
        self.connectors = self.build_connectors({**connectors, **self._given['connectors']})
        self.distill_losses = self.build_distill_losses({**losses, **self._given['distill_losses']})
        self.loss_forward_mappings = {**mappings, **self._given['loss_forward_mappings']}
        self._check_loss_forward_mappings(
            self.distill_losses, self.loss_forward_mappings, self.student_recorders, self.teacher_recorders
        )


def _plain_convolution(connector: nn.Module) -> Optional[nn.Conv2d]:
    """Return the convolution of a connector that is a 1x1 convolution to more channels, and nothing else."""
    module = connector.conv_module if type(connector) is ConvModuleConnector else None
    if module is None or module.with_norm or module.with_activation or type(module.conv) is not nn.Conv2d:
        return None
    conv = module.conv
    plain = conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0) and conv.groups == 1
    return conv if plain and conv.in_channels < conv.out_channels else None


def _complete(what: str, cfg: dict, student_channels: int, teacher_channels: int) -> Tuple[dict, type]:
    """Fill in the channel counts of a loss or a connector, and find its class."""
    cls = MODELS.get(cfg['type']) if isinstance(cfg['type'], str) else cfg['type']
    if cls is None:
        near = get_close_matches(cfg['type'], list(MODELS.module_dict), n=3, cutoff=0.5)
        near = [
            f'{scope}.{cfg["type"]}' for scope in installed_libraries() if class_of(MODELS, cfg['type'], scope)
        ] or near
        meant = f'did you mean {" or ".join(map(repr, near))}, or ' if near else ''
        advice = f'{meant}does custom_imports lack the module that registers it?'
        raise SetupError(f"The distiller's {what} type {cfg['type']!r} is not registered; {advice}")
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise SetupError(f"The distiller's {what} {cfg['type']!r} is no class of torch.nn.Module: register one.")
    accepted = inspect.signature(cls.__init__).parameters
    channels = dict.fromkeys(('in_channel', 'in_channels', 'student_channels'), student_channels)
    channels.update(dict.fromkeys(('out_channel', 'out_channels', 'teacher_channels'), teacher_channels))
    channels = {name: value for name, value in channels.items() if name in accepted}
    return {**channels, **cfg}, cls


# Words in the names of a loss's arguments: MMRazor has preds_S and preds_T, MMDetection pred and target.
_STUDENTS, _TEACHERS = {'s', 'stu', 'student', 'pred', 'input'}, {'t', 'tea', 'teacher', 'target', 'soft', 'tgt'}


def _arguments(loss: type) -> List[str]:
    """Name the arguments of a loss that take the student's and the teacher's feature."""
    _, *parameters = inspect.signature(loss.forward).parameters.values()
    names = [parameter.name for parameter in parameters[:2]]
    starred = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for other in parameters[2:]:
        if other.default is other.empty and other.kind not in starred:
            problem = (
                f"The distiller's loss {loss.__name__} takes {other.name} beside two features, and nothing gives it"
            )
            raise SetupError(f'{problem}: give it a default, or give loss_forward_mappings.')
    words = [set(re.split('[_0-9]+', re.sub('(?<=[a-z])(?=[A-Z])', '_', name).lower())) for name in names]
    if len(names) == 2:
        if words[0] & _STUDENTS and words[1] & _TEACHERS:
            return names
        if words[0] & _TEACHERS and words[1] & _STUDENTS:
            return names[::-1]
    raise SetupError(
        f"The distiller's loss {loss.__name__} takes {' and '.join(names)}, whose names do not tell the student's "
        "feature from the teacher's: call them s_feature and t_feature, or give loss_forward_mappings."
    )
