"""Values and gradients against naive references in float64, and through mmcv's own functions."""

import math
import sys

import pytest
import torch
from mmcv.ops import DeformConv2d, RoIAlign
from mmcv.ops import deform_conv as v1
from mmcv.ops import modulated_deform_conv as v2
from torch.nn import functional as F

from cankd_mm.errors import SetupError
from cankd_mm.stack.ops import Extension, plain
from cankd_mm.stack.ops import torchvision as kernels

needs_torchvision = pytest.mark.skipif(kernels.problem() is not None, reason='torchvision has no kernels here')


@pytest.fixture(params=['plain torch', pytest.param('torchvision', marks=needs_torchvision)])
def ops(request):
    """The operators of one source, as mmcv finds them."""
    return Extension(torchvision=request.param == 'torchvision')


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
    monkeypatch.setattr(plain, '_NMS_ROWS', 7)
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
    [
        [0, 4.0, 6.0, 40.0, 30.0],
        [1, -9.0, -5.0, 70.0, 90.0],
        [1, 10.0, 10.0, 11.0, 10.5],
        [0, 30.0, 2.0, 47.0, 9.0],
        [0, 90.0, 90.0, 99.0, 99.0],
    ],
    dtype=torch.double,
)


@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('aligned', [True, False])
def test_roi_align(ops, ratio, aligned):
    features = torch.randn(2, 2, 9, 12, dtype=torch.double)
    options = dict(
        aligned_height=3, aligned_width=2, spatial_scale=0.25, sampling_ratio=ratio, pool_mode=1, aligned=aligned
    )
    output, empty = torch.zeros(len(ROIS), 2, 3, 2, dtype=torch.double), torch.zeros(0)
    ops.roi_align_forward(features, ROIS, output, empty, empty, **options)
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
                    expected = sum(samples) / max(len(samples), 1)
                    assert float(output[r, channel, i, j]) == pytest.approx(expected, abs=1e-9)
    ops.roi_align_forward(features, ROIS[:0], output[:0], empty, empty, **options)  # no region at all
    # Linear in the features: the gradient is the adjoint.
    grad, grad_input = torch.randn_like(output), torch.zeros_like(features)
    ops.roi_align_backward(grad, ROIS, empty, empty, grad_input, **options)
    torch.testing.assert_close((grad_input * features).sum(), (grad * output).sum())


@pytest.mark.parametrize('dtype, tolerance', [(torch.half, 2e-3), (torch.float, 1e-5)])
def test_roi_align_of_less_precision(ops, dtype, tolerance):
    """In half precision, and in single where a training has mixed precision on."""
    features, found = torch.randn(2, 2, 9, 12).half(), []
    options = dict(aligned_height=3, aligned_width=2, spatial_scale=0.25, sampling_ratio=0, pool_mode=1, aligned=True)
    for taken in (torch.double, dtype):
        x, rois, empty = features.to(taken), ROIS.to(taken), torch.zeros(0)
        output, grad_input = torch.zeros(len(ROIS), 2, 3, 2, dtype=taken), torch.zeros_like(x)
        with torch.autocast('cpu', torch.bfloat16, enabled=taken == torch.float):
            ops.roi_align_forward(x, rois, output, empty, empty, **options)
            ops.roi_align_backward(torch.ones_like(output), rois, empty, empty, grad_input, **options)
        found.append((output.double(), grad_input.double()))
    for exact, rounded in zip(*found):
        torch.testing.assert_close(rounded, exact, rtol=tolerance, atol=tolerance)


def test_max_pooling_is_missing_and_said_to_be(ops, monkeypatch):
    monkeypatch.setattr(sys.modules[RoIAlign.__module__], 'ext_module', ops)
    with pytest.raises(SetupError, match='RoIAlign needs.*install mmcv with its compiled operators'):
        RoIAlign(7, pool_mode='max')(torch.rand(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 3, 3]]))


def test_deformable_convolution_without_torchvision_says_what_to_install(monkeypatch):
    monkeypatch.setattr(v1, 'ext_module', Extension(torchvision=False))
    monkeypatch.setattr(kernels, 'problem', lambda: 'is not installed')
    with pytest.raises(
        SetupError,
        match=r"DeformConv2d needs the operator 'deform_conv_forward'.*pip install .*torchvision==0\.\d+\.\d+",
    ):
        DeformConv2d(1, 1, 1)(torch.rand(1, 1, 4, 4), torch.zeros(1, 2, 4, 4))


@pytest.mark.parametrize(
    'torch_version, words',
    [
        ('2.13.0+cpu', 'torchvision==0.28.0 (from the package index of torch+cpu)'),
        ('2.14.1', 'torchvision==0.29.1'),
        ('2.0.1', 'torchvision==0.15.2'),
    ],
)
def test_the_torchvision_of_a_torch(monkeypatch, torch_version, words):
    monkeypatch.setattr(kernels.metadata, 'version', lambda name: torch_version)
    monkeypatch.setattr(kernels, 'find_spec', lambda name: None)
    assert kernels.install_command() == f'pip install {words}'
    monkeypatch.setattr(kernels, 'find_spec', lambda name: object())
    assert kernels.install_command() == f'pip install --force-reinstall --no-deps {words}'


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


@needs_torchvision
@pytest.mark.parametrize('shape', SHAPES)
def test_deformable_convolutions(shape, monkeypatch):
    """By mmcv's own functions: without displacement a convolution, with any the naive sum, and the right gradients."""
    for module in (v1, v2):
        monkeypatch.setattr(module, 'ext_module', Extension(torchvision=True))
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
