"""torchvision's compiled operators, by the names and arguments of mmcv's.

Kernels for processors and GPUs that differ from mmcv's in nothing but how they are called. Those of torchvision whose
values differ are not here: its RoIPool rounds regions to whole pixels first.
"""

from typing import Tuple

import torch
from torch import Tensor

from cankd_mm.stack.ops import deform_conv, roi
from cankd_mm.stack.ops.sampling import full_precision


def is_available() -> bool:
    """Tell whether torchvision's kernels can be called here.

    Returns:
        bool: False where torchvision is missing, made for another torch, or has none for the GPU that is there.
    """
    try:
        import torchvision
    except (ImportError, RuntimeError, OSError):  # RuntimeError, OSError: one made for another torch
        return False
    return torchvision.extension._has_ops() and (torchvision.version.cuda is not None or not torch.cuda.is_available())


def nms(bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Suppress boxes that overlap, see :func:`cankd_mm.stack.ops.nms.nms`."""
    boxes = full_precision(bboxes)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return torch.ops.torchvision.nms(boxes, scores.to(boxes.dtype), iou_threshold)


def roi_align_forward(input, rois, output, argmax_y, argmax_x, **options) -> None:
    """Pool bilinear samples of regions, see :func:`cankd_mm.stack.ops.roi.roi_align_forward`."""
    if options['pool_mode'] == 0:  # torchvision has means alone
        return roi.roi_align_forward(input, rois, output, argmax_y, argmax_x, **options)
    features = full_precision(input)
    scale, *bins, ratio, aligned = _roi_align(options)
    output.copy_(torch.ops.torchvision.roi_align(features, rois.to(features.dtype), scale, *bins, ratio, aligned))


def roi_align_backward(grad_output, rois, argmax_y, argmax_x, grad_input, **options) -> None:
    """Add the gradient of :func:`roi_align_forward` to ``grad_input``, ``(N, C, H, W)``."""
    if options['pool_mode'] == 0:
        return roi.roi_align_backward(grad_output, rois, argmax_y, argmax_x, grad_input, **options)
    grad = full_precision(grad_output)
    scale, *bins, ratio, aligned = _roi_align(options)
    grad_input += torch.ops.torchvision._roi_align_backward(
        grad, rois.to(grad.dtype), scale, *bins, *grad_input.shape, ratio, aligned
    )


def _roi_align(o: dict) -> tuple:
    return o['spatial_scale'], o['aligned_height'], o['aligned_width'], o['sampling_ratio'], o['aligned']


def deform_conv_forward(input, weight, offset, output, columns, ones, **kwargs) -> None:
    """Convolve into ``output``, see :func:`cankd_mm.stack.ops.deform_conv.deform_conv`."""
    output.copy_(_deform_conv(input, weight, offset, None, None, deform_conv.v1_options(kwargs)).view_as(output))


def deform_conv_backward_input(input, offset, grad_output, grad_input, grad_offset, weight, columns, **kwargs) -> None:
    """Write the gradients of input and offset into ``grad_input`` and ``grad_offset``."""
    found = _deform_conv_backward(grad_output, input, weight, offset, None, deform_conv.v1_options(kwargs))
    grad_input.copy_(found[0]), grad_offset.copy_(found[2])


def deform_conv_backward_parameters(input, offset, grad_output, grad_weight, columns, ones, scale, **kwargs) -> None:
    """Add the gradient of the weight to ``grad_weight``."""
    # Linear in the weight, whose own values its gradient does not depend on.
    found = _deform_conv_backward(grad_output, input, grad_weight, offset, None, deform_conv.v1_options(kwargs))
    grad_weight += scale * found[1]


def modulated_deform_conv_forward(
    input, weight, bias, ones, offset, mask, output, columns, with_bias, **kwargs
) -> None:
    """Convolve into ``output``, with a mask."""
    found = _deform_conv(input, weight, offset, mask, bias if with_bias else None, deform_conv.v2_options(kwargs))
    output.copy_(found.view_as(output))


def modulated_deform_conv_backward(
    input, weight, bias, ones, offset, mask, columns, grad_input, grad_weight, grad_bias, grad_offset, grad_mask,
    grad_output, with_bias, **kwargs
) -> None:  # fmt: skip
    """Write all gradients."""
    found = _deform_conv_backward(grad_output, input, weight, offset, mask, deform_conv.v2_options(kwargs))
    for taken, gradient in zip((grad_input, grad_weight, grad_offset, grad_mask, grad_bias), found):
        if taken is not grad_bias or with_bias:
            taken.copy_(gradient)


def _deform_conv(input, weight, offset, mask, bias, options: dict) -> Tensor:
    tensors, rest = _deform_conv_arguments(input, weight, offset, mask, options)
    bias = tensors[0].new_zeros(len(weight)) if bias is None else bias.to(tensors[0].dtype)
    return torch.ops.torchvision.deform_conv2d(*tensors, bias, *rest)


def _deform_conv_backward(grad_output, input, weight, offset, mask, options: dict) -> Tuple[Tensor, ...]:
    tensors, rest = _deform_conv_arguments(input, weight, offset, mask, options)
    grad = grad_output.to(tensors[0].dtype).contiguous()
    return torch.ops.torchvision._deform_conv2d_backward(grad, *tensors, tensors[0].new_zeros(len(weight)), *rest)


def _deform_conv_arguments(input, weight, offset, mask, options: dict) -> Tuple[tuple, tuple]:
    features = full_precision(input)
    given = features.new_zeros(len(input), 0) if mask is None else mask
    tensors = (features, *(tensor.to(features.dtype).contiguous() for tensor in (weight, offset, given)))
    pairs = (*options['stride'], *options['padding'], *options['dilation'])
    return tensors, (*pairs, options['groups'], options['deform_groups'], mask is not None)


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
