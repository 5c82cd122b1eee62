"""CanKD, cross-attention-based non-local knowledge distillation, for MMDetection and MMSegmentation.

Importing this package registers its components. A config does so with
``custom_imports = dict(imports=['cankd_mm'], allow_failed_imports=False)``.
"""

import sys

from cankd_mm.version import __version__


def _is_doctor() -> bool:
    """Whether this process runs ``python -m cankd_mm.doctor``.

    The doctor has to start where the stack does not import, yet Python imports the package
    before any of its modules.
    """
    return sys.argv[:1] == ['-m'] and 'cankd_mm.doctor' in getattr(sys, 'orig_argv', sys.argv)


if not _is_doctor():
    from cankd_mm import compat

    compat.mend()
    from cankd_mm import models  # noqa: F401

__all__ = ['__version__']
