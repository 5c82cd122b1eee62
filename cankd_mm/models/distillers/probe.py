"""The shapes of what a module gives, found by a tiny forward pass."""

from contextlib import suppress
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from cankd_mm.errors import SetupError, reason_of
from cankd_mm.models.distillers.recording import versions
from cankd_mm.models.utils import count_channels, find_module, untouched

# Height and width in pixels differ, so that shapes in messages are unambiguous, and are multiples of 32, to which
# detectors pad. The larger ones are for models that take no small image.
PROBE_SIZES = ((128, 192), (256, 384), (512, 512))
Size = Tuple[int, int]


class Level(NamedTuple):
    """A module's feature map ``(1, C, H, W)`` of an ``image``; ``index`` is None where the module gives no list.

    ``overwritten`` tells whether a layer behind the module changes the map in place.
    """

    whose: str
    source: str
    index: Optional[int]
    shape: Tuple[int, ...]
    image: Size
    overwritten: bool = False

    @property
    def stride(self) -> float:
        """How many pixels of the image one of the map stands for."""
        return self.image[0] / max(self.shape[2], 1)

    def __str__(self) -> str:
        level = '' if self.index is None else f'level {self.index} of '
        return f"{level}the {self.whose}'s {self.source!r} {self.shape}"


def probe(
    model: nn.Module, source: str, whose: str, training: bool = False, first_size: Optional[Sequence[int]] = None
) -> List[Level]:
    """Find the levels of a module's output, by a forward pass that leaves the model as it was.

    Args:
        model (nn.Module): A detector or segmentor. Its heads are run where ``extract_feat`` does not run the module.
        source (str): The module's name. One that gives no feature maps, once a pass, is a SetupError.
        whose (str): ``'student'`` or ``'teacher'``.
        training (bool): Whether the model trains, where some give other features. Defaults to False.
        first_size (Sequence[int], optional): Height and width to try before all others. Defaults to None.
    """
    module, what = find_module(model, source, whose), f"The {whose}'s {source!r}"
    if not hasattr(model, 'extract_feat'):
        raise SetupError(
            f'The {whose} {type(model).__name__} has no extract_feat, which distillation runs: '
            'use a detector of MMDetection or a segmentor of MMSegmentation.'
        )
    outputs = []
    handle = module.register_forward_hook(lambda module, args, output: outputs.append((output, versions(output))))
    try:
        size, images = _run(model, whose, outputs, training, [*dict.fromkeys(_sizes(model, first_size))])
    finally:
        handle.remove()
    if not outputs:
        raise SetupError(
            f'{what} is not run by extract_feat (backbone and neck), nor by a head that needs no annotations: distill '
            "from a module of the backbone, the neck or a segmentor's head."
        )
    if len(outputs) > 1:
        advice = "record it in MMRazor's long form, with a record_idx for each."
        raise SetupError(f'{what} is run {len(outputs)} times a pass: {advice}')
    ((output, written),) = outputs
    single = isinstance(output, Tensor)
    features = [output] if single else output if isinstance(output, (list, tuple)) else []
    if not features or not all(isinstance(f, Tensor) and f.dim() == 4 for f in features):
        raise SetupError(
            f'{what} gives {type(output).__name__} that is no feature map (N, C, H, W) nor a sequence of them: distill '
            'from another module.'
        )
    if any(len(f) != images for f in features):
        raise SetupError(
            f'{what} gives {len(features[0])} feature maps for {images} images while it trains: distill from a module '
            'before that, which gives one for each.'
        )
    shapes, overwritten = [(1, *f.shape[1:]) for f in features], versions(output) != written
    return [Level(whose, source, None if single else i, shape, size, overwritten) for i, shape in enumerate(shapes)]


def probe_both(
    student: nn.Module, source: str, teacher: nn.Module, teacher_source: str, first_size: Optional[Size] = None
) -> Tuple[List[Level], List[Level]]:
    """Find the levels of a module of the student, as it trains, and of one of the teacher, on an image of one size."""
    ours = probe(student, source, 'student', training=True, first_size=first_size)
    theirs = probe(teacher, teacher_source, 'teacher', first_size=ours[0].image)
    if theirs[0].image != ours[0].image:
        ours = probe(student, source, 'student', training=True, first_size=theirs[0].image)
    return ours, theirs


def levels_read(model: nn.Module, levels: Sequence[Level]) -> List[int]:
    """Find which levels of a module what lies behind it reads, or name all where that cannot be told.

    Each level is cut off from the graph, so that a gradient reaches only those that are read themselves.
    """
    cut: List[Tensor] = []

    def cut_off(module: nn.Module, args: tuple, output: Union[Tensor, Sequence[Tensor]]) -> object:
        single = isinstance(output, Tensor)  # as some give in evaluation alone
        cut[:] = [feature.detach().requires_grad_() for feature in ([output] if single else output)]
        return cut[0] if single else tuple(cut)

    handle = find_module(model, levels[0].source, levels[0].whose).register_forward_hook(cut_off)
    try:
        with untouched(model, False), torch.enable_grad():
            batch = next(model.parameters()).new_zeros(1, count_channels(model), *levels[0].image)
            found = [each for each in tree_flatten(model(batch, mode='tensor'))[0] if isinstance(each, Tensor)]
            total = sum(each.sum() for each in found if each.requires_grad)
            gradients = torch.autograd.grad(total, cut, allow_unused=True)
        return [level.index for level, gradient in zip(levels, gradients) if gradient is not None]
    except Exception:  # whatever a model makes of such an image, or of features without a past
        return [level.index for level in levels]
    finally:
        handle.remove()


def _run(model: nn.Module, whose: str, outputs: list, training: bool, sizes: List[Size]) -> Tuple[Size, int]:
    """Show a model images of the first size that it takes, and return size and number."""
    weight = next(model.parameters())
    reason = ''
    # Batch norm in training mode fails on a single value, which a map of one pixel of one image is.
    for images, mode in ((2, True), (1, False)) if training else ((1, False),):
        for size in sizes:
            outputs.clear()
            with untouched(model, mode), torch.no_grad():
                batch = weight.new_zeros(images, count_channels(model), *size)
                try:
                    model.extract_feat(batch)
                    if not outputs:
                        with suppress(TypeError, AttributeError):
                            model(batch, mode='tensor')
                    return size, images
                except Exception as e:  # whatever a model makes of an image that it is not for
                    reason = reason or f'{type(e).__name__}: {reason_of(e)}'
    raise SetupError(
        f'The {whose} {type(model).__name__} takes no image of {" or ".join(f"{h}x{w}" for h, w in sizes)} pixels '
        f"({reason}): name a size that it takes as size of its data_preprocessor, or distill in MMRazor's long form."
    )


def _sizes(model: nn.Module, first_size: Optional[Sequence[int]]) -> Iterator[Size]:
    """Yield image sizes to try, also those that preprocessor, backbone or anchors name."""
    if first_size is not None:
        yield tuple(first_size)
    yield PROBE_SIZES[0]
    preprocessor = getattr(model, 'data_preprocessor', None)
    for holder in (preprocessor, *(getattr(preprocessor, 'batch_augments', None) or ()), *model.modules()):
        for name in ('size', 'img_size', 'input_size'):
            size = getattr(holder, name, None)
            size = (size, size) if isinstance(size, int) else size
            if isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(side, int) for side in size):
                yield tuple(size)
    divisor = getattr(preprocessor, 'pad_size_divisor', 1)
    if divisor > 1:
        yield 2 * divisor, 3 * divisor
    yield from PROBE_SIZES[1:]
