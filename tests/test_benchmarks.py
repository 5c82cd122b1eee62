"""Both sides of the benchmarks compute the same."""

import copy
import subprocess
import sys
from importlib import import_module

import pytest
import torch

from benchmarks import operators
from benchmarks.gpu import together
from benchmarks.growth import exponents
from benchmarks.naive import NaiveCanKDLoss
from benchmarks.step import PAIRS, build
from cankd_mm.models import CanKDLoss

roi_align = import_module('mmcv.ops.roi_align')


def test_naive_side_is_the_same_loss():
    ours, naive = CanKDLoss(8, loss_weight=3.0), NaiveCanKDLoss(8, loss_weight=3.0)
    for (_, to), (_, value) in zip(naive.named_parameters(), ours.can.named_parameters()):
        torch.nn.init.normal_(value)
        assert to.shape == value.shape
        to.data.copy_(value.data)
    x, t = torch.randn(2, 2, 8, 12, 14).unbind(1)
    torch.testing.assert_close(ours(x, t), naive(x, t))


@pytest.mark.parametrize('pair', PAIRS)
def test_every_side_of_a_step_distills_the_same_features(pair):
    ours, stock = (build(PAIRS[pair], kind) for kind in ('CanKD', 'CanKD, naive, MMRazor stock'))
    assert len(ours.distiller.distill_losses) == len(stock.distiller.distill_losses) == (PAIRS[pair]['levels'] or 1)
    for model in (ours, stock):
        assert all(
            recorder.source == PAIRS[pair]['source']
            for recorder in model.distiller.student_recorders.recorders.values()
        )
    sizes = [sum(p.numel() for p in model.distiller.parameters()) for model in (ours, stock)]
    assert sizes[0] == sizes[1]


def test_exponents_of_a_straight_line():
    points = [dict(pixels=p, seconds=dict(total=2e-3 * p), peak_mb=3.0 * p**2) for p in (100, 200, 400)]
    assert exponents(points) == dict(time=1.0, memory=2.0)


def test_operators_of_every_place_serve_the_same_detector():
    model = operators.build(operators.DETECTORS['Faster R-CNN R50']).eval()
    data, found = operators.batch('mmdet', (64, 96)), {}
    before = roi_align.ext_module
    for source, extension in operators.places().items():
        with operators.operators(extension), torch.no_grad():
            assert roi_align.ext_module is extension
            found[source] = model.test_step(copy.deepcopy(data))[0].pred_instances.scores
    assert roi_align.ext_module is before and 'plain torch' in found
    for scores in found.values():
        torch.testing.assert_close(scores, found['plain torch'])


def test_trainings_side_by_side_say_as_much_as_they_like(tmp_path):
    """One that is waited for later goes on when it has said more than a pipe holds."""
    seen = tmp_path / 'seen'
    waits = f'import os, time; [time.sleep(0.1) for _ in range(100) if not os.path.exists({str(seen)!r})]'
    talks = [sys.executable, '-c', f"print('x' * 10**6, flush=True); open({str(seen)!r}, 'w')"]
    waits = [sys.executable, '-c', f'{waits}; raise SystemExit(not os.path.exists({str(seen)!r}))']
    together([waits, talks], timeout=60)
    with pytest.raises(subprocess.CalledProcessError) as e:
        together([[sys.executable, '-c', "print('why'); raise SystemExit(3)"], talks], timeout=60)
    assert e.value.returncode == 3 and b'why' in e.value.output
    with pytest.raises(subprocess.TimeoutExpired):
        together([[sys.executable, '-c', 'import time; time.sleep(60)']], timeout=0.5)
