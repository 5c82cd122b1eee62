import copy
import re
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmrazor.registry import MODELS
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from cankd_mm.errors import SetupError
from cankd_mm.models import CanKDLoss
from cankd_mm.models.layers.can_block import MODES
from tests.conftest import needs_torch
from tests.naive import naive_block, naive_loss


def _trained(loss):
    """Leave the starting point, where the block is the identity and most gradients are zero."""
    torch.manual_seed(0)
    for parameter in loss.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return loss.double()


SHAPES = [
    *[(2, 6, 7, 5), (1, 6, 9, 11), (1, 5, 2, 3), (2, 6, 1, 1), (2, 6, 1, 7), (3, 1, 4, 4), (2, 40, 3, 3)],
    *[(2, 2, 9, 11), (3, 4, 16, 9), (1, 1, 6, 6)],  # large beside their channels
]


def compare(loss, shape, norm='instance', rtol=1e-10, dtype=torch.double):
    """Value and every gradient against the quadratic form in double precision."""
    x, t = torch.randn(shape, dtype=dtype, requires_grad=True), torch.randn(shape, dtype=dtype)
    twin = copy.deepcopy(loss).double()
    x64 = x.detach().double().requires_grad_()
    ours, theirs = loss(x, t), naive_loss(twin.can, x64, t.double(), loss.loss_weight, norm)
    grads = (
        torch.autograd.grad(ours, [x, *loss.parameters()]),
        torch.autograd.grad(theirs, [x64, *twin.parameters()]),
    )
    largest = max(float(grad.abs().max()) for grad in grads[1])
    torch.testing.assert_close(ours.double(), theirs, rtol=rtol, atol=rtol)
    for one, other in zip(*grads):
        torch.testing.assert_close(one.double(), other, rtol=rtol, atol=rtol * max(1.0, largest))


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('sub_sample', [True, False, 4])
@pytest.mark.parametrize('shape', SHAPES)
def test_equals_the_quadratic_form_in_value_and_every_gradient(shape, sub_sample, mode):
    compare(_trained(CanKDLoss(shape[1], sub_sample=sub_sample, mode=mode, loss_weight=3.0)), shape)


@pytest.mark.parametrize('mode', MODES)
@settings(max_examples=10, deadline=None)
@given(shape=st.tuples(st.integers(1, 3), st.integers(2, 12), st.integers(1, 12), st.integers(2, 12)))
def test_equals_the_quadratic_form_on_random_shapes(mode, shape):
    compare(_trained(CanKDLoss(shape[1], mode=mode)), shape)
    if shape[2] * shape[3] >= 16:  # the variances that are divided by must not be those of rounding errors
        # Batch norm magnifies the rounding of nearly equal values: over all of these shapes by 4.5e-4 at most.
        compare(_trained(CanKDLoss(shape[1], mode=mode)).float(), shape, rtol=1e-3, dtype=torch.float)


@pytest.mark.parametrize('norm', ['instance', 'layer', None])
@pytest.mark.parametrize('residual', [True, False])
@pytest.mark.parametrize('mode', ['dot_product', None])
def test_ablations(norm, residual, mode):
    loss = CanKDLoss(6, mode=mode, residual=residual, norm=norm)
    compare(_trained(loss), (2, 6, 7, 5), norm)
    assert (loss.can is None) == (mode is None) == (not list(loss.parameters()))


def test_one_pixel_of_one_image():
    x = torch.randn(1, 4, 1, 1, requires_grad=True)
    loss = CanKDLoss(4)(x, torch.randn(1, 4, 1, 1))
    loss.backward()
    assert loss == 0 and x.grad.isfinite().all()


def test_loss_weight_is_the_papers_mu():
    """The authors' code halves the MSE: their loss_weight=10 is mu = 5."""
    x, t = torch.randn(2, 2, 6, 8, 8).unbind(1)
    theirs = 10 * F.mse_loss(F.instance_norm(x), F.instance_norm(t)) / 2
    torch.testing.assert_close(CanKDLoss(6)(x, t), theirs)  # the block starts as the identity


def test_teacher_gets_no_gradient():
    x, t = torch.randn(2, 4, 6, 6, requires_grad=True), torch.randn(2, 4, 6, 6, requires_grad=True)
    _trained(CanKDLoss(4)).float()(x, t).backward()
    assert t.grad is None and x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    'dtype',
    [pytest.param(torch.float16, marks=needs_torch('2.3', 'processors know no autocast to float16')), torch.bfloat16],
)
@pytest.mark.parametrize('mode', MODES)
def test_trains_under_autocast(mode, dtype):
    loss = CanKDLoss(8, mode=mode)
    x, t = torch.randn(2, 2, 8, 16, 16).unbind(1)
    x.requires_grad_()
    with torch.autocast('cpu', dtype=dtype):
        value = loss(x.to(dtype), t.to(dtype))
    value.backward()
    assert value.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in loss.parameters()) and x.grad.isfinite().all()
    torch.testing.assert_close(value, loss(x, t), rtol=2e-2, atol=0)


