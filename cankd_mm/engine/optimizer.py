"""The optimizer of a distillation: the student's parameters as alone, those of blocks and connectors at the base."""

from typing import Callable

from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from cankd_mm.models import FeatureDistill

Constructor = Callable[[nn.Module], OptimWrapper]


class DistillOptimWrapperConstructor:
    """Have a constructor of the config see the student alone, and add what is trained beside it.

    Rules of an optimizer go by names of parameters, types of layers and depth. They are written for the student, and
    say nothing of Can blocks and connectors, which get the base learning rate and weight decay. Whatever builds an
    optimizer from a config gets one of these around the constructor that the config names: MMEngine's registry of
    constructors makes it so when this module is imported. It is of consequence for a :class:`FeatureDistill` alone.

    Args:
        constructor (Callable): What MMEngine has built from the config.
    """

    def __init__(self, constructor: Constructor) -> None:
        self.constructor = constructor

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer.

        Args:
            model (nn.Module): The model, wrapped or not.

        Returns:
            OptimWrapper: The optimizer.
        """
        inner = model.module if is_model_wrapper(model) else model
        if not isinstance(inner, FeatureDistill):
            return self.constructor(model)
        with inner.student_alone():
            optim_wrapper = self.constructor(model)
        parameters = {name: p for name, p in inner.distiller.named_parameters('distiller') if p.requires_grad}
        if parameters:
            group, optimizer = dict(params=list(parameters.values())), optim_wrapper.optimizer
            if 'param_names' in optimizer.param_groups[0]:  # torch wants them in all groups or in none
                group['param_names'] = list(parameters)
            optimizer.add_param_group(group)
        return optim_wrapper


def install() -> None:
    """Have MMEngine's registry build constructors that know a distillation."""
    build = OPTIM_WRAPPER_CONSTRUCTORS.build_func

    def build_constructor(*args, **kwargs) -> DistillOptimWrapperConstructor:
        return DistillOptimWrapperConstructor(build(*args, **kwargs))

    OPTIM_WRAPPER_CONSTRUCTORS.build_func = build_constructor
