"""Which module of two models is distilled, and which of its levels."""

from contextlib import suppress
from math import log
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from mmengine.model import BaseModel
from torch._subclasses.fake_tensor import FakeTensorMode

from cankd_mm.errors import SetupError
from cankd_mm.models import BackboneTeacher
from cankd_mm.models.distillers.levels import Level, pair_levels, select
from cankd_mm.models.distillers.probe import Features, probe
from cankd_mm.models.losses import CanKDLoss
from cankd_mm.models.utils import saved_bytes

# The last, a segmentor's logits, where neither of the others gives feature maps.
_SOURCES = ('neck', 'backbone', 'decode_head.conv_seg')
# More than the paper distils of a feature pyramid; what lies above is small.
_MOST_LEVELS = 4


class Source(NamedTuple):
    """What is distilled: the settings of the distiller, and the levels that they pair."""

    settings: Dict[str, object]
    pairs: List[Tuple[Level, Level]]
    resize: Optional[str] = None  # whose map the loss has to resize

    def __str__(self) -> str:
        ours, theirs = zip(*self.pairs)
        numbers = [[level.index for level in levels if level.index is not None] for levels in (ours, theirs)]
        where = ['', '']
        for i, found in enumerate(numbers):
            where[i] = f'level{"s" * (len(found) > 1)} {", ".join(map(str, found))}' if found else 'map'
        return (
            f"{self.settings['source']}: the student's {where[0]} ({_strides(ours)}), the teacher's {where[1]}"
            f'{f" ({_strides(theirs)})" if self.resize else ""}'
        )


def _strides(levels: Sequence[Level]) -> str:
    return f'stride{"s" * (len(levels) > 1)} {", ".join(f"{level.stride:.3g}" for level in levels)}'


def find_sources(student: BaseModel, teacher: BaseModel, input_size: Optional[Tuple[int, int]]) -> List[Source]:
    """Find what can be distilled of two models, the best first.

    The necks where both have one, level by level of equal stride; the last stages of the backbones otherwise; where
    neither gives feature maps, the logits of segmentors. A backbone from outside stands beside the student's neck: its
    levels of equal stride, or else its last one.

    Args:
        student (BaseModel): The student.
        teacher (BaseModel): The teacher.
        input_size (tuple[int, int], optional): Height and width of the student's images, which tells levels that are
            too small to compare. None where it is not known.

    Returns:
        list[Source]: What there is.

    Raises:
        SetupError: If there is nothing, with the reason for every module that both have.
    """
    found, reasons = [], []
    for name in _SOURCES:
        if name == 'decode_head.conv_seg' and found:
            break
        of_teacher = 'backbone' if isinstance(teacher, BackboneTeacher) else name
        if name in dict(student.named_modules()) and of_teacher in dict(teacher.named_modules()):
            try:
                found.append(_levels_of(student, teacher, name, of_teacher, input_size))
            except SetupError as e:
                reasons.append(str(e))
    if not found:
        whom = f'{type(teacher).__name__} and {type(student).__name__}'
        raise SetupError(
            ' '.join(reasons) or f'{whom} have no neck nor backbone in common: write the pair by hand, with a source.'
        )
    return found


def _levels_of(
    student: BaseModel, teacher: BaseModel, name: str, of_teacher: str, input_size: Optional[Tuple[int, int]]
) -> Source:
    theirs = probe(teacher, of_teacher, 'teacher')
    ours = probe(student, name, 'student', training=True, first_size=theirs.image)
    if ours.image != theirs.image:
        theirs = probe(teacher, of_teacher, 'teacher', first_size=ours.image)
    outside = isinstance(teacher, BackboneTeacher)
    if name == 'neck':
        try:
            pairs = pair_levels(ours, theirs, None, None, resizes=False)
        except SetupError:
            if not outside:
                raise
            pairs = [_nearest(ours, theirs)]
        large = [pair for pair in pairs if input_size is None or min(input_size) / pair[0].stride >= 2]
        pairs = (large or pairs)[:_MOST_LEVELS]
    else:
        pairs = [(_last(student, ours), select(theirs, [-1])[0])]
    (first, counterpart), *_ = pairs
    resize = None
    if first.shape[2:] != counterpart.shape[2:]:  # the larger map is resized, as the loss takes room for its pixels
        resize = 'student' if first.stride < counterpart.stride else 'teacher'
    return Source(_settings(ours, theirs, pairs, resize is not None), pairs, resize)


def _nearest(ours: Features, theirs: Features) -> Tuple[Level, Level]:
    """The teacher's last level, with that of the student whose stride is nearest to it."""
    last = select(theirs, [-1])[0]
    deepest_first = reversed(select(ours, None))
    return min(deepest_first, key=lambda level: abs(log(level.stride / last.stride))), last


def _last(student: BaseModel, ours: Features) -> Level:
    """The student's last stage: of what it gives while it trains, the one that it gives when it is evaluated."""
    evaluated = probe(student, ours.source, 'student', first_size=ours.image)
    if evaluated.image == ours.image and evaluated.shapes[-1] in ours.shapes:
        # The last of that shape, unless fewer are evaluated than are trained, as side branches are.
        if len(evaluated.shapes) != len(ours.shapes):
            return select(ours, [ours.shapes.index(evaluated.shapes[-1])])[0]
    return select(ours, [-1])[0]


def _settings(ours: Features, theirs: Features, pairs: List[Tuple[Level, Level]], resizes: bool) -> Dict[str, object]:
    """The shortest settings of the distiller that pair these levels."""
    numbers = [[level.index or 0 for level in levels] for levels in zip(*pairs)]
    settings: Dict[str, object] = dict(source=ours.source)
    if theirs.source != ours.source:
        settings['teacher_source'] = theirs.source
    for key, features, levels in (('levels', ours, numbers[0]), ('teacher_levels', theirs, numbers[1])):
        if not features.single:
            settings[key] = _short(levels, len(features.shapes))
    without = {key: value for key, value in settings.items() if key != 'teacher_levels'}
    with suppress(SetupError):
        if pair_levels(ours, theirs, without.get('levels'), None, resizes) == pairs:
            return without
    return settings


def _short(levels: List[int], count: int) -> object:
    if levels == list(range(len(levels))):
        return len(levels)
    return [-1] if levels == [count - 1] else levels


def loss_memory(source: Source, batch_size: int, input_size: Tuple[int, int]) -> List[int]:
    """What the CanKD loss keeps of every level for its backward pass.

    Args:
        source (Source): What is distilled.
        batch_size (int): Images of one GPU.
        input_size (tuple[int, int]): Height and width of the images.

    Returns:
        list[int]: Bytes for each level, in float32.
    """
    held = []
    for ours, theirs in source.pairs:
        channels = theirs.shape[1]
        with FakeTensorMode():  # nothing is computed, and nothing takes room
            loss = CanKDLoss(channels, resize=source.resize)
            maps = [
                torch.empty(batch_size, channels, *(max(round(side / level.stride), 1) for side in input_size))
                for level in (ours, theirs)
            ]
            with saved_bytes() as saved:
                loss(maps[0].requires_grad_(), maps[1])
        held.append(sum(saved.values()))
    return held