@pytest.mark.skipif(not hasattr(torch.amp, 'GradScaler'), reason='this torch scales gradients on GPUs only')
@pytest.mark.parametrize('scale', [1e-4, 1e-2, 1, 1e2, 1e4])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('mode', MODES)
def test_trains_with_scaled_gradients_on_features_of_any_size(mode, dtype, scale):
    """On small maps and on large ones, which take different ways through the block."""
    student, scaler = nn.Conv2d(8, 16, 1), torch.amp.GradScaler('cpu', init_scale=2.0**16)
    loss = CanKDLoss(16, mode=mode)
    optimizer = torch.optim.SGD([*student.parameters(), *loss.parameters()], 1e-3)
    before = student.weight.detach().clone()
    for size in (6, 32, 6, 32):
        image, t = torch.randn(2, 8, size, size), scale * torch.randn(2, 16, size, size)
        optimizer.zero_grad()
        with torch.autocast('cpu', dtype=dtype):
            value = loss(scale * student(image), t.to(dtype))
        assert value.isfinite(), size
        scaler.scale(value).backward()
        scaler.step(optimizer)  # skips the step and lowers the scale where a scaled gradient has overflowed
        scaler.update()
    parameters = [*student.parameters(), *loss.parameters()]
    assert all(p.isfinite().all() for p in parameters) and not torch.equal(student.weight, before)


@needs_torch('2.1', 'torch.compile cannot trace promote_types')
@pytest.mark.parametrize('mode, side', [*((mode, 9) for mode in MODES), ('dot_product', 18)])
def test_compiles_to_the_same_loss_and_gradients(mode, side):
    loss = _trained(CanKDLoss(8, mode=mode))
    x, t = torch.randn(2, 2, 8, side, 16, dtype=torch.double).unbind(1)
    x = x.clone().requires_grad_()
    torch._dynamo.reset()
    found = []
    for function in (loss, torch.compile(loss, backend='aot_eager', fullgraph=True)):
        value = function(x, t)
        found.append((value, torch.autograd.grad(value, [x, *loss.parameters()])))
    torch.testing.assert_close(*found)


@needs_torch('2.3', 'an out= argument breaks the graph')
def test_compiles_under_autocast():
    loss = _trained(CanKDLoss(8)).float()
    x, t = torch.randn(2, 2, 8, 18, 16).bfloat16().unbind(1)
    x = x.clone().requires_grad_()
    torch._dynamo.reset()
    found = []
    for function in (loss, torch.compile(loss, backend='aot_eager', fullgraph=True)):
        with torch.autocast('cpu', torch.bfloat16):
            value = function(x, t)
        found.append((value, torch.autograd.grad(value, x)[0]))
    torch.testing.assert_close(*found, rtol=2e-2, atol=2e-2 * float(found[0][1].abs().max()))


@needs_torch('2.1', 'the meta device lacks operators')
@pytest.mark.parametrize('norm', ['instance', 'layer', None])
@pytest.mark.parametrize('mode', [*MODES, None])
def test_never_waits_for_the_device(mode, norm, monkeypatch):
    """Tensors of the meta device have no values: whatever asked for one would fail."""
    monkeypatch.setattr(torch, 'autocast', lambda *args, **kwargs: nullcontext())  # the meta device has none
    loss = CanKDLoss(8, mode=mode, norm=norm, resize='student').to('meta')
    x = torch.randn(2, 8, 20, 30, device='meta', requires_grad=True)
    loss(x, torch.randn(2, 8, 10, 15, device='meta')).backward()
    assert x.grad.shape == x.shape


def test_teacher_in_half_precision_beside_a_student_in_full():
    loss = _trained(CanKDLoss(8)).float()
    x, t = torch.randn(2, 2, 8, 9, 10).unbind(1)
    torch.testing.assert_close(loss(x, t.bfloat16()), loss(x, t.bfloat16().float()))


