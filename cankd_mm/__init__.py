"""CanKD, cross-attention-based non-local knowledge distillation, for MMDetection and MMSegmentation.

Importing this package registers its components. A config does so with
``custom_imports = dict(imports=['cankd_mm'], allow_failed_imports=False)``.
"""

import sys

from cankd_mm.version import __version__


def _is_doctor() -> bool:
    """Whether this process runs ``python -m cankd_mm.doctor``, which has to start where the stack does not import.

    Python imports the package before the module, and leaves ``-m`` in ``sys.argv`` until the module is found. From
    Python 3.10 on it also tells which module: another package that is run so may import this one.
    """
    words = getattr(sys, 'orig_argv', ['cankd_mm.doctor'])
    return sys.argv[:1] == ['-m'] and any('cankd_mm.doctor' in word for word in words)


if not _is_doctor():
    from cankd_mm import compat

    compat.mend()
    from cankd_mm import engine, models  # noqa: F401

__all__ = ['__version__']
