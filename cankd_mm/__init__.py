"""CanKD, cross-attention-based non-local knowledge distillation, for MMDetection and MMSegmentation.

Importing this package patches the libraries and registers its components. A config does so with
``custom_imports = dict(imports=['cankd_mm'], allow_failed_imports=False)``.
"""

import os
import sys

__version__ = '0.2.0'
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
    """Whether this process is the command ``cankd``, which registers when it has something to run.

    So help is there in a moment, and the doctor runs where the libraries cannot be imported. Python imports the package
    before the module that ``-m`` names, and leaves ``-m`` in ``sys.argv`` until that is found.
    """
    words = getattr(sys, 'orig_argv', ['cankd_mm'])
    module = sys.argv[:1] == ['-m'] and any(word.split('.')[0] == 'cankd_mm' for word in words)
    return module or os.path.basename((sys.argv or [''])[0]) == 'cankd'


if not _is_command():
    register()