@pytest.mark.parametrize('factor', [1, 1000], ids=['', 'large channels'])
@pytest.mark.parametrize('mean, deviation', [(0, 1), (0.5, 1), (0.3, 0.05)])
@pytest.mark.parametrize('side', [16, 40], ids=['small', 'large'])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_is_close_to_float64(dtype, side, mean, deviation, factor):
    """With smooth maps of some noise, as networks have them, some of whose channels may be much larger than others."""
    exact = _trained(CanKDLoss(32))
    student, teacher = (
        F.interpolate(torch.randn(2, 32, 5, 5), (side, side), mode='bicubic') + 0.3 * torch.randn(2, 32, side, side)
        for _ in range(2)
    )
    features = [(deviation * (student + f) + mean).to(dtype) for f in (0 * student, teacher)]
    features[0][:, :3] *= factor
    features[1][:, 5:8] *= factor
    found = []
    for loss, kind, autocast in ((exact, torch.double, False), (copy.deepcopy(exact).float(), dtype, True)):
        x, t = (f.to(kind).clone() for f in features)
        with torch.autocast('cpu', dtype, enabled=autocast):
            value = loss(x.requires_grad_(), t)
        value.backward()
        # What the norms take out has a gradient of zero, or of what differs between two images.
        taken_out = ('can.theta.bias', 'can.conv_out.bias', 'can.bn.bias')
        parameters = {name: p.grad for name, p in loss.named_parameters() if name not in taken_out}
        found.append((value.item(), {'x': x.grad, **parameters}))
    (value, grads), (half, half_grads) = found
    assert half == pytest.approx(value, rel=1e-2)
    cosines = {
        name: float(F.cosine_similarity(half_grads[name].double().flatten(), g.flatten(), 0))
        for name, g in grads.items()
    }
    assert min(cosines.values()) > 0.999, cosines


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('side', [6, 12], ids=['small', 'large'])
def test_a_projected_feature_spares_work_and_changes_nothing(side, bias):
    conv, loss = _trained(nn.Conv2d(4, 16, 1, bias=bias)), _trained(CanKDLoss(16))
    s, t = torch.randn(2, 4, side, side, dtype=torch.double), torch.randn(2, 16, side, side, dtype=torch.double)
    s.requires_grad_()
    found, counts = [], []
    for projected in (None, (s, conv)):
        with _Operations() as operations:
            value = loss(conv(s), t, projected=projected)
        counts.append(operations.multiplications)
        found.append((value, torch.autograd.grad(value, [s, *conv.parameters(), *loss.parameters()])))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
    assert counts[1] < 0.7 * counts[0]


def test_gradient_checkpointing():
    loss = _trained(CanKDLoss(8))
    x, t = torch.randn(2, 2, 8, 9, 10, dtype=torch.double).unbind(1)
    x = x.clone().requires_grad_()
    found = []
    for function in (loss, partial(checkpoint, loss, use_reentrant=False)):
        value = function(x, t)
        found.append((value, torch.autograd.grad(value, [x, *loss.parameters()])))
    torch.testing.assert_close(*found)


def test_channels_last():
    loss = _trained(CanKDLoss(8))
    x, t = torch.randn(2, 2, 8, 9, 10, dtype=torch.double).unbind(1)
    grads = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        features = [f.contiguous(memory_format=memory_format).requires_grad_() for f in (x, t)]
        value = loss(*features)
        grads.append((value, torch.autograd.grad(value, [features[0], *loss.parameters()])))
    torch.testing.assert_close(*grads)


class _Operations(TorchDispatchMode):
    """Counts what is computed, without views and what makes no kernel run."""

    def __init__(self):
        super().__init__()
        self.count = self.multiplications = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.count += not (func.is_view or re.search('detach|alias|empty|view|promote_types', name))
        found = func(*args, **(kwargs or {}))
        if name in ('mm', 'bmm', 'baddbmm', 'addmm'):
            self.multiplications += found.numel() * args[-1].shape[-2]
        elif name == 'convolution':
            self.multiplications += found.numel() * args[1][0].numel()
        return found


@needs_torch('2.1', 'operators do not tell which of them are views')
@pytest.mark.parametrize('mode, side, most', [('dot_product', 20, 41), ('dot_product', 40, 47), (None, 20, 17)])
def test_number_of_operations(mode, side, most):
    """Forward and backward, on a small map and on a large one. PKD has 41."""
    loss, (x, t) = CanKDLoss(32, mode=mode), torch.randn(2, 2, 32, side, side)
    x = x.clone().requires_grad_()
    with _Operations() as operations:
        loss(x, t).backward()
    assert operations.count <= most


