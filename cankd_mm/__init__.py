"""CanKD, cross-attention-based non-local knowledge distillation, for MMDetection and MMSegmentation.

Importing this package patches the libraries and registers its components. A config does so with
``custom_imports = dict(imports=['cankd_mm'], allow_failed_imports=False)``. Without MMEngine there is the loss alone,
``cankd_mm.models.CanKDLoss``, which needs nothing but torch.
"""

import os
import sys
from multiprocessing import current_process

from cankd_mm.stack import WITH_OPENMMLAB

__version__ = '0.3.0'
__all__ = ['__version__', 'register']


def register() -> None:
    """Patch the installed libraries where they need it, and register every component.

    Raises:
        ImportError: If the libraries cannot be imported. The message names the doctor.
    """
    from cankd_mm.stack import patch

    patch.apply()

    import cankd_mm.engine
    import cankd_mm.models
    import cankd_mm.show.hook  # noqa: F401


def _is_command() -> bool:
    """Whether this process is the command ``cankd``, or a tool of it, which registers when it has something to run.

    So help and lists are there in a moment, and the doctor runs where the libraries cannot be imported. Python imports
    the package before the module that ``-m`` names, and leaves ``-m`` in ``sys.argv`` until that is found. A worker
    that a command spawns inherits its arguments, and is none.
    """
    words, program = getattr(sys, 'orig_argv', ['cankd_mm']), (sys.argv or [''])[0]
    if getattr(current_process(), '_inheriting', False):
        return False
    if program == '-m':
        return any(word.split('.')[0] == 'cankd_mm' for word in words)
    tools = os.path.realpath(os.path.join(os.path.dirname(__file__), '.mim', 'tools'))
    return os.path.basename(program) == 'cankd' or os.path.realpath(os.path.dirname(program)) == tools


if WITH_OPENMMLAB and not _is_command():
    register()
