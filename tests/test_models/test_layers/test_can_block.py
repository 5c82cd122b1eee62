import pytest
import torch
from torch import nn

from cankd_mm.errors import SetupError
from cankd_mm.models.layers import CanBlock
from cankd_mm.models.layers.can_block import MODES
from tests.naive import naive_block

NAMES = {'theta', 'phi', 'g', 'conv_out', 'bn'}


@pytest.mark.parametrize('mode', MODES)
def test_starts_as_the_identity(mode):
    x, t = torch.randn(2, 2, 6, 7, 5).unbind(1)
    torch.testing.assert_close(CanBlock(6, mode=mode)(x, t), x)


@pytest.mark.parametrize('mode', MODES)
def test_every_parameter_gets_a_gradient_from_the_start(mode):
    block = CanBlock(6, mode=mode)
    block(torch.randn(2, 6, 7, 5), torch.randn(2, 6, 7, 5)).square().sum().backward()
    assert all(p.grad is not None for p in block.parameters())
    assert block.bn.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    'mode, names',
    [
        ('dot_product', NAMES),
        ('embedded_gaussian', NAMES),
        ('gaussian', NAMES - {'theta', 'phi'}),
        ('concatenation', NAMES | {'concat_project'}),
    ],
)
def test_names_and_inner_channels_are_those_of_nonlocal2d(mode, names):
    block = CanBlock(6, reduction=2, mode=mode)
    assert {name for name, _ in block.named_children()} == names
    assert block.g.weight.shape == (3, 6, 1, 1) and block.conv_out.weight.shape == (6, 3, 1, 1)
    assert CanBlock(1, mode=mode).g.out_channels == 1


def test_one_matrix_on_a_large_map_equals_one_layer_after_the_other_on_a_small_one():
    """The student's map is cut in parts: both orders of the product see the same pixels."""
    block = CanBlock(8).double().eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    block.theta.register_forward_hook(lambda *_: calls.append(1))
    x, t = torch.randn(1, 8, 16, 16).double(), torch.randn(1, 8, 8, 8).double()
    calls = []
    whole = block(x, t)
    assert not calls, 'theta is part of the one matrix'
    parts = [block(part.contiguous(), t) for part in x.split(4, dim=3)]
    assert len(calls) == 4
    torch.testing.assert_close(whole, torch.cat(parts, 3), rtol=1e-10, atol=1e-10)


def test_teacher_is_projected_once_and_what_is_pooled_is_not_kept():
    block, (x, t) = CanBlock(6), torch.randn(2, 1, 6, 8, 8)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda x: x):
        phi, g = block._keys_and_values(t)
    assert [tensor.data_ptr() for tensor in saved if tensor.numel() >= t.numel()] == [t.data_ptr()]
    assert phi.untyped_storage().data_ptr() == g.untyped_storage().data_ptr()


@pytest.mark.parametrize('mode', MODES)
def test_channels_last(mode):
    block = CanBlock(6, mode=mode)
    nn.init.ones_(block.bn.weight)
    x, t = torch.randn(2, 2, 6, 8, 12).unbind(1)
    wanted = block(x, t)
    found = block(x.contiguous(memory_format=torch.channels_last), t.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, wanted)


def test_one_pixel_on_one_of_several_ranks_takes_part_in_a_synchronized_norm(monkeypatch):
    """The others wait for it."""

    class Synchronized(torch.nn.Identity):
        pass

    block, seen = CanBlock(4).train(), []
    block.bn = Synchronized()
    block.bn.weight = torch.nn.Parameter(torch.zeros(4))
    block.bn.register_forward_hook(lambda module, args, output: seen.append(tuple(args[0].shape)))
    monkeypatch.setattr('cankd_mm.models.layers.can_block._world_size', lambda: 2)
    block(torch.randn(1, 4, 1, 1), torch.randn(1, 4, 1, 1))
    assert seen == [(1, 4, 1, 1)]


def test_one_pixel_of_one_image_leaves_running_statistics_finite():
    block = CanBlock(4)
    nn.init.ones_(block.bn.weight)
    assert block(torch.randn(1, 4, 1, 1), torch.randn(1, 4, 1, 1)).isfinite().all()
    assert block.bn.running_var.isfinite().all()


@pytest.mark.parametrize('mode', MODES)
def test_teacher_of_another_size_is_attended_to(mode):
    block = CanBlock(4, mode=mode).double()
    nn.init.ones_(block.bn.weight)
    x, t = torch.randn(2, 4, 8, 6).double(), torch.randn(2, 4, 5, 3).double()
    torch.testing.assert_close(block(x, t), naive_block(block, x, t), rtol=1e-10, atol=1e-10)


def test_unknown_mode():
    with pytest.raises(SetupError, match="no mode 'dot'.*'dot_product'.*or 'concatenation'"):
        CanBlock(4, mode='dot')