def test_learns():
    torch.manual_seed(0)
    loss, t = CanKDLoss(8), torch.randn(2, 8, 10, 10)
    x = torch.randn(2, 8, 10, 10, requires_grad=True)
    optimizer = torch.optim.Adam([x, *loss.parameters()], lr=0.05)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        values.append(loss(x, t))
        values[-1].backward()
        optimizer.step()
    assert values[-1] < 0.2 * values[0]


def test_is_registered_in_mmrazor():
    assert isinstance(MODELS.build(dict(_scope_='mmrazor', type='CanKDLoss', in_channels=4)), CanKDLoss)


@pytest.mark.parametrize(
    'arguments, words',
    [
        (dict(mode='dot'), 'dot_product'),
        (dict(norm='batch'), "no norm 'batch': use 'instance', 'layer'"),
        (dict(loss_weight=-1), 'zero or more'),
        (dict(reduction=0), 'at least 1'),
        (dict(resize='both'), "'student' or 'teacher'"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(SetupError, match=words):
        CanKDLoss(**{'in_channels': 4, **arguments})


@pytest.mark.parametrize('resize', ['student', 'teacher'])
def test_resizes_one_of_the_two(resize):
    """The block attends to the teacher on its own grid, and the gradient is led back through the resizing."""
    loss = _trained(CanKDLoss(4, resize=resize))
    x = torch.randn(2, 4, 4, 7, dtype=torch.double, requires_grad=True)
    t = torch.randn(2, 4, 9, 5, dtype=torch.double)
    ours = loss(x, t)
    if resize == 'student':
        theirs = naive_loss(loss.can, F.interpolate(x, (9, 5), mode='bilinear', align_corners=False), t, 5.0)
    else:
        z = naive_block(loss.can, x, t)
        theirs = naive_loss(None, z, F.interpolate(t, (4, 7), mode='bilinear', align_corners=False), 5.0)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.autograd.grad(ours, x), torch.autograd.grad(theirs, x), rtol=1e-10, atol=1e-10)
    same = torch.randn_like(x)
    torch.testing.assert_close(loss(x, same), naive_loss(loss.can, x, same, 5.0))


def test_resizing_does_not_mend_channels():
    with pytest.raises(SetupError, match='of one shape'):
        CanKDLoss(4, resize='student')(torch.randn(1, 4, 8, 8), torch.randn(1, 6, 4, 4))


def test_features_of_different_shape():
    with pytest.raises(SetupError, match=r'\(1, 4, 8, 8\).*\(1, 4, 4, 4\)'):
        CanKDLoss(4)(torch.randn(1, 4, 8, 8), torch.randn(1, 4, 4, 4))


@pytest.mark.parametrize('mode', [*MODES, None])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('side', [4, 24])  # both orders of the contraction
def test_module_in_half_precision(mode, dtype, side):
    """As FSDP, DeepSpeed or ``.bfloat16()`` leave it, beside a teacher in full precision."""
    torch.manual_seed(0)
    full = CanKDLoss(8, mode=mode)
    if mode is not None:
        torch.nn.init.normal_(full.can.bn.weight)
    half = copy.deepcopy(full).to(dtype)
    x, t = torch.randn(2, 8, side, side), torch.randn(2, 8, side, side)
    x16 = x.to(dtype).requires_grad_()
    loss = half(x16, t)
    torch.testing.assert_close(loss.float(), full(x, t), rtol=0.05, atol=0.05)
    loss.backward()
    assert x16.grad.dtype is dtype and x16.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in half.parameters() if p.grad is not None)


@pytest.mark.parametrize('shape', [(0, 8, 4, 4), (2, 8, 0, 4), (2, 8, 4, 0)])
def test_empty_features_are_a_loss_of_zero(shape):
    loss = CanKDLoss(8)
    x = torch.zeros(shape, requires_grad=True)
    value = loss(x, torch.zeros(shape))
    value.backward()
    assert value == 0 and all(p.grad is not None for p in loss.parameters())


@pytest.mark.parametrize('given, side', [(True, 2), (False, 1), (1, 1), (2, 2), (8, 8)])
def test_side_of_the_pooled_windows(given, side):
    """True is two, and one is none, though both are equal to Python."""
    block = CanKDLoss(4, sub_sample=given).can
    assert block.sub_sample == side and type(block.sub_sample) is int
    assert block.affinity(torch.randn(1, 4, 3, 3), torch.randn(1, 4, 17, 25), [(0, 0)]).shape == (
        1,
        17 // side,
        25 // side,
    )


@pytest.mark.parametrize('given', [0, -2, 2.0, '2'])
def test_windows_without_a_side(given):
    with pytest.raises(SetupError, match='cannot pool with sub_sample=.*: give the side of the windows'):
        CanKDLoss(4, sub_sample=given)
