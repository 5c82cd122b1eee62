"""CanKD, cross-attention-based non-local knowledge distillation, for MMDetection and MMSegmentation.

Importing this package registers its components. A config does so with
``custom_imports = dict(imports=['cankd_mm'], allow_failed_imports=False)``.
"""

import sys

from cankd_mm.version import __version__


def _is_doctor() -> bool:
    """Whether this process runs ``python -m cankd_mm.doctor``, which has to start where the stack does not import.

    Python imports the package before the module, and leaves ``-m`` in ``sys.argv`` until the module is found: the
    doctor is the only one of this package to be run so.
    """
    return sys.argv[:1] == ['-m']


if not _is_doctor():
    from cankd_mm import compat

    compat.mend()
    from cankd_mm import models  # noqa: F401

__all__ = ['__version__']
