"""Which feature of the student is compared with which of the teacher."""

from typing import List, Optional, Sequence, Tuple, Union

from cankd_mm.errors import SetupError
from cankd_mm.models.distillers.probe import Level

Levels = Optional[Union[int, Sequence[int]]]


def pair_levels(
    student: List[Level], teacher: List[Level], levels: Levels, teacher_levels: Levels, resizes: bool
) -> List[Tuple[Level, Level]]:
    """Pair the levels of a student's source with those of a teacher's, as :class:`CanKDDistiller` says.

    Levels that do not exist or cannot be paired are a SetupError that lists the strides of both.
    """
    ours, advice = _select(student, levels), _advice(student, teacher)
    if teacher_levels is not None:
        theirs = _select(teacher, teacher_levels)
        if len(ours) != len(theirs):
            raise SetupError(
                f'CanKDDistiller would pair {len(ours)} levels of the student with {len(theirs)} of the teacher: give '
                'levels and teacher_levels of one length.'
            )
        pairs = list(zip(ours, theirs))
    else:
        pairs = _of_equal_stride(ours, teacher, each_once=levels is None)
        if not pairs and resizes:
            # A student's single map is paired with the teacher's last level.
            single = teacher[0].index is None
            numbers = [0 if single else -1 if level.index is None else level.index for level in ours]
            pairs = list(zip(ours, _select(teacher, numbers)))
        alone = [level for level in ours if all(level != paired for paired, _ in pairs)]
        if not pairs:
            sources = f"The student's {ours[0].source!r} and the teacher's {teacher[0].source!r}"
            raise SetupError(f'{sources} have no stride in common: {advice}')
        if levels is not None and alone:
            raise SetupError(f'The teacher has no level of the stride of {alone[0]}: {advice}')
    for ours, theirs in pairs:
        if ours.shape[2:] != theirs.shape[2:] and not resizes:
            raise SetupError(f'{ours} and {theirs} differ in height and width on the same image: {advice}')
    return pairs


def _of_equal_stride(ours: List[Level], teacher: List[Level], each_once: bool = True) -> List[Tuple[Level, Level]]:
    """Pairs of one size: of the same number where that fits, otherwise with the teacher's deepest."""
    pairs: List[Tuple[Level, Level]] = []
    for level in ours:
        fitting = [other for other in teacher if other.shape[2:] == level.shape[2:]]
        if each_once:
            fitting = [other for other in fitting if all(other != taken for _, taken in pairs)]
        if fitting:
            pairs.append((level, next((other for other in fitting if other.index == level.index), fitting[-1])))
    return pairs


def _select(features: List[Level], levels: Levels) -> List[Level]:
    """List the first levels by their number, or those of given indices, or all for None."""
    source, count = f"{features[0].whose}'s {features[0].source!r}", len(features)
    numbers = list(range(count) if levels is None else range(levels) if isinstance(levels, int) else levels)
    for number in numbers:
        if not -count <= number < count:
            gives = f'it gives {count} levels, 0 to {count - 1}' if count > 1 else 'it gives a single feature map'
            advice = 'leave levels out for all that both models have.'
            raise SetupError(f'The {source} has no level {number}: {gives}; {advice}')
    numbers = [number % count for number in numbers]
    if not numbers or len(set(numbers)) < len(numbers):
        raise SetupError(f'{levels=} of the {source} must name at least one level, and none twice.')
    return [features[number] for number in numbers]


def _advice(student: List[Level], teacher: List[Level]) -> str:
    """Say the strides of both, and a setting that fits."""
    strides = [', '.join(f'{level.stride:.3g}' for level in levels) for levels in (student, teacher)]
    have = f'the student has strides {strides[0]}, the teacher {strides[1]}'
    common = [level.index or 0 for level, _ in _of_equal_stride(student, teacher)]
    if common:
        return f'{have}; set levels={common} and leave teacher_levels out, which pairs equal strides.'
    return (
        f'{have}; name the level of each to compare, such as levels=[-1], teacher_levels=[-1], and have the loss '
        "resize one (CanKDLoss with resize='student', PKDLoss with resize_stu=True)."
    )
