"""Values and gradients against naive references in float64, and through mmcv's own functions."""

import math
from importlib import import_module

import pytest
import torch
from mmcv.ops import deform_conv as v1
from mmcv.ops import modulated_deform_conv as v2
from torch.nn import functional as F

from cankd_mm.stack import ops as package
from cankd_mm.stack.ops import torchvision_kernels


@pytest.fixture(params=['plain torch', 'torchvision'])
def ops(request):
    """The operators of one source, as mmcv finds them."""
    if request.param == 'torchvision' and not torchvision_kernels.is_available():
        pytest.skip('no torchvision')
    return package.Extension(torchvision=request.param == 'torchvision')


def boxes(n):
    corner = torch.rand(n, 2, dtype=torch.double) * 50
    return torch.cat([corner, corner + torch.rand(n, 2, dtype=torch.double) * 30], 1)


def iou(a, b, offset):
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    area = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    return w * h / (sum(area) - w * h)


@pytest.mark.parametrize('n', [0, 1, 2, 60])
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.1, 0.6])
def test_nms(ops, n, offset, threshold, monkeypatch):
    monkeypatch.setattr(import_module('cankd_mm.stack.ops.nms'), '_ROWS', 7)
    found, scores = boxes(n), torch.rand(n, dtype=torch.double)
    kept = []
    for i in scores.argsort(descending=True).tolist():
        if all(iou(found[i].tolist(), found[j].tolist(), offset) <= threshold for j in kept):
            kept.append(i)
    assert ops.nms(found, scores, threshold, offset).tolist() == kept


@pytest.mark.parametrize('method', [0, 1, 2])
@pytest.mark.parametrize('n', [0, 1, 25])
def test_softnms(ops, n, method):
    found, scores = boxes(n), torch.rand(n, dtype=torch.double)
    left, kept = dict(enumerate(scores.tolist())), []
    while left:
        best = max(left, key=left.get)
        kept.append((best, left.pop(best)))
        for j in list(left):
            overlap = iou(found[best].tolist(), found[j].tolist(), 1)
            decay = math.exp(-(overlap**2) / 0.5) if method == 2 else (0, 1 - overlap)[method] if overlap >= 0.3 else 1
            left[j] *= decay
            if left[j] < 0.01:
                del left[j]
    dets = torch.zeros(n, 5, dtype=torch.double)
    indices = ops.softnms(found, scores, dets, 0.3, 0.5, 0.01, method, 1)
    assert indices.tolist() == [index for index, _ in kept]
    for det, (index, score) in zip(dets, kept):
        torch.testing.assert_close(det, torch.cat([found[index], torch.tensor([score], dtype=torch.double)]))


def at(image, y, x):
    """One bilinear sample of a map, of which the border reaches one pixel out."""
    height, width = image.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    upper = image[top, left] * (1 - dx) + image[top, right] * dx
    return float(upper * (1 - dy) + (image[bottom, left] * (1 - dx) + image[bottom, right] * dx) * dy)


ROIS = torch.tensor(
    [[0, 4.0, 6.0, 40.0, 30.0], [1, -9.0, -5.0, 70.0, 90.0], [1, 10.0, 10.0, 11.0, 10.5], [0, 30.0, 2.0, 47.0, 9.0]],
    dtype=torch.double,
)


