"""What MMDetection and MMSegmentation take of mmcv's compiled operators, in plain torch.

``mmcv-lite`` is all of mmcv but its compiled module ``mmcv._ext``. Where that is missing, :func:`provide` puts one in
its place that has the operators of this package under the names that mmcv asks for. Any other ends in one sentence when
it is called.
"""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Callable

from cankd_mm.ops.deform_attn import ms_deform_attn_backward, ms_deform_attn_forward
from cankd_mm.ops.deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from cankd_mm.ops.focal_loss import sigmoid_focal_loss_backward, sigmoid_focal_loss_forward
from cankd_mm.ops.nms import nms, softnms
from cankd_mm.ops.roi import roi_align_backward, roi_align_forward, roi_pool_backward, roi_pool_forward

OPERATORS = (
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
    """The module in place of the compiled one."""

    def __init__(self) -> None:
        super().__init__(_NAME)
        self.__spec__ = ModuleSpec(_NAME, None)
        for operator in OPERATORS:
            setattr(self, operator.__name__, operator)

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('__'):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise NotImplementedError(
                f'mmcv-lite has no operator {name!r}, and this package none in its place: install mmcv with its '
                'compiled operators, MMCV_WITH_OPS=1 pip install --no-build-isolation mmcv==2.1.0.'
            )

        return missing


def provide() -> bool:
    """Provide the operators where mmcv has been installed without compiled ones.

    Returns:
        bool: Whether they were missing.
    """
    if _NAME in sys.modules or importlib.util.find_spec('mmcv') is None or importlib.util.find_spec(_NAME) is not None:
        return False
    sys.modules[_NAME] = Extension()
    return True
