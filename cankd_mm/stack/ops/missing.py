import sys
from typing import Optional

from torch.nn import Module

from cankd_mm.errors import SetupError

MMCV_BUILD = 'MMCV_WITH_OPS=1 pip install --no-build-isolation mmcv==2.1.0'


def missing_operator(name: str) -> SetupError:
    """Say that neither mmcv nor this package has an operator, which part of the model needs it, and what to install."""
    part = calling_module()
    return SetupError(
        f'mmcv-lite has no operator {name!r}{f", which {part} needs," if part else ""} and cankd_mm none in its place: '
        f'install mmcv with its compiled operators, pip uninstall mmcv-lite; {MMCV_BUILD}.'
    )


def calling_module() -> Optional[str]:
    """Name the innermost module on the call stack that is not mmcv's own, or else the outermost of mmcv's."""
    found, frame = None, sys._getframe(1)
    while frame is not None:
        module = frame.f_locals.get('self')
        if isinstance(module, Module):
            found = type(module).__name__
            if not type(module).__module__.startswith(('mmcv.', 'torch.')):
                break
        frame = frame.f_back
    return found
