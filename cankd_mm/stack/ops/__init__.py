"""What MMDetection and MMSegmentation take of mmcv's compiled operators, without compiling anything.

``mmcv-lite`` is all of mmcv but its compiled module ``mmcv._ext``. Where that is missing, :func:`provide` puts one in
its place that has the operators of this package under the names that mmcv asks for: torchvision's kernels where it is
installed, and plain torch. Any other ends in one sentence when it is called.
"""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Callable, Dict, Optional

from cankd_mm.errors import SetupError
from cankd_mm.stack.doctor import MMCV_BUILD
from cankd_mm.stack.ops import torchvision_kernels
from cankd_mm.stack.ops.deform_attn import ms_deform_attn_backward, ms_deform_attn_forward
from cankd_mm.stack.ops.deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from cankd_mm.stack.ops.focal_loss import sigmoid_focal_loss_backward, sigmoid_focal_loss_forward
from cankd_mm.stack.ops.nms import nms, softnms
from cankd_mm.stack.ops.roi import roi_align_backward, roi_align_forward, roi_pool_backward, roi_pool_forward

PLAIN = (
    nms,
    softnms,
    roi_align_forward,
    roi_align_backward,
    roi_pool_forward,
    roi_pool_backward,
    deform_conv_forward,
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    modulated_deform_conv_forward,
    modulated_deform_conv_backward,
    sigmoid_focal_loss_forward,
    sigmoid_focal_loss_backward,
    ms_deform_attn_forward,
    ms_deform_attn_backward,
)
_NAME = 'mmcv._ext'


class Extension(ModuleType):
    """The module in place of the compiled one.

    Args:
        torchvision (bool, optional): Whether to take torchvision's kernels for the operators that it has. Defaults to
            None, where they can be called.
    """

    def __init__(self, torchvision: Optional[bool] = None) -> None:
        super().__init__(_NAME)
        self.__spec__ = ModuleSpec(_NAME, None)
        if torchvision is None:
            torchvision = torchvision_kernels.is_available()
        for operator in (*PLAIN, *(torchvision_kernels.OPERATORS if torchvision else ())):
            setattr(self, operator.__name__, operator)

    def sources(self) -> Dict[str, str]:
        """Tell where every operator comes from.

        Returns:
            dict[str, str]: ``'torchvision'`` or ``'plain torch'`` by the operator's name.
        """
        names = {True: 'torchvision', False: 'plain torch'}
        return {op.__name__: names[getattr(self, op.__name__) in torchvision_kernels.OPERATORS] for op in PLAIN}

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('__'):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            part = _model_part()
            raise SetupError(
                f'mmcv-lite has no operator {name!r}{f", which {part} needs," if part else ""} and cankd_mm none in '
                f'its place: install mmcv with its compiled operators, pip uninstall mmcv-lite; {MMCV_BUILD}.'
            )

        return missing


def _model_part() -> Optional[str]:
    """Name the module of a model that calls an operator: the first in the stack that is not mmcv's own, or mmcv's."""
    from torch.nn import Module

    found, frame = None, sys._getframe(2)
    while frame is not None:
        module = frame.f_locals.get('self')
        if isinstance(module, Module):
            found = type(module).__name__
            if not type(module).__module__.startswith(('mmcv.', 'torch.')):
                break
        frame = frame.f_back
    return found


def provided() -> Optional[Extension]:
    """Find what :func:`provide` has put in the place of mmcv's compiled module.

    Returns:
        Extension | None: The module, None where mmcv has a compiled one.
    """
    module = sys.modules.get(_NAME)
    return module if isinstance(module, Extension) else None


def provide() -> bool:
    """Provide the operators where mmcv has been installed without compiled ones.

    Returns:
        bool: Whether they were missing.
    """
    if _NAME in sys.modules or importlib.util.find_spec('mmcv') is None or importlib.util.find_spec(_NAME) is not None:
        return False
    sys.modules[_NAME] = Extension()
    return True
