"""Which module of two models is distilled, and which of its levels."""

from contextlib import suppress
from math import log
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from mmengine.model import BaseModel

from cankd_mm.errors import SetupError
from cankd_mm.models import BackboneTeacher
from cankd_mm.models.distillers.levels import pair_levels
from cankd_mm.models.distillers.probe import Level, Size, probe, probe_both

# A segmentor's logits come last: they are a source where neck and backbone give no feature maps.
_LOGITS = 'decode_head.conv_seg'


class Source(NamedTuple):
    """The settings of the distiller, the levels that they pair, and whose map the loss resizes."""

    settings: Dict[str, object]
    pairs: List[Tuple[Level, Level]]
    resize: Optional[str] = None

    def __str__(self) -> str:
        (ours, strides), (theirs, others) = map(_numbers_and_strides, zip(*self.pairs))
        resized = f" ({others}); strides differ, the loss resizes the {self.resize}'s map" if self.resize else ''
        channels = sorted({(a.shape[1], b.shape[1]) for a, b in self.pairs if a.shape[1] != b.shape[1]})
        convolutions = ', '.join(f'{student} to {teacher} channels' for student, teacher in channels)
        connector = f'1x1 convolutions from {convolutions}' if channels else 'channels are equal, no connector'
        return (
            f"{self.settings['source']}: the student's {ours} ({strides}), the teacher's {theirs}{resized}; {connector}"
        )


def _numbers_and_strides(levels: Sequence[Level]) -> Tuple[str, str]:
    numbers = ', '.join(str(level.index) for level in levels if level.index is not None)
    strides, plural = ', '.join(f'{level.stride:.3g}' for level in levels), 's' if len(levels) > 1 else ''
    return f'level{plural} {numbers}' if numbers else 'map', f'stride{plural} {strides}'


def find_sources(student: BaseModel, teacher: BaseModel, input_size: Optional[Size]) -> List[Source]:
    """Find what can be distilled of two models, the best first: their necks, backbones, or else segmentors' logits.

    Levels that are too small to compare at the ``input_size`` of the student's images are left out.
    """
    found, reasons = [], []
    for name in ('neck', 'backbone', _LOGITS):
        if name == _LOGITS and found:
            break
        of_teacher = 'backbone' if isinstance(teacher, BackboneTeacher) else name
        if name in dict(student.named_modules()) and of_teacher in dict(teacher.named_modules()):
            try:
                found.append(_find_source(student, teacher, name, of_teacher, input_size))
            except SetupError as e:
                reasons.append(str(e))
    if not found:
        models = f'{type(teacher).__name__} and {type(student).__name__}'
        nothing = f'{models} have no neck nor backbone in common: write the pair by hand, with a source.'
        raise SetupError(' '.join(reasons) or nothing)
    return found


def _find_source(
    student: BaseModel, teacher: BaseModel, name: str, of_teacher: str, input_size: Optional[Size]
) -> Source:
    ours, theirs = probe_both(student, name, teacher, of_teacher)
    last, resize = theirs[-1], None
    if name == 'neck':
        try:
            pairs = pair_levels(ours, theirs, None, None, resizes=False)
        except SetupError:
            if not isinstance(teacher, BackboneTeacher):
                raise
            pairs = [(min(reversed(ours), key=lambda level: abs(log(level.stride / last.stride))), last)]
        large = [pair for pair in pairs if input_size is None or min(input_size) / pair[0].stride >= 2]
        pairs = (large or pairs)[:4]  # as in the paper: the levels above are small
    else:
        # The student's last level, or where it gives more in training the one that it gives last in evaluation.
        evaluated = probe(student, name, 'student', first_size=ours[0].image)
        same = [level for level in ours if (level.shape, level.image) == (evaluated[-1].shape, evaluated[-1].image)]
        pairs = [(same[0] if same and len(evaluated) != len(ours) else ours[-1], last)]
    level, counterpart = pairs[0]
    if level.shape[2:] != counterpart.shape[2:]:  # the loss needs memory for every pixel of the larger map
        resize = 'student' if level.stride < counterpart.stride else 'teacher'
    return Source(_settings(ours, theirs, pairs, resize is not None), pairs, resize)


def _settings(ours: List[Level], theirs: List[Level], pairs: List[Tuple[Level, Level]], resizes: bool) -> dict:
    """Find the shortest settings of the distiller that pair these levels."""
    settings: Dict[str, object] = dict(source=ours[0].source)
    if theirs[0].source != ours[0].source:
        settings['teacher_source'] = theirs[0].source
    for key, features, levels in zip(('levels', 'teacher_levels'), (ours, theirs), zip(*pairs)):
        numbers = [level.index for level in levels]
        if numbers != [None]:
            from_first = numbers == list(range(len(numbers)))
            settings[key] = len(numbers) if from_first else [-1] if numbers == [features[-1].index] else numbers
    without = {key: value for key, value in settings.items() if key != 'teacher_levels'}
    with suppress(SetupError):
        if pair_levels(ours, theirs, without.get('levels'), None, resizes) == pairs:
            return without
    return settings
