"""Recorders of MMRazor, on whatever model they are needed, and whether they still hold what a module gave."""

from contextlib import contextmanager
from typing import Iterator, List, NamedTuple

from mmrazor.models.task_modules import ModuleOutputsRecorder, RecorderManager
from mmrazor.registry import TASK_UTILS
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from cankd_mm.errors import SetupError
from cankd_mm.models.utils import find_module


@TASK_UTILS.register_module()
class ModuleOutputCopiesRecorder(ModuleOutputsRecorder):
    """Record copies of what a module gives, where the layer behind it overwrites that, as ``out += identity`` does.

    :class:`CanKDDistiller` takes it by itself where that is so. MMRazor's long form has to ask for it.

    Args:
        source (str): The module's name.

    Examples:
        >>> student_recorders = dict(norm=dict(type='ModuleOutputCopies', source='backbone.layer4.1.bn2'))
    """

    def forward_hook(self, module: nn.Module, inputs: tuple, outputs: object) -> None:
        """Keep a copy."""
        super().forward_hook(module, inputs, tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, outputs))


class _Hook(NamedTuple):
    """Hands what a module gives to a recorder, and notes how often it had been written to by then."""

    recorder: ModuleOutputsRecorder

    def __call__(self, module: nn.Module, inputs: tuple, outputs: object) -> None:
        self.recorder.forward_hook(module, inputs, outputs)
        if self.recorder.recording:
            earlier = getattr(self.recorder, 'versions', [])[: len(self.recorder.data_buffer) - 1]
            self.recorder.versions = [*earlier, versions(self.recorder.data_buffer[-1])]


def prepare(recorders: RecorderManager, model: nn.Module, whose: str) -> None:
    """Attach recorders to the modules of a model; a missing one is a SetupError."""
    for recorder in recorders.recorders.values():
        if isinstance(recorder, ModuleOutputsRecorder):
            find_module(model, recorder.source, whose)
            _attach(recorder, model)
            recorder._initialized = True
        else:
            recorder.initialize(model)


def detach(model: nn.Module) -> None:
    """Take all recorders off a model."""
    for module in model.modules():
        for key, hook in list(module._forward_hooks.items()):
            if isinstance(hook, _Hook):
                del module._forward_hooks[key]


def _attach(recorder: ModuleOutputsRecorder, model: nn.Module) -> None:
    module = model.get_submodule(recorder.source)
    hooks = module._forward_hooks.values()
    if _Hook(recorder) not in hooks and recorder.forward_hook not in hooks:
        module.register_forward_hook(_Hook(recorder))


@contextmanager
def recording(recorders: RecorderManager, model: nn.Module, whose: str) -> Iterator[None]:
    """Record the modules of a model that now have the recorded names: those of a copy, or exchanged since it was built.

    A feature that a later layer has overwritten is a SetupError.
    """
    watched = [recorder for recorder in recorders.recorders.values() if isinstance(recorder, ModuleOutputsRecorder)]
    for recorder in watched:
        recorder.versions = []
        _attach(recorder, model)
    with recorders:
        yield
    for recorder in watched:
        if recorder.versions and recorder.versions != [versions(value) for value in recorder.data_buffer]:
            raise SetupError(
                f"The {whose}'s {recorder.source!r} is overwritten by a layer behind it, so that something else would "
                "be distilled: make it the source of a CanKDDistiller, or record it with type='ModuleOutputCopies'."
            )


def versions(value: object) -> List[int]:
    """List how often each tensor of a module's output has been written in place."""
    return [tensor._version for tensor in tree_flatten(value)[0] if isinstance(tensor, Tensor)]


def empty_sources(recorders: RecorderManager) -> List[str]:
    """List the names of the modules whose recorders have recorded nothing."""
    return [recorder.source for recorder in recorders.recorders.values() if not recorder.data_buffer]