@pytest.mark.parametrize('mean', [0, 1])
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('aligned', [True, False])
def test_roi_align(ops, mean, ratio, aligned):
    features = torch.randn(2, 2, 9, 12, dtype=torch.double)
    options = dict(
        aligned_height=3, aligned_width=2, spatial_scale=0.25, sampling_ratio=ratio, pool_mode=mean, aligned=aligned
    )
    output = torch.zeros(4, 2, 3, 2, dtype=torch.double)
    y, x = torch.zeros_like(output), torch.zeros_like(output)
    ops.roi_align_forward(features, ROIS, output, y, x, **options)
    for r, (image, *corners) in enumerate(ROIS.tolist()):
        x1, y1, x2, y2 = (corner * 0.25 - (0.5 if aligned else 0) for corner in corners)
        w, h = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1), max(y2 - y1, 1))
        ny, nx = (ratio or math.ceil(h / 3)), (ratio or math.ceil(w / 2))
        for i in range(3):
            for j in range(2):
                for channel in range(2):
                    samples = [
                        at(
                            features[int(image), channel],
                            y1 + h / 3 * (i + (k + 0.5) / ny),
                            x1 + w / 2 * (j + (m + 0.5) / nx),
                        )
                        for k in range(ny)
                        for m in range(nx)
                    ]
                    expected = sum(samples) / len(samples) if mean else max(samples)
                    assert float(output[r, channel, i, j]) == pytest.approx(expected, abs=1e-9)
    ops.roi_align_forward(features, ROIS[:0], output[:0], y[:0], x[:0], **options)  # no region at all
    # Linear in the features, but for which sample is the largest: the gradient is the adjoint.
    grad, grad_input = torch.randn_like(output), torch.zeros_like(features)
    ops.roi_align_backward(grad, ROIS, y, x, grad_input, **options)
    torch.testing.assert_close((grad_input * features).sum(), (grad * output).sum())


def test_roi_pool(ops):
    features = torch.randn(2, 3, 9, 12, dtype=torch.double)
    rois = torch.cat([ROIS, torch.tensor([[0, 90.0, 90.0, 99.0, 99.0], [0, 9.0, 9.0, 2.0, 2.0]], dtype=torch.double)])
    output, argmax = torch.ones(6, 3, 2, 2, dtype=torch.double), torch.zeros(6, 3, 2, 2, dtype=torch.int)
    ops.roi_pool_forward(features, rois, output, argmax, pooled_height=2, pooled_width=2, spatial_scale=0.25)
    for r, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = x1 / 4, y1 / 4, (x2 + 1) / 4, (y2 + 1) / 4
        for i in range(2):
            for j in range(2):
                top, bottom = math.floor(y1 + i * (y2 - y1) / 2), math.ceil(y1 + (i + 1) * (y2 - y1) / 2)
                left, right = math.floor(x1 + j * (x2 - x1) / 2), math.ceil(x1 + (j + 1) * (x2 - x1) / 2)
                part = features[int(image), :, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)].flatten(1)
                empty = part.shape[1] == 0 or x2 <= x1
                expected = torch.zeros(3, dtype=torch.double) if empty else part.max(1)[0]
                torch.testing.assert_close(output[r, :, i, j], expected)
                assert bool((argmax[r, :, i, j] == -1).all()) == empty
    grad, grad_input = torch.randn_like(output), torch.zeros_like(features)
    ops.roi_pool_backward(grad, rois, argmax, grad_input, pooled_height=2, pooled_width=2, spatial_scale=0.25)
    torch.testing.assert_close((grad_input * features).sum(), (grad * output).sum())


SHAPES = [(1, 1, 1, 1, 1, 3), (2, 2, 2, 1, 1, 3), (1, 4, 1, 2, 2, 3), (1, 1, 1, 0, 1, 1)]


