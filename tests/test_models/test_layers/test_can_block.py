import torch

from cankd_mm.models.layers import CanBlock


def test_starts_as_the_identity():
    x, t = torch.randn(2, 2, 6, 7, 5).unbind(1)
    torch.testing.assert_close(CanBlock(6)(x, t), x)


def test_every_parameter_gets_a_gradient_from_the_start():
    block = CanBlock(6)
    block(torch.randn(2, 6, 7, 5), torch.randn(2, 6, 7, 5)).square().sum().backward()
    assert all(p.grad is not None for p in block.parameters())
    assert block.bn.weight.grad.abs().sum() > 0


def test_names_and_inner_channels_are_those_of_nonlocal2d():
    block = CanBlock(6, reduction=2)
    assert {name for name, _ in block.named_children()} == {'theta', 'phi', 'g', 'conv_out', 'bn'}
    assert block.theta.weight.shape == (3, 6, 1, 1) and block.conv_out.weight.shape == (6, 3, 1, 1)
    assert CanBlock(1).theta.out_channels == 1


def test_one_pixel_of_one_image_leaves_running_statistics_finite():
    block = CanBlock(4)
    torch.nn.init.ones_(block.bn.weight)
    assert block(torch.randn(1, 4, 1, 1), torch.randn(1, 4, 1, 1)).isfinite().all()
    assert block.bn.running_var.isfinite().all()


def test_teacher_of_another_size_is_attended_to():
    assert CanBlock(4)(torch.randn(2, 4, 8, 6), torch.randn(2, 4, 5, 3)).shape == (2, 4, 8, 6)
