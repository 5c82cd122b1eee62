import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from cankd_mm.models.layers import concatenation_attention, dot_product_attention, softmax_attention
from cankd_mm.models.layers.affinity import scan
from tests.conftest import needs_torch
from tests.naive import naive_attention, naive_concatenation_attention, naive_softmax_attention

SIZES = dict(n=st.integers(1, 3), d=st.integers(1, 24), p=st.integers(1, 60), m=st.integers(1, 60))
CASES = {
    'dot_product': (dot_product_attention, naive_attention),
    'softmax': (softmax_attention, naive_softmax_attention),
    'concatenation': (concatenation_attention, naive_concatenation_attention),
}


def draw(name, n, d, p, m, dtype=torch.double):
    """Queries, keys and values; scores in place of the first two for the concatenation."""
    torch.manual_seed(n + d + p + m)
    shapes = [(n, p), (n, m)] if name == 'concatenation' else [(n, d, p), (n, d, m)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in (*shapes, (n, d, m))]


def compare(name, inputs, rtol):
    ours, theirs = CASES[name]
    out, expected = ours(*inputs), theirs(*(i.double() for i in inputs))
    weight = torch.randn_like(out)
    grads = torch.autograd.grad(out, inputs, weight), torch.autograd.grad(expected, inputs, weight.double())
    for one, other in zip((out, *grads[0]), (expected, *grads[1])):
        torch.testing.assert_close(
            one.double(), other.double(), rtol=rtol, atol=rtol * max(1, float(other.detach().abs().max()))
        )


@pytest.mark.parametrize('name', CASES)
@settings(max_examples=40, deadline=None)
@given(**SIZES)
def test_equals_naive_in_value_and_every_gradient(name, n, d, p, m):
    compare(name, draw(name, n, d, p, m), 1e-10)


@pytest.mark.parametrize('name', CASES)
@settings(max_examples=20, deadline=None)
@given(**SIZES)
def test_equals_naive_in_single_precision(name, n, d, p, m):
    compare(name, draw(name, n, d, p, m, torch.float), 1e-4)


@settings(max_examples=40, deadline=None)
@given(**SIZES)
def test_concatenation_with_ties(n, d, p, m):
    """Scores from a few whole numbers: equal keys, and sums that are exactly zero."""
    a, b, g = draw('concatenation', n, d, p, m)
    ties = [torch.randint(-2, 3, s.shape).double().requires_grad_() for s in (a, b)]
    compare('concatenation', [*ties, g], 1e-10)


def test_concatenation_keeps_its_digits_where_scores_are_large_and_their_sum_is_not():
    a, b, g = draw('concatenation', 1, 4, 50, 60, torch.float)
    compare('concatenation', [(a + 1e5).detach().requires_grad_(), (b - 1e5).detach().requires_grad_(), g], 1e-4)


def test_prefix_sums_without_cumsum():
    """Which has no deterministic form on GPUs."""
    for m in (1, 2, 3, 100):
        values = torch.randn(2, 3, m, dtype=torch.double, requires_grad=True)
        torch.testing.assert_close(scan(values), values.cumsum(2))
        weights = torch.randn(2, 3, m, dtype=torch.double)
        grads = [torch.autograd.grad((f(values) * weights).sum(), values)[0] for f in (scan, lambda v: v.cumsum(2))]
        torch.testing.assert_close(*grads)


def test_softmax_takes_values_narrower_than_keys():
    queries, keys, values = draw('softmax', 2, 8, 20, 10)
    compare('softmax', [queries, keys, values[:, :3].detach().requires_grad_()], 1e-10)


class _Sizes(TorchDispatchMode):
    """Collects how many elements every tensor has that is computed, backward included."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (list, tuple)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


@needs_torch('2.1', 'processors have no fused softmax attention')
@pytest.mark.parametrize('name', CASES)
def test_no_pixels_by_pixels_matrix_on_a_large_map(name):
    inputs = draw(name, 1, 8, 1600, 400, torch.float)
    with _Sizes() as sizes:
        CASES[name][0](*inputs).sum().backward()
    # The concatenation looks up two sums per query.
    assert sizes.largest <= 8 * 1600 * (2 if name == 'concatenation' else 1)


def test_no_square_of_channels_on_a_small_map():
    with _Sizes() as sizes:
        dot_product_attention(*draw('dot_product', 1, 512, 6, 2, torch.float))
    assert sizes.largest == 512 * 6


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_neither_overflows_nor_underflows(name, dtype):
    # Float32 logits in the thousands leave the softmax no digits, in either form.
    for scale in (1e-3, 10.0 if name == 'softmax' else 100.0):
        inputs = [(scale * i.detach()).to(dtype) for i in draw(name, 1, 4, 4096, 2048, torch.float)]
        with torch.autocast('cpu', dtype=torch.bfloat16):
            out = CASES[name][0](*inputs)
        expected = CASES[name][1](*(tensor.double() for tensor in inputs))
        assert out.dtype == torch.float32
        torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
