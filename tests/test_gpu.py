"""What differs between processors and GPUs: on a GPU where there is one, as by `make gpu`, else on the processor."""

import copy

import pytest
import torch

from benchmarks import loss, measure, operators
from cankd_mm.models import CanKDLoss
from cankd_mm.models.layers.can_block import MODES
from cankd_mm.stack.ops import Extension
from tests.conftest import needs_torch
from tests.naive import naive_loss

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
GPU = torch.cuda.is_available()
DEVICE = 'cuda' if GPU else 'cpu'


def trained(mode, channels=32):
    """A loss that has left its starting point, where the block is the identity."""
    module = CanKDLoss(channels, mode=mode).to(DEVICE)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module


def both(module, x, t, function):
    x = x.clone().requires_grad_()
    module.zero_grad()
    value = function(x, t)
    value.backward()
    return value.detach().double(), [x.grad.double(), *(p.grad.double() for p in module.parameters())]


@pytest.fixture
def tf32():
    """Switch TensorFloat-32 on or off, of which processors have none."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    def switch(on):
        torch.set_float32_matmul_precision('high' if on else 'highest')
        torch.backends.cudnn.allow_tf32 = on

    yield switch
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@needs_torch('2.3', 'processors know no autocast to float16')
@pytest.mark.parametrize('precision', ['float32', 'tf32', 'float16', 'bfloat16'])
@pytest.mark.parametrize('mode', MODES)
def test_every_mode_in_every_precision_is_the_naive_loss(mode, precision, tf32):
    """Against the naive form in float64, on a map that goes through the block in several parts."""
    tf32(precision == 'tf32')
    module, (x, t) = trained(mode), torch.randn(2, 2, 32, 40, 36, device=DEVICE)
    exact = copy.deepcopy(module).double()
    value, gradients = both(exact, x.double(), t.double(), lambda x, t: naive_loss(exact.can, x, t, exact.loss_weight))
    enabled = precision in ('float16', 'bfloat16')
    with torch.autocast(DEVICE, getattr(torch, precision) if enabled else torch.bfloat16, enabled=enabled):
        found, found_gradients = both(module, x, t, module)
    tolerance = dict(float32=1e-4, tf32=1e-2, float16=2e-2, bfloat16=1e-1)[precision]
    torch.testing.assert_close(found, value, rtol=tolerance, atol=0)
    for actual, expected in zip(found_gradients, gradients):
        assert actual.isfinite().all()
        assert (actual - expected).norm() <= tolerance * max(expected.norm(), gradients[0].norm())


@pytest.mark.parametrize('mode', MODES)
def test_memory_is_linear_in_the_pixels(mode):
    """A map of four times the pixels, whose matrix of affinities would be sixteen times as large."""
    heights = dict(small=64, large=256) if GPU else dict(small=32, large=128)
    sides = {name: loss.side(CanKDLoss(64, mode=mode), (1, 64, h, 96), DEVICE) for name, h in heights.items()}
    (measured,) = measure.compare([sides], repeats=1)
    small, large = (measured[name]['peak_mb'] for name in heights)
    pixels = heights['large'] * 96
    assert large < pixels * (pixels // 4) * 4 / 2**20 / 4  # a quarter of the matrix with pooled keys
    if GPU:  # whose allocator counts every byte
        assert 0 < large < 4.5 * small


REPPOINTS = 'mmdet::reppoints/reppoints-moment_r50_fpn-gn_head-gn_2x_coco.py'


@pytest.mark.parametrize(
    'config, torchvision',
    [*((config, there) for config in operators.DETECTORS.values() for there in (False, True)), (REPPOINTS, True)],
)
def test_operators_train_a_detector_as_on_a_processor(config, torchvision, tf32):
    tf32(False)  # which GPUs take for convolutions by default: gradients were up to 0.7 per cent off
    if torchvision and 'torchvision' not in operators.places():
        pytest.skip('no torchvision')
    model = operators.build(config).train()
    reference = Extension(torchvision=config == REPPOINTS)  # plain torch has no deformable convolutions
    data = operators.batch('mmdet', (96, 128))
    found = []
    for device, extension in (('cpu', reference), (DEVICE, Extension(torchvision=torchvision))):
        model.zero_grad()
        with operators.operators(extension):
            torch.manual_seed(0)
            batch = model.to(device).data_preprocessor(copy.deepcopy(data), True)
            value, _ = model.parse_losses(model._run_forward(batch, mode='loss'))
            value.backward()
        found.append([value.item(), *(p.grad.norm().item() for p in model.backbone.parameters() if p.grad is not None)])
    assert found[1] == pytest.approx(found[0], rel=2e-3, abs=1e-5)
