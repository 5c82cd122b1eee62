"""Parts of a student that start from the teacher's weights: the inheriting strategy."""

from typing import Dict, List, Mapping, Sequence, Union

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
        ours = find_module(student, part, 'student').state_dict()
        theirs = find_module(teacher, source, 'teacher').state_dict()
        for key in sorted(ours.keys() | theirs.keys()):
            if key not in ours or key not in theirs:
                owner, other = ('student', 'teacher') if key in ours else ('teacher', 'student')
                raise SetupError(
                    f"init_from_teacher cannot fill the student's {part!r} from the teacher's {source!r}: the "
                    f'{owner} has {key}, the {other} has not; take a part that both share.'
                )
            if ours[key].shape != theirs[key].shape:
                raise SetupError(
                    f"init_from_teacher cannot fill the student's {part}.{key} {tuple(ours[key].shape)} from the "
                    f"teacher's {source}.{key} {tuple(theirs[key].shape)}: leave {part!r} out, or give both models the "
                    'same.'
                )
    return found


def fitting_parts(student: nn.Module, teacher: nn.Module, prefix: str = '') -> List[str]:
    """Find the largest parts of a student with the teacher's names and shapes: backbone, neck, heads, their layers."""
    found, others = [], dict(teacher.named_children())
    for name, ours in student.named_children():
        theirs = others.get(name)
        if theirs is None or not any(True for _ in ours.parameters()):
            continue
        shapes = [{key: value.shape for key, value in module.state_dict().items()} for module in (ours, theirs)]
        if shapes[0] == shapes[1]:
            found.append(f'{prefix}{name}')
        # Into necks and heads, roi_head being a head of heads, and lists of layers, but not into a layer.
        elif name != 'backbone' and (prefix in ('', 'roi_head.') or isinstance(ours, nn.ModuleList)):
            found += fitting_parts(ours, theirs, f'{prefix}{name}.')
    return found
