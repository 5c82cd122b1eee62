"""torchvision's compiled operators, by the names and arguments of mmcv's.

Kernels for processors and GPUs that differ from mmcv's in nothing but how they are called. Those of torchvision whose
values differ are not here: its RoIPool rounds regions to whole pixels first.
"""

from importlib import metadata
from importlib.util import find_spec
from typing import Optional, Tuple

import torch
from packaging.version import parse
from torch import Tensor

from cankd_mm.errors import SetupError
from cankd_mm.stack.ops.missing import calling_module, missing_operator
from cankd_mm.stack.ops.plain import full_precision


def problem() -> Optional[str]:
    """Say why torchvision's kernels cannot be called here, such as ``'is not installed'``; None where they can."""
    if find_spec('torchvision') is None:
        return 'is not installed'
    try:
        import torchvision
    except (ImportError, RuntimeError, OSError) as e:
        return f'does not import ({e}), it may be built for another torch'
    if not torchvision.extension._has_ops():
        return 'has kernels for another torch'
    if torch.cuda.is_available() and torchvision.version.cuda is None:
        return 'has no kernels for the GPU'
    return None


def install_command() -> str:
    """Give the command that installs the torchvision that was built for the installed torch."""
    version = parse(metadata.version('torch'))
    # 0.28.0 is of torch 2.13.0, 0.15.2 of 2.0.1.
    matching = f'0.{version.minor + 15}.{version.micro + (version.minor == 0)}'
    repair = '--force-reinstall --no-deps ' if find_spec('torchvision') else ''
    index = f', with the --index-url that torch+{version.local} was installed from' if version.local else ''
    return f'pip install {repair}torchvision=={matching}{index}'


def missing_kernel(name: str) -> SetupError:
    """Say that an operator of torchvision cannot be called, see :func:`cankd_mm.stack.ops.missing.missing_operator`."""
    return SetupError(
        f'{calling_module() or "The model"} needs the operator {name!r}, which mmcv-lite lacks and cankd_mm takes from '
        f'torchvision, and torchvision {problem()}: {install_command()}.'
    )


def nms(bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Suppress boxes that overlap, see :func:`cankd_mm.stack.ops.plain.nms`."""
    boxes = full_precision(bboxes)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return torch.ops.torchvision.nms(boxes, scores.to(boxes.dtype), iou_threshold)


def roi_align_forward(input, rois, output, argmax_y, argmax_x, **options) -> None:
    """Pool bilinear samples of regions, see :func:`cankd_mm.stack.ops.plain.roi_align_forward`."""
    features = full_precision(input)
    scale, *rest = _roi_align_options(**options)
    output.copy_(torch.ops.torchvision.roi_align(features, rois.to(features.dtype), scale, *rest))


def roi_align_backward(grad_output, rois, argmax_y, argmax_x, grad_input, **options) -> None:
    """Add the gradient of :func:`roi_align_forward` to ``grad_input``, ``(N, C, H, W)``."""
    grad = full_precision(grad_output)
    scale, height, width, *rest = _roi_align_options(**options)
    sizes = (height, width, *grad_input.shape)
    grad_input += torch.ops.torchvision._roi_align_backward(grad, rois.to(grad.dtype), scale, *sizes, *rest)


def _roi_align_options(aligned_height, aligned_width, spatial_scale, sampling_ratio, pool_mode, aligned) -> tuple:
    if pool_mode != 1:
        raise missing_operator('roi_align with max pooling')
    return spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned


def deform_conv_forward(input, weight, offset, output, columns, ones, **options) -> None:
    """Write the convolution of pixels that are displaced (deformable convolution) into ``output``."""
    found = torch.ops.torchvision.deform_conv2d(*_v1(input, weight, offset, options))
    output.copy_(found.view_as(output))


def deform_conv_backward_input(input, offset, grad_output, grad_input, grad_offset, weight, columns, **options) -> None:
    """Write the gradients of input and offset into ``grad_input`` and ``grad_offset``."""
    gradients = _differentiate(grad_output, *_v1(input, weight, offset, options))
    grad_input.copy_(gradients[0]), grad_offset.copy_(gradients[2])


def deform_conv_backward_parameters(input, offset, grad_output, grad_weight, columns, ones, scale, **options) -> None:
    """Add the gradient of the weight to ``grad_weight``."""
    # The convolution is linear in the weight, and so its gradient does not depend on the weight's values.
    grad_weight += scale * _differentiate(grad_output, *_v1(input, grad_weight, offset, options))[1]


def modulated_deform_conv_forward(
    input, weight, bias, ones, offset, mask, output, columns, with_bias, **options
) -> None:
    """Write the deformable convolution of samples that are multiplied by ``mask`` (v2) into ``output``."""
    arguments = _v2(input, weight, offset, mask, bias if with_bias else None, options)
    output.copy_(torch.ops.torchvision.deform_conv2d(*arguments).view_as(output))


def modulated_deform_conv_backward(
    input, weight, bias, ones, offset, mask, columns, grad_input, grad_weight, grad_bias, grad_offset, grad_mask,
    grad_output, with_bias, **options
) -> None:  # fmt: skip
    """Write all gradients."""
    found = _differentiate(grad_output, *_v2(input, weight, offset, mask, None, options))
    taken = (grad_input, grad_weight, grad_offset, grad_mask, *([grad_bias] if with_bias else []))
    for tensor, gradient in zip(taken, found):
        tensor.copy_(gradient)


def _differentiate(grad_output, *arguments) -> Tuple[Tensor, ...]:
    """Give the gradients of input, weight, offset, mask and bias."""
    return torch.ops.torchvision._deform_conv2d_backward(full_precision(grad_output).contiguous(), *arguments)


def _v1(input, weight, offset, o: dict) -> tuple:
    pairs = o['dH'], o['dW'], o['padH'], o['padW'], o['dilationH'], o['dilationW']
    return _arguments(input, weight, offset, None, None, *pairs, o['group'], o['deformable_group'])


def _v2(input, weight, offset, mask, bias, o: dict) -> tuple:
    pairs = (o[f'{name}_{axis}'] for name in ('stride', 'pad', 'dilation') for axis in 'hw')
    return _arguments(input, weight, offset, mask, bias, *pairs, o['group'], o['deformable_group'])


def _arguments(input, weight, offset, mask, bias, *options) -> tuple:
    features = full_precision(input)
    given_mask = features.new_zeros(len(input), 0) if mask is None else mask
    given_bias = features.new_zeros(len(weight)) if bias is None else bias
    tensors = (features, weight, offset, given_mask, given_bias)
    return (*(tensor.to(features.dtype).contiguous() for tensor in tensors), *options, mask is not None)


OPERATORS = (
    nms,
    roi_align_forward,
    roi_align_backward,
    deform_conv_forward,
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    modulated_deform_conv_forward,
    modulated_deform_conv_backward,
)
