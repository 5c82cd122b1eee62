"""What the page shows is what the block and the loss compute."""

import pytest
import torch
from mmengine.structures import InstanceData, PixelData
from torch.nn import functional as F

from cankd_mm.models import CanKDLoss
from cankd_mm.models.layers.can_block import MODES, CanBlock
from cankd_mm.show.features import FeaturePair, points_of


def trained(module):
    """A block that has left the identity."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.5)
        for block in module.modules():
            if isinstance(block, CanBlock):
                block.bn.running_mean.normal_()
                block.bn.running_var.uniform_(0.5, 2)
    return module.double().eval()


@pytest.mark.parametrize('sub_sample', [True, False])
@pytest.mark.parametrize('mode', MODES)
def test_affinity_times_values_is_what_the_block_adds(mode, sub_sample):
    block = trained(CanBlock(6, mode=mode, sub_sample=sub_sample))
    x, t = torch.randn(1, 6, 5, 7).double(), torch.randn(1, 6, 4, 9).double()
    pixels = [(0, 0), (4, 6), (2, 3)]
    f = block.affinity(x, t, pixels)
    values = F.max_pool2d(block.g(t), 2 if sub_sample else 1)
    assert f.shape == (3, *values.shape[2:])
    y = torch.einsum('khw,chw->ck', f, values[0])[None, :, :, None]
    expected = torch.stack([block(x, t)[0, :, r, c] for r, c in pixels], 1)
    found = block.bn(block.conv_out(y))[0, :, :, 0] + torch.stack([x[0, :, r, c] for r, c in pixels], 1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('norm', ['instance', 'layer', None])
@pytest.mark.parametrize('resize', ['student', 'teacher'])
def test_what_is_left_is_the_loss_over_its_weight(norm, resize):
    loss = trained(CanKDLoss(4, norm=norm, resize=resize, loss_weight=3.0))
    s, t = torch.randn(1, 4, 6, 5).double(), 2 + torch.randn(1, 4, 9, 8).double()
    pair = FeaturePair(*loss.resized(s, t), loss.norm, loss.can)
    assert pair.left().shape == pair.target.shape[2:]
    through = 3 * pair.left(through_block=True).double().mean()
    torch.testing.assert_close(through, loss(s, t).double(), rtol=1e-4, atol=0)
    loss.can = None
    torch.testing.assert_close(3 * pair.left().double().mean(), loss(s, t).double(), rtol=1e-4, atol=0)


def test_correlation_is_pearsons():
    s, t = torch.randn(1, 3, 6, 5), torch.randn(1, 3, 6, 5)
    t[:, 1] = -2 * s[:, 1] + 7
    t[:, 2] = 4.0
    found = FeaturePair(s, t, t, 'instance', None).correlation()
    expected = torch.corrcoef(torch.stack([s[0, 0].flatten(), t[0, 0].flatten()]))[0, 1]
    torch.testing.assert_close(found, torch.tensor([expected, -1.0, 0.0]))


def test_cka_is_that_of_the_kernels_and_sees_no_rotation():
    s, t = torch.randn(1, 5, 6, 4).double(), torch.randn(1, 5, 6, 4).double()
    kernels = []
    centre = torch.eye(24).double() - 1 / 24
    for feature in (s, t):
        pixels = feature[0].flatten(1).T
        kernels.append(centre @ pixels @ pixels.T @ centre)
    expected = (kernels[0] * kernels[1]).sum() / kernels[0].norm() / kernels[1].norm()
    assert FeaturePair(s, t, t, None, None).cka() == pytest.approx(float(expected))
    rotation, _ = torch.linalg.qr(torch.randn(5, 5).double())
    rotated = 3 * torch.einsum('cd,ndhw->nchw', rotation, s) + 7
    assert FeaturePair(rotated, s, s, None, None).cka() == pytest.approx(1)
    assert FeaturePair(torch.ones_like(s), s, s, None, None).cka() == 0


def test_looks_from_points_of_the_input():
    block = trained(CanBlock(4, sub_sample=False)).float()
    x, t = torch.randn(1, 4, 8, 12), torch.randn(1, 4, 8, 12)
    pair = FeaturePair(x, t, t, 'instance', block)
    affinity, shares, added = pair.looks([(0.0, 0.0), (95.9, 63.9)], (64, 96))
    torch.testing.assert_close(affinity, block.affinity(x, t, [(0, 0), (7, 11)]))
    with torch.no_grad():
        z = block(x, t)
    assert added[1].item() == pytest.approx(float((z - x)[0, :, 7, 11].norm() / x[0, :, 7, 11].norm()), rel=1e-4)
    assert 0.1 < shares[1] <= 1
    torch.nn.init.zeros_(block.bn.weight)
    torch.nn.init.zeros_(block.bn.bias)
    assert pair.added().max() == 0
    block.phi.weight.data.zero_()
    block.phi.bias.data.fill_(1.0)
    assert float(pair.looks([(5.0, 5.0)], (64, 96))[1]) == pytest.approx(0.1, abs=0.01)


def test_level_of_one_pixel():
    loss = trained(CanKDLoss(4)).float()
    s, t = torch.randn(1, 4, 1, 1), torch.randn(1, 4, 1, 1)
    pair = FeaturePair(*loss.resized(s, t), loss.norm, loss.can)
    assert pair.left().tolist() == [[0.0]] and pair.correlation().tolist() == [0.0] * 4
    assert pair.looks([(3.0, 3.0)], (8, 8))[1].tolist() == [1]


def test_points_are_in_the_largest_objects():
    from mmdet.structures import DetDataSample
    from mmseg.structures import SegDataSample

    boxes = torch.tensor([[0.0, 0, 2, 2], [10, 20, 30, 60], [5, 5, 9, 9]])
    sample = DetDataSample(gt_instances=InstanceData(bboxes=boxes))
    assert points_of(sample, (80, 80), 2) == [(20.0, 40.0), (7.0, 7.0)]
    labels = torch.zeros(1, 20, 30, dtype=torch.long)
    labels[:, :, 20:] = 255
    labels[:, 5:10, 2:12] = 4
    segmented = SegDataSample(gt_sem_seg=PixelData(data=labels))
    (x0, y0), (x4, y4) = points_of(segmented, (20, 30), 3)
    assert labels[0, int(y0), int(x0)] == 0 and labels[0, int(y4), int(x4)] == 4
    assert points_of(DetDataSample(), (80, 40), 3)[0] == (20.0, 40.0)


def test_the_map_is_resized_as_the_loss_resizes():
    """A loss of MMRazor is looked at on the teacher's grid."""
    loss = CanKDLoss(4, mode=None, resize='student')
    s, t = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 8, 8)
    pair = FeaturePair(*loss.resized(s, t), loss.norm, loss.can)
    torch.testing.assert_close(pair.student, F.interpolate(s, (8, 8), mode='bilinear'))
