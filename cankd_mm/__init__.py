"""CanKD, cross-attention-based non-local knowledge distillation, for MMDetection and MMSegmentation.

Importing this package registers its components. A config does so with
``custom_imports = dict(imports=['cankd_mm'], allow_failed_imports=False)``.
"""

import os
import sys

from cankd_mm.version import __version__


def _is_command() -> bool:
    """Whether this process is the command ``cankd`` or ``python -m cankd_mm.doctor``.

    Both register when they have something to run: help is there in a moment, and the doctor where the stack does not
    import. Python imports the package before the module that it runs, and leaves ``-m`` in ``sys.argv`` until that is
    found. From Python 3.10 on it also tells which module: another package that is run so may import this one.
    """
    words = getattr(sys, 'orig_argv', ['cankd_mm.'])
    module = sys.argv[:1] == ['-m'] and any(word.startswith('cankd_mm.') for word in words)
    return module or os.path.basename((sys.argv or [''])[0]) == 'cankd'


if not _is_command():
    from cankd_mm import register  # noqa: F401

__all__ = ['__version__']
