"""What a model's modules give, found by one tiny forward pass."""

from contextlib import suppress
from typing import List, Tuple, Union

import torch
from torch import Tensor, nn

from cankd_mm.errors import SetupError
from cankd_mm.models.utils import find_module

# Height and width of the probing image, in pixels. They differ, so that shapes in messages are unambiguous, and
# are multiples of 32, to which detectors pad.
PROBE_SIZE = (128, 192)


def probe_shapes(model: nn.Module, source: str, whose: str) -> Union[Tuple[int, ...], List[Tuple[int, ...]]]:
    """Find the shape of what a module gives, by a forward pass of one 128x192 image.

    The pass runs ``model.extract_feat``, or where that does not run the module the heads as well, in eval mode and
    without gradients; the model is left as it was.

    Args:
        model (nn.Module): A detector or segmentor of MMDetection or MMSegmentation.
        source (str): The module's name, as in ``model.named_modules()``.
        whose (str): ``'student'`` or ``'teacher'``, for messages.

    Returns:
        tuple[int] | list[tuple[int]]: The shape ``(1, C, H, W)`` of the feature, or one shape per level.

    Raises:
        SetupError: If there is no such module, if it is not run, or more than once, or if it gives no feature map.
    """
    module = find_module(model, source, whose)
    if not hasattr(model, 'extract_feat'):
        raise SetupError(
            f'The {whose} {type(model).__name__} has no extract_feat, which distillation runs: '
            'use a detector of MMDetection or a segmentor of MMSegmentation.'
        )
    outputs = []
    handle = module.register_forward_hook(lambda module, args, output: outputs.append(output))
    was_training = {m: m.training for m in model.modules()}
    weight = next(p for p in model.parameters() if p.dim() == 4)
    try:
        model.eval()
        with torch.no_grad():
            image = weight.new_zeros(1, weight.shape[1], *PROBE_SIZE)
            model.extract_feat(image)
            if not outputs:
                _run_heads(model, image)
    finally:
        handle.remove()
        for m, training in was_training.items():
            m.training = training
    if not outputs:
        raise SetupError(
            f"The {whose}'s {source!r} is not run by extract_feat (backbone and neck), nor by a head that needs no "
            "annotations: distill from a module of the backbone, the neck or a segmentor's head."
        )
    if len(outputs) > 1:
        raise SetupError(
            f"The {whose}'s {source!r} is run {len(outputs)} times a pass: record it in MMRazor's long form, with a "
            'record_idx for each.'
        )
    output = outputs[0]
    features = [output] if isinstance(output, Tensor) else output
    if not (isinstance(features, (list, tuple)) and all(isinstance(f, Tensor) and f.dim() == 4 for f in features)):
        raise SetupError(
            f"The {whose}'s {source!r} gives {type(output).__name__} that is no feature map (N, C, H, W) "
            'nor a sequence of them: distill from another module.'
        )
    shapes = [tuple(f.shape) for f in features]
    return shapes[0] if isinstance(output, Tensor) else shapes


def _run_heads(model: nn.Module, image: Tensor) -> None:
    """Run the heads, too, where these need no annotations."""
    with suppress(TypeError, AttributeError):
        model(image, mode='tensor')
