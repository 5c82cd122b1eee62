import logging
import random
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Dict, Iterator, Tuple

import numpy as np
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from cankd_mm.errors import SetupError

_HEADS = ('bbox_head', 'mask_head', 'decode_head', 'auxiliary_head', 'panoptic_head', 'semantic_head')


@contextmanager
def untouched_generators() -> Iterator[None]:
    """Restore the random generators of Python, numpy and torch at the end."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextmanager
def untouched(model: nn.Module, training: bool) -> Iterator[nn.Module]:
    """Set a model's mode, and restore mode, buffers, counters of modules and random generators at the end."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    counters = [
        (module, {key: value for key, value in vars(module).items() if isinstance(value, (bool, int, float))})
        for module in model.modules()
    ]
    try:
        with untouched_generators():
            yield model.train(training)
    finally:
        for module, before in counters:
            vars(module).update(before)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what the libraries log below a warning."""
    levels = [(logger, logger.level) for logger in MMLogger._instance_dict.values()]
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    for logger, _ in levels:
        logger.setLevel(logging.WARNING)  # MMEngine's loggers remember what they are enabled for
    try:
        yield
    finally:
        logging.disable(before)
        for logger, level in levels:
            logger.setLevel(level)


@contextmanager
def saved_bytes() -> Iterator[Dict[int, int]]:
    """Measure what autograd saves for the backward pass: the bytes of every storage, without parameters."""
    held: Dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            held[storage._cdata] = storage.nbytes()  # on the meta device all addresses are zero
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield held


def find_module(model: nn.Module, name: str, whose: str) -> nn.Module:
    """Find a module by its dotted name; where there is none, the SetupError lists the nearest names."""
    modules = dict(model.named_modules())
    if name and name in modules:
        return modules[name]
    near = get_close_matches(name, filter(None, modules), n=3, cutoff=0.5)
    near = near or [child for child, _ in model.named_children() if child != 'data_preprocessor']
    advice = f'did you mean {" or ".join(map(repr, near))}?'
    raise SetupError(f'The {whose} {type(model).__name__} has no module {name!r}; {advice}')


def count_channels(model: nn.Module) -> int:
    """Count the channels of a model's images."""
    mean = getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
    if mean is not None and mean.numel() > 1:  # a single one may be for all channels
        return mean.numel()
    convolution = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    # A stem that takes the image apart has a multiple of three.
    return 3 if convolution is None or convolution.in_channels % 3 == 0 else convolution.in_channels


def unwrap(model: nn.Module) -> nn.Module:
    """Take a model out of its wrappers for distributed training and test-time augmentation, where it has some."""
    return unwrap(model.module) if is_model_wrapper(model) or isinstance(model, BaseTTAModel) else model


def heads_of(model: nn.Module) -> Dict[str, nn.Module]:
    """Find the heads that predict the data's classes, by name: none in a panoptic model, whose heads share them."""
    if any('panoptic' in name or name == 'semantic_head' for name, _ in model.named_children()):
        return {}
    return dict(_predicting(model))


def count_classes(model: nn.Module) -> int:
    """Count the classes that a detector or segmentor predicts: the most of any head, or 0."""
    fusion = getattr(model, 'panoptic_fusion_head', None)
    if getattr(fusion, 'num_stuff_classes', 0):  # heads that share the classes
        return fusion.num_classes
    return max((head.num_classes for _, head in _predicting(model)), default=0)


def _predicting(model: nn.Module) -> Iterator[Tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if (
            name.rstrip('.0123456789').split('.')[-1] in _HEADS
            and 'rpn_head' not in name
            and not name.endswith('.semantic_head')  # HTC's, for label maps of its own
            and not any(kind.__name__ == 'RPNHead' for kind in type(module).__mro__)  # an RPN by itself
            and isinstance(getattr(module, 'num_classes', None), int)
            and not hasattr(module, 'boundary_threshold')  # STDC's, for edges that it finds in the label map
        ):
            yield name, module
