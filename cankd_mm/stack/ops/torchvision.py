"""torchvision's compiled operators, by mmcv's names and arguments; not RoIPool's, which rounds regions first."""

from importlib import metadata
from importlib.util import find_spec
from typing import Optional, Tuple

import torch
from packaging.version import parse
from torch import Tensor

from cankd_mm.stack.ops.plain import full_precision, missing_operator


def problem() -> Optional[str]:
    """Say why torchvision's kernels cannot be called here, ``'is not installed'`` or the like; None where they can."""
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
    """Name the command that installs the torchvision of the installed torch."""
    version = parse(metadata.version('torch'))
    # torch 2.13.0 has 0.28.0, and 2.0.1 has 0.15.2.
    matching = f'0.{version.minor + 15}.{version.micro + (version.minor == 0)}'
    repair = '--force-reinstall --no-deps ' if find_spec('torchvision') else ''
    index = f' (from the package index of torch+{version.local})' if version.local else ''
    return f'pip install {repair}torchvision=={matching}{index}'


def nms(bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """See :func:`cankd_mm.stack.ops.plain.nms`."""
    boxes = full_precision(bboxes) + bboxes.new_tensor([0, 0, offset, offset])
    return torch.ops.torchvision.nms(boxes, scores.to(boxes.dtype), iou_threshold)


def roi_align_forward(input, rois, output, argmax_y, argmax_x, **options) -> None:
    """See :func:`cankd_mm.stack.ops.plain.roi_align_forward`."""
    features = full_precision(input)
    output.copy_(torch.ops.torchvision.roi_align(features, rois.to(features.dtype), *_roi_align_options(**options)))


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
    """Write the convolution of displaced pixels (deformable convolution) into ``output``."""
    output.copy_(torch.ops.torchvision.deform_conv2d(*_arguments(options, input, weight, offset)))


def deform_conv_backward_input(input, offset, grad_output, grad_input, grad_offset, weight, columns, **options) -> None:
    """Write the gradients of input and offset."""
    found = _differentiate(grad_output, _arguments(options, input, weight, offset))
    grad_input.copy_(found[0])
    grad_offset.copy_(found[2])


def deform_conv_backward_parameters(input, offset, grad_output, grad_weight, columns, ones, scale, **options) -> None:
    """Add the gradient of the weight to ``grad_weight``."""
    # The convolution is linear in the weight, and so its gradient does not depend on the weight's values.
    grad_weight += scale * _differentiate(grad_output, _arguments(options, input, grad_weight, offset))[1]


def modulated_deform_conv_forward(
    input, weight, bias, ones, offset, mask, output, columns, with_bias, **options
) -> None:
    """Write the deformable convolution of pixels that are multiplied by ``mask`` (v2) into ``output``."""
    arguments = _arguments(options, input, weight, offset, mask, bias if with_bias else None)
    output.copy_(torch.ops.torchvision.deform_conv2d(*arguments))


def modulated_deform_conv_backward(
    input, weight, bias, ones, offset, mask, columns, grad_input, grad_weight, grad_bias, grad_offset, grad_mask,
    grad_output, with_bias, **options
) -> None:  # fmt: skip
    """Write all gradients."""
    found = _differentiate(grad_output, _arguments(options, input, weight, offset, mask))
    into = (grad_input, grad_weight, grad_offset, grad_mask, *([grad_bias] if with_bias else []))
    for tensor, gradient in zip(into, found):
        tensor.copy_(gradient)


def _differentiate(grad_output, arguments: tuple) -> Tuple[Tensor, ...]:
    """Compute the gradients of input, weight, offset, mask and bias."""
    return torch.ops.torchvision._deform_conv2d_backward(full_precision(grad_output).contiguous(), *arguments)


def _arguments(options: dict, input, weight, offset, mask=None, bias=None) -> tuple:
    """Put the arguments of a deformable convolution in torchvision's order, v1 without a mask and v2 with one."""
    features = full_precision(input)
    given_mask = features.new_zeros(len(input), 0) if mask is None else mask
    given_bias = features.new_zeros(len(weight)) if bias is None else bias
    tensors = [t.to(features.dtype).contiguous() for t in (features, weight, offset, given_mask, given_bias)]
    # mmcv's names of the options, in torchvision's order.
    v1, v2 = 'dH dW padH padW dilationH dilationW', 'stride_h stride_w pad_h pad_w dilation_h dilation_w'
    names = [*(v1 if mask is None else v2).split(), 'group', 'deformable_group']
    return (*tensors, *(options[name] for name in names), mask is not None)


OPERATORS = (nms, roi_align_forward, roi_align_backward, deform_conv_forward, deform_conv_backward_input)
OPERATORS += (deform_conv_backward_parameters, modulated_deform_conv_forward, modulated_deform_conv_backward)
