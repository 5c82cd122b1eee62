"""The optimizer of a distillation: the student's parameters as alone, those of blocks and connectors at the base."""

from functools import partial
from typing import Callable

from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from cankd_mm.models import FeatureDistill
from cankd_mm.models.utils import unwrap


def install() -> None:
    """Have MMEngine's registry build constructors of optimizers that know a :class:`FeatureDistill`."""
    build = OPTIM_WRAPPER_CONSTRUCTORS.build_func
    if build.__module__ == __name__:  # installed already
        return

    def build_constructor(*args, **kwargs) -> Callable:
        constructor = build(*args, **kwargs)
        kind = type(constructor)

        def call(self, model: nn.Module) -> OptimWrapper:
            return _build_optim_wrapper(partial(kind.__call__, self), model)

        try:  # isinstance goes on finding its own class
            constructor.__class__ = type(kind.__name__, (kind,), {'__call__': call, '__module__': kind.__module__})
        except TypeError:  # a function
            return partial(_build_optim_wrapper, constructor)
        return constructor

    OPTIM_WRAPPER_CONSTRUCTORS.build_func = build_constructor


def _build_optim_wrapper(constructor: Callable, model: nn.Module) -> OptimWrapper:
    """Have the constructor see the student alone, and add what is trained beside it.

    The rules of a config, by names of parameters, types of layers and depth, are written for the student. Can blocks
    and connectors get the base learning rate and weight decay; of several optimizers, those of the first.
    """
    pair = unwrap(model)
    if not isinstance(pair, FeatureDistill):
        return constructor(model)
    with pair.student_alone():
        optim_wrapper = constructor(model)
    parameters = {name: p for name, p in pair.distiller.named_parameters('distiller') if p.requires_grad}
    if parameters:
        first = next(iter(optim_wrapper.values())) if isinstance(optim_wrapper, OptimWrapperDict) else optim_wrapper
        group = dict(params=list(parameters.values()))
        if 'param_names' in first.optimizer.param_groups[0]:  # torch wants them in all groups or in none
            group['param_names'] = list(parameters)
        first.optimizer.add_param_group(group)
    return optim_wrapper
