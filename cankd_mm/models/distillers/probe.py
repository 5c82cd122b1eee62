"""What a model's modules give, found by one tiny forward pass."""

from contextlib import suppress
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from cankd_mm.errors import SetupError, reason_of
from cankd_mm.models.utils import find_module, untouched

# Height and width of the probing image, in pixels. They differ, so that shapes in messages are unambiguous, and
# are multiples of 32, to which detectors pad. Models that take no image as small are shown larger ones.
PROBE_SIZES = ((128, 192), (256, 384), (512, 512))

Shape = Tuple[int, ...]


class Features(NamedTuple):
    """What a module gives for an image of height and width ``image``: feature maps ``(1, C, H, W)``.

    ``single`` tells a map from a sequence of one.
    """

    whose: str
    source: str
    image: Tuple[int, int]
    shapes: List[Shape]
    single: bool


def probe(
    model: nn.Module,
    source: str,
    whose: str,
    image_size: Optional[Sequence[int]] = None,
    training: bool = False,
    first_size: Optional[Sequence[int]] = None,
) -> Features:
    """Find the shapes of what a module gives, by a forward pass of one image.

    The image has the channels that the data preprocessor normalizes, and 128x192 pixels, or what the model's config
    names, or more, the first that the model takes. The pass runs ``model.extract_feat``, or where that does not run the
    module the heads as well, without gradients; the model is left as it was.

    Args:
        model (nn.Module): A detector or segmentor of MMDetection or MMSegmentation.
        source (str): The module's name, as in ``model.named_modules()``.
        whose (str): ``'student'`` or ``'teacher'``, for messages.
        image_size (Sequence[int], optional): Height and width of the image. Defaults to None, found as above.
        training (bool): Whether the model is looked at in training mode, in which some give other features. Defaults to
            False.
        first_size (Sequence[int], optional): Height and width to try before those. Defaults to None.

    Returns:
        Features: The shapes, and the size of the image.

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
    try:
        # Batch norm in training mode wants more than one value, which a map of one pixel of one image is.
        sizes = [tuple(image_size)] if image_size else [*_sizes(model, first_size)]
        size, images = _run(model, outputs, sizes, images=2, training=True) if training else None, 2
        if size is None:
            size, images = _run(model, outputs, sizes, images=1, training=False, whose=whose), 1
    finally:
        handle.remove()
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
    if any(len(f) != images for f in features):
        raise SetupError(
            f"The {whose}'s {source!r} gives {len(features[0])} feature maps for {images} images while it trains: "
            'distill from a module before that, which gives one for each.'
        )
    return Features(whose, source, size, [(1, *f.shape[1:]) for f in features], isinstance(output, Tensor))


def _run(
    model: nn.Module,
    outputs: list,
    sizes: List[Tuple[int, int]],
    images: int,
    training: bool,
    whose: Optional[str] = None,
) -> Optional[Tuple[int, int]]:
    """Show a model images of the first size that it takes.

    Returns the size; None where it takes none, which is an error of what is named.
    """
    weight = next(model.parameters())
    reason = ''
    for size in sizes:
        outputs.clear()
        with untouched(model, training), torch.no_grad():
            batch = weight.new_zeros(images, _channels(model), *size)
            try:
                model.extract_feat(batch)
                if not outputs:
                    with suppress(TypeError, AttributeError):
                        model(batch, mode='tensor')
                return size
            except Exception as e:  # whatever a model makes of an image that it is not for
                reason = reason or f'{type(e).__name__}: {reason_of(e)}'
    if whose is not None:
        raise SetupError(
            f'The {whose} {type(model).__name__} takes no image of {" or ".join(f"{h}x{w}" for h, w in sizes)} pixels '
            f'({reason}): name a size that it takes as image_size=(height, width) of the distiller.'
        )
    return None


def _channels(model: nn.Module) -> int:
    """How many channels the images of a model have."""
    mean = getattr(model, 'data_preprocessor', None)
    mean = getattr(mean, 'mean', None)
    if mean is not None:
        return len(mean.flatten())
    convolution = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    # A stem that takes the image apart has a multiple of three.
    return 3 if convolution is None or convolution.in_channels % 3 == 0 else convolution.in_channels


def _sizes(model: nn.Module, first_size: Optional[Sequence[int]]) -> Iterator[Tuple[int, int]]:
    """Image sizes to try."""
    if first_size is not None:
        yield tuple(first_size)
    yield PROBE_SIZES[0]
    yield from _configured_sizes(model)
    yield from PROBE_SIZES[1:]


def _configured_sizes(model: nn.Module) -> Iterator[Tuple[int, int]]:
    """Image sizes that a model's config names: of its preprocessor, its backbone or its anchors."""
    preprocessor = getattr(model, 'data_preprocessor', None)
    divisor = getattr(preprocessor, 'pad_size_divisor', 1)
    holders = (preprocessor, *(getattr(preprocessor, 'batch_augments', None) or ()), *model.modules())
    for holder in holders:
        for name in ('size', 'img_size', 'input_size'):
            size = getattr(holder, name, None)
            size = (size, size) if isinstance(size, int) else size
            if isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(side, int) for side in size):
                yield tuple(size)
    if divisor > 1:
        yield 2 * divisor, 3 * divisor
