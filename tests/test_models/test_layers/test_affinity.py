import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cankd_mm.models.layers import dot_product_attention
from tests.naive import naive_attention


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 3), d=st.integers(1, 24), p=st.integers(1, 60), m=st.integers(1, 60))
def test_equals_naive_in_both_orders(n, d, p, m):
    torch.manual_seed(n + d + p + m)
    inputs = [torch.randn(n, d, size, dtype=torch.double, requires_grad=True) for size in (p, m, m)]
    out, expected = dot_product_attention(*inputs), naive_attention(*inputs)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    weight = torch.randn_like(out)
    ours = torch.autograd.grad(out, inputs, weight)
    theirs = torch.autograd.grad(expected, inputs, weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


class _Shapes(torch.utils._python_dispatch.TorchDispatchMode):
    """Collects how many elements every tensor has that is computed."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.sizes.append(out.numel())
        return out


def test_no_pixels_by_pixels_matrix_on_a_large_map():
    theta, phi, g = (torch.randn(1, 8, size) for size in (1600, 400, 400))
    with _Shapes() as shapes:
        dot_product_attention(theta, phi, g)
    assert max(shapes.sizes) == 8 * 1600


def test_no_square_of_channels_on_a_small_map():
    theta, phi, g = (torch.randn(1, 512, size) for size in (6, 2, 2))
    with _Shapes() as shapes:
        dot_product_attention(theta, phi, g)
    assert max(shapes.sizes) == 512 * 6


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_neither_overflows_nor_underflows(dtype):
    for scale in (1e-3, 100.0):
        inputs = [(scale * torch.randn(1, 4, 4096)).to(dtype) for _ in range(3)]
        with torch.autocast('cpu', dtype=torch.bfloat16):
            out = dot_product_attention(*inputs)
        expected = naive_attention(*(tensor.double() for tensor in inputs))
        assert out.dtype == torch.float32
        torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