def draw(groups, deform_groups, stride, padding, dilation, size):
    height, width = ((side + 2 * padding - dilation * (size - 1) - 1) // stride + 1 for side in (5, 6))
    places = deform_groups * size * size
    shapes = [
        (2, 4, 5, 6),
        (2, 2 * places, height, width),
        (2, places, height, width),
        (4, 4 // groups, size, size),
        (4,),
    ]
    return [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize('shape', SHAPES)
def test_deformable_convolutions(ops, shape, monkeypatch):
    """By mmcv's own functions: without displacement a convolution, with any the naive sum, and the right gradients."""
    monkeypatch.setattr(v1, 'ext_module', ops)
    monkeypatch.setattr(v2, 'ext_module', ops)
    groups, deform_groups, stride, padding, dilation, size = shape
    x, offset, mask, weight, bias = draw(*shape)
    plain = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    rest = (stride, padding, dilation, groups, deform_groups)
    torch.testing.assert_close(v1.deform_conv2d(x, 0 * offset, weight, *rest) + bias[:, None, None], plain)
    found = v2.modulated_deform_conv2d(x, 0 * offset, torch.ones_like(mask), weight, bias, *rest)
    torch.testing.assert_close(found, plain)
    found = v2.modulated_deform_conv2d(x, offset, mask, weight, bias, *rest)
    torch.testing.assert_close(found[1, 3, 0, 1], naive(x, offset, mask, weight, bias, rest, (1, 3, 0, 1)))
    assert torch.autograd.gradcheck(
        lambda *t: v2.modulated_deform_conv2d(*t, *rest), (x, offset, mask, weight, bias), fast_mode=True
    )
    assert torch.autograd.gradcheck(lambda *t: v1.deform_conv2d(*t, *rest), (x, offset, weight), fast_mode=True)


def naive(x, offset, mask, weight, bias, rest, place):
    """One element of a deformable convolution."""
    stride, padding, dilation, groups, deform_groups = rest
    n, out, i, j = place
    size, inside = weight.shape[2], weight.shape[1]
    first = out // (4 // groups) * inside
    total = bias[out].clone()
    for channel in range(inside):
        image = F.pad(x[n, first + channel], (9, 9, 9, 9))
        group = (first + channel) // (4 // deform_groups)
        for k in range(size * size):
            at_y, at_x = offset[n, (group * size * size + k) * 2 : (group * size * size + k) * 2 + 2, i, j].tolist()
            y = min(max(i * stride - padding + k // size * dilation + at_y, -2), 6) + 9
            z = min(max(j * stride - padding + k % size * dilation + at_x, -2), 7) + 9
            value = at(image.detach(), y, z)
            total = total + weight[out, channel, k // size, k % size] * value * mask[n, group * size * size + k, i, j]
    return total


@pytest.mark.parametrize('weighted', [False, True])
def test_sigmoid_focal_loss(ops, weighted):
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

    logits = (4 * torch.randn(20, 3, dtype=torch.double)).requires_grad_()
    target = torch.randint(0, 4, (20,))  # 3 is background
    weight = torch.rand(4, dtype=torch.double) if weighted else torch.zeros(0, dtype=torch.double)
    one_hot = F.one_hot(target, 4)[:, :3]
    expected = py_sigmoid_focal_loss(logits, one_hot, gamma=2.0, alpha=0.25, reduction='none')
    expected = expected * (weight[target][:, None] if weighted else 1)
    output, grad = torch.zeros_like(logits), torch.zeros_like(logits)
    ops.sigmoid_focal_loss_forward(logits.detach(), target, weight, output, gamma=2.0, alpha=0.25)
    torch.testing.assert_close(output, expected)
    ops.sigmoid_focal_loss_backward(logits.detach(), target, weight, grad, gamma=2.0, alpha=0.25)
    torch.testing.assert_close(grad, torch.autograd.grad(expected.sum(), logits)[0])


def test_multi_scale_deformable_attention_is_mmcvs(ops):
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    shapes = torch.tensor([[4, 5], [2, 3]])
    start = torch.tensor([0, 20])
    value = torch.randn(2, 26, 2, 4, dtype=torch.double, requires_grad=True)
    locations = torch.rand(2, 3, 2, 2, 4, 2, dtype=torch.double, requires_grad=True)
    weights = torch.rand(2, 3, 2, 2, 4, dtype=torch.double, requires_grad=True)
    expected = multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)
    found = ops.ms_deform_attn_forward(value, shapes, start, locations, weights, im2col_step=64)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(expected)
    taken = [torch.zeros_like(tensor) for tensor in (value, locations, weights)]
    ops.ms_deform_attn_backward(value, shapes, start, locations, weights, grad, *taken, im2col_step=64)
    torch.testing.assert_close(taken, list(torch.autograd.grad(expected, (value, locations, weights), grad)))
