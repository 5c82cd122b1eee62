"""Parts of a student that start from the teacher's weights: the inheriting strategy."""

from typing import Dict, Iterator, List, Mapping, Sequence, Union

from torch import nn

from cankd_mm.errors import SetupError
from cankd_mm.models.utils import find_module

Parts = Union[str, Sequence[str], Mapping[str, str]]


def find_parts(student: nn.Module, teacher: nn.Module, parts: Parts) -> Dict[str, str]:
    """Find the teacher's part for each part of the student that ``init_from_teacher`` names."""
    if parts == 'auto':  # but the backbone's, which are worth nothing without the rest of it
        return {part: part for part in fitting_parts(student, teacher) if part.split('.')[0] != 'backbone'}
    if isinstance(parts, str):
        raise SetupError(f"init_from_teacher got {parts!r}: give a list of parts, [{parts!r}], or 'auto'.")
    found = dict(parts) if isinstance(parts, Mapping) else {part: part for part in parts}
    for part, source in found.items():
        _check(find_module(student, part, 'student'), find_module(teacher, source, 'teacher'), part, source)
    return found


def fitting_parts(student: nn.Module, teacher: nn.Module) -> List[str]:
    """Find the largest parts of a student with the teacher's names and shapes: backbone, neck, heads, their layers."""
    return list(_fitting(student, teacher, ''))


def _fitting(student: nn.Module, teacher: nn.Module, prefix: str) -> Iterator[str]:
    others = dict(teacher.named_children())
    for name, ours in student.named_children():
        theirs = others.get(name)
        if theirs is None or not any(True for _ in ours.parameters()):
            continue
        shapes = [{key: value.shape for key, value in module.state_dict().items()} for module in (ours, theirs)]
        if shapes[0] == shapes[1]:
            yield f'{prefix}{name}'
        # Into necks and heads, roi_head being a head of heads, and lists of layers, but not into a layer.
        elif name != 'backbone' and (prefix in ('', 'roi_head.') or isinstance(ours, nn.ModuleList)):
            yield from _fitting(ours, theirs, f'{prefix}{name}.')


def _check(student: nn.Module, teacher: nn.Module, part: str, source: str) -> None:
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
