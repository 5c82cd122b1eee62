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
    """Say why torchvision's kernels cannot be called here.

    Returns:
        str | None: What is wrong with torchvision, such as ``'is not installed'``, None if nothing is.
    """
    if find_spec('torchvision') is None:
        return 'is not installed'
    try:
        import torchvision
    except (ImportError, RuntimeError, OSError) as e:
        return f'does not import ({e}), it was built for another torch'
    if not torchvision.extension._has_ops():
        return 'has kernels for another torch'
    if torch.cuda.is_available() and torchvision.version.cuda is None:
        return 'has no kernels for the GPU'
    return None


def install_command() -> str:
    """Give the command that installs the torchvision of the torch that is here.

    Returns:
        str: The command, and from where where torch is not of the default index.
    """
    version = parse(metadata.version('torch'))
    # 0.28.0 is of torch 2.13.0, 0.15.2 of 2.0.1.
    matching = f'0.{version.minor + 15}.{version.micro + (version.minor == 0)}'
    repair = '--force-reinstall --no-deps ' if find_spec('torchvision') else ''
    index = f', with the --index-url that torch+{version.local} was installed from' if version.local else ''
    return f'pip install {repair}torchvision=={matching}{index}'


def missing_kernel(name: str) -> SetupError:
    """Say that an operator that torchvision has cannot be called, and what to install.

    Args:
        name (str): The operator, as mmcv calls it.

    Returns:
        SetupError: The error to raise.
    """
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
    scale, *bins, ratio, aligned = _roi_align_options(**options)
    output.copy_(torch.ops.torchvision.roi_align(features, rois.to(features.dtype), scale, *bins, ratio, aligned))


def roi_align_backward(grad_output, rois, argmax_y, argmax_x, grad_input, **options) -> None:
    """Add the gradient of :func:`roi_align_forward` to ``grad_input``, ``(N, C, H, W)``."""
    grad = full_precision(grad_output)
    scale, *bins, ratio, aligned = _roi_align_options(**options)
    grad_input += torch.ops.torchvision._roi_align_backward(
        grad, rois.to(grad.dtype), scale, *bins, *grad_input.shape, ratio, aligned
    )


def _roi_align_options(aligned_height, aligned_width, spatial_scale, sampling_ratio, pool_mode, aligned) -> tuple:
    if pool_mode != 1:
        raise missing_operator('roi_align with max pooling')
    return spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned


def deform_conv_forward(input, weight, offset, output, columns, ones, **options) -> None:
    """Write the convolution of pixels that are displaced (deformable convolution) into ``output``.

    Args:
        input (Tensor): ``(N, C, H, W)``.
        weight (Tensor): ``(C', C / groups, kh, kw)``.
        offset (Tensor): Row and column, for every place of the kernel, ``(N, G * K * 2, H', W')`` with G deformable
            groups and K places.
        output (Tensor): Takes the result, ``(N, C', H', W')``.
        columns (Tensor): Space that mmcv's kernels work in, as ``ones``.
        ones (Tensor): See ``columns``.
        **options: Stride, padding, dilation and groups by mmcv's names.
    """
    output.copy_(_deform_conv(input, weight, offset, None, None, _v1_options(options)).view_as(output))


def deform_conv_backward_input(input, offset, grad_output, grad_input, grad_offset, weight, columns, **options) -> None:
    """Write the gradients of input and offset into ``grad_input`` and ``grad_offset``."""
    found = _deform_conv_backward(grad_output, input, weight, offset, None, _v1_options(options))
    grad_input.copy_(found[0]), grad_offset.copy_(found[2])


def deform_conv_backward_parameters(input, offset, grad_output, grad_weight, columns, ones, scale, **options) -> None:
    """Add the gradient of the weight to ``grad_weight``."""
    # The convolution is linear in the weight, and so its gradient does not depend on the weight's values.
    grad_weight += scale * _deform_conv_backward(grad_output, input, grad_weight, offset, None, _v1_options(options))[1]


def modulated_deform_conv_forward(
    input, weight, bias, ones, offset, mask, output, columns, with_bias, **options
) -> None:
    """Write the deformable convolution of samples times ``mask``, ``(N, G * K, H', W')``, into ``output`` (v2)."""
    found = _deform_conv(input, weight, offset, mask, bias if with_bias else None, _v2_options(options))
    output.copy_(found.view_as(output))


def modulated_deform_conv_backward(
    input, weight, bias, ones, offset, mask, columns, grad_input, grad_weight, grad_bias, grad_offset, grad_mask,
    grad_output, with_bias, **options
) -> None:  # fmt: skip
    """Write all gradients."""
    found = _deform_conv_backward(grad_output, input, weight, offset, mask, _v2_options(options))
    for taken, gradient in zip((grad_input, grad_weight, grad_offset, grad_mask, grad_bias), found):
        if taken is not grad_bias or with_bias:
            taken.copy_(gradient)


def _v1_options(o: dict) -> Tuple[int, ...]:
    pairs = o['dH'], o['dW'], o['padH'], o['padW'], o['dilationH'], o['dilationW']
    return (*pairs, o['group'], o['deformable_group'])


def _v2_options(o: dict) -> Tuple[int, ...]:
    pairs = o['stride_h'], o['stride_w'], o['pad_h'], o['pad_w'], o['dilation_h'], o['dilation_w']
    return (*pairs, o['group'], o['deformable_group'])


def _deform_conv(input, weight, offset, mask, bias, options: Tuple[int, ...]) -> Tensor:
    tensors = _deform_conv_tensors(input, weight, offset, mask)
    bias = tensors[0].new_zeros(len(weight)) if bias is None else bias.to(tensors[0].dtype)
    return torch.ops.torchvision.deform_conv2d(*tensors, bias, *options, mask is not None)


def _deform_conv_backward(grad_output, input, weight, offset, mask, options: Tuple[int, ...]) -> Tuple[Tensor, ...]:
    tensors = _deform_conv_tensors(input, weight, offset, mask)
    grad, bias = grad_output.to(tensors[0].dtype).contiguous(), tensors[0].new_zeros(len(weight))
    return torch.ops.torchvision._deform_conv2d_backward(grad, *tensors, bias, *options, mask is not None)


def _deform_conv_tensors(input, weight, offset, mask) -> Tuple[Tensor, ...]:
    features = full_precision(input)
    given = features.new_zeros(len(input), 0) if mask is None else mask
    return (features, *(tensor.to(features.dtype).contiguous() for tensor in (weight, offset, given)))


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
