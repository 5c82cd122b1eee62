"""The operators of mmcv that MMDetection and MMSegmentation need, without compiling anything.

``mmcv-lite`` is all of mmcv but its compiled module ``mmcv._ext``. :func:`provide` puts a module in its place that has
torchvision's kernels, where it is installed, and operators in plain torch. Calling any other is a SetupError.
"""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Callable, Dict, List, Optional

from cankd_mm.errors import SetupError
from cankd_mm.stack.ops import plain
from cankd_mm.stack.ops import torchvision as kernels

_NAME = 'mmcv._ext'


class Extension(ModuleType):
    """The module in place of the compiled one, by default with torchvision's kernels where they can be called."""

    def __init__(self, torchvision: Optional[bool] = None) -> None:
        super().__init__(_NAME)
        self.__spec__ = ModuleSpec(_NAME, None)
        self._torchvision = kernels.problem() is None if torchvision is None else torchvision
        for operator in (*plain.OPERATORS, *(kernels.OPERATORS if self._torchvision else ())):
            setattr(self, operator.__name__, operator)

    def sources(self) -> Dict[str, List[str]]:
        """List the names of the operators by where they come from, ``'plain torch'`` or ``'torchvision'``."""
        compiled, written = ([operator.__name__ for operator in module.OPERATORS] for module in (kernels, plain))
        if self._torchvision:
            return {'torchvision': compiled, 'plain torch': [name for name in written if name not in compiled]}
        missing = [name for name in compiled if name not in written]
        return {'plain torch': written, 'torchvision, which has no kernels here': missing}

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('_'):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            if not hasattr(kernels, name):
                raise plain.missing_operator(name)
            raise SetupError(
                f'{plain.calling_module()} needs the operator {name!r}, which mmcv-lite lacks and cankd_mm takes from '
                f'torchvision, and torchvision {kernels.problem()}: {kernels.install_command()}.'
            )

        return missing


def provided() -> Optional[Extension]:
    """Find the module that :func:`provide` has put in place; None where mmcv has a compiled one."""
    module = sys.modules.get(_NAME)
    return module if isinstance(module, Extension) else None


def provide() -> bool:
    """Provide the operators where mmcv has no compiled ones, and tell whether they come from here."""
    if _NAME not in sys.modules and importlib.util.find_spec('mmcv') and not importlib.util.find_spec(_NAME):
        sys.modules[_NAME] = Extension()
    return provided() is not None
