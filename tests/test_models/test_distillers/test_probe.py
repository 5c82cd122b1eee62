"""Shapes are found of models that take other images than most, and give other features while they train."""

import pytest
import torch
from torch import nn

from cankd_mm.config.read import load_model_cfg
from cankd_mm.errors import SetupError
from cankd_mm.models.builders import build_model
from cankd_mm.models.distillers.probe import levels_read, probe


class Net(nn.Module):
    """A detector's skeleton around any stem."""

    def __init__(self, stem, **attributes):
        super().__init__()
        self.backbone = stem
        for name, value in attributes.items():
            setattr(self, name, value)

    def extract_feat(self, inputs):
        return self.backbone(inputs)


class Focus(nn.Module):
    """As YOLOX, its stem puts four pixels into one."""

    def __init__(self, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(4 * channels, 8, 1)

    def forward(self, x):
        return self.conv(torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1))


class Fixed(nn.Module):
    """As BEiT and MAE, it has a token for each place of one image size."""

    def __init__(self, side):
        super().__init__()
        self.img_size = side
        self.conv = nn.Conv2d(3, 8, 16, 16)
        self.tokens = nn.Parameter(torch.zeros(1, 8, side // 16, side // 16))

    def forward(self, x):
        return self.conv(x) + self.tokens


class Branches(nn.Module):
    """As DDRNet and PIDNet, it gives one map more while it trains; or, as TridentNet, more images."""

    def __init__(self, of_images=False):
        super().__init__()
        self.of_images = of_images
        self.conv, self.bn = nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8)
        self.global_bn = nn.BatchNorm2d(8)

    def forward(self, x):
        x = self.bn(self.conv(x))
        x = x + self.global_bn(x.mean((2, 3), keepdim=True))
        if not self.training:
            return x
        return torch.cat([x, x, x]) if self.of_images else (x, x)


class Picky(nn.Module):
    """It takes no image at all."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x):
        raise RuntimeError('mat1 and mat2 shapes cannot be multiplied')


class Preprocessor(nn.Module):
    def __init__(self, channels=3, **attributes):
        super().__init__()
        self.register_buffer('mean', torch.zeros(channels, 1, 1))
        for name, value in attributes.items():
            setattr(self, name, value)


@pytest.mark.parametrize(
    'net, shape',
    [
        (Net(Focus()), (1, 8, 64, 96)),
        (Net(nn.Conv2d(1, 8, 1), data_preprocessor=Preprocessor(1)), (1, 8, 128, 192)),
        (Net(nn.Conv2d(1, 8, 1)), (1, 8, 128, 192)),
        (Net(nn.Conv2d(5, 8, 1), data_preprocessor=Preprocessor(5)), (1, 8, 128, 192)),
        (Net(Fixed(160)), (1, 8, 10, 10)),
        (Net(nn.Conv2d(3, 8, 200)), (1, 8, 57, 185)),  # too large a kernel for the small image
        (Net(nn.Conv2d(3, 8, 300, 4), data_preprocessor=Preprocessor(size=(320, 304))), (1, 8, 6, 2)),
    ],
)
@pytest.mark.parametrize('training', [False, True])
def test_images_are_what_the_model_takes(net, shape, training):
    (level,) = probe(net, 'backbone', 'student', training=training)
    assert level.index is None and level.shape == shape


def test_size_of_the_other_model_goes_first_where_it_is_taken():
    (level,) = probe(Net(nn.Conv2d(3, 8, 1)), 'backbone', 'teacher', first_size=(48, 64))
    assert level.shape == (1, 8, 48, 64) and level.image == (48, 64)
    (level,) = probe(Net(Fixed(160)), 'backbone', 'teacher', first_size=(48, 64))
    assert level.image == (160, 160)


def test_student_is_looked_at_while_it_trains_and_left_as_it_was():
    net = Net(Branches()).eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    generator = torch.get_rng_state()
    levels = probe(net, 'backbone', 'student', training=True)
    assert [(level.index, level.shape) for level in levels] == [(0, (1, 8, 32, 48)), (1, (1, 8, 32, 48))]
    assert [level.index for level in probe(net, 'backbone', 'teacher')] == [None]
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert not net.training and torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize(
    'net, words',
    [
        (Net(Branches(of_images=True)), "student's 'backbone' gives 6 feature maps for 2 images while it trains"),
        (Net(Picky()), r'takes no image of 128x192 or .* name a size that it takes as size of its data_preproc'),
    ],
)
def test_mistakes_are_one_clear_sentence(net, words):
    with pytest.raises(SetupError, match=words) as error:
        probe(net, 'backbone', 'student', training=True)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'config, read',
    [
        ('pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024', [3]),
        ('deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024', [0, 3]),
        ('segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512', [0, 1, 2, 3]),
        ('pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes', [0]),  # a single map, but while it trains
    ],
)
def test_levels_that_a_head_reads(config, read):
    model = build_model(load_model_cfg(f'mmseg::{config}.py'), 'student')
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert levels_read(model, probe(model, 'backbone', 'student', training=True)) == read
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
