import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cankd_mm.models.losses import normalized_mse


@settings(max_examples=30, deadline=None)
@given(shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 9), st.integers(2, 9)))
def test_equals_instance_norm_and_mse(shape):
    torch.manual_seed(sum(shape))
    z = torch.randn(shape, dtype=torch.double, requires_grad=True)
    t = 3 * torch.randn(shape, dtype=torch.double) + 7
    ours, theirs = normalized_mse(z, t), F.mse_loss(F.instance_norm(z), F.instance_norm(t))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    grads = [torch.autograd.grad(loss, z)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 9), st.integers(2, 9)))
def test_equals_layer_norm_and_mse(shape):
    torch.manual_seed(sum(shape))
    z = torch.randn(shape, dtype=torch.double, requires_grad=True)
    t = 3 * torch.randn(shape, dtype=torch.double) + 7
    ours = normalized_mse(z, t, 'layer')
    theirs = F.mse_loss(F.layer_norm(z, shape[1:]), F.layer_norm(t, shape[1:]))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    grads = [torch.autograd.grad(loss, z)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('norm', ['instance', 'layer'])
def test_gradcheck(norm):
    z, t = torch.randn(2, 2, 3, 4, 5, dtype=torch.double).unbind(1)
    assert torch.autograd.gradcheck(lambda z: normalized_mse(z, t, norm), z.requires_grad_())


def test_two_maps_are_kept_for_the_backward_pass():
    z, t = torch.randn(2, 2, 4, 16, 16).unbind(1)
    z = z.clone().requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda x: x):
        normalized_mse(z, t)
    large = [tensor for tensor in saved if tensor.numel() >= z.numel()]
    assert len({tensor.data_ptr() for tensor in large}) == 2


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('norm', ['instance', 'layer'])
def test_accurate_where_the_mean_is_ten_thousand_times_the_spread(memory_format, norm):
    z = (torch.randn(2, 4, 32, 32) + 1e4).contiguous(memory_format=memory_format)
    t = torch.randn(2, 4, 32, 32) + 1e4
    z64, z32 = z.double().requires_grad_(), z.requires_grad_()
    exact, ours = normalized_mse(z64, t.double(), norm), normalized_mse(z32, t, norm)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=0)
    exact_grad, grad = torch.autograd.grad(exact, z64)[0], torch.autograd.grad(ours, z32)[0].double()
    torch.testing.assert_close(grad, exact_grad, rtol=0, atol=2e-6 * float(exact_grad.abs().max()))


def test_layer_norm_keeps_its_digits_over_millions_of_elements():
    z, t = torch.randn(2, 1, 128, 100, 168).unbind(0)
    torch.testing.assert_close(
        normalized_mse(z, t, 'layer').double(), normalized_mse(z.double(), t.double(), 'layer'), rtol=1e-6, atol=0
    )


def test_one_pixel_is_zero_with_zero_gradient():
    z = torch.randn(2, 3, 1, 1, requires_grad=True)
    loss = normalized_mse(z, torch.randn(2, 3, 1, 1))
    loss.backward()
    assert loss == 0 and not z.grad.any()


def test_target_gets_no_gradient():
    z, t = torch.randn(2, 1, 2, 3, 3).requires_grad_().unbind(0)
    t.retain_grad()
    normalized_mse(z, t).backward()
    assert t.grad is None
