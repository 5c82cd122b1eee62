"""Both sides of the benchmarks compute the same."""

import copy
import json
from importlib import import_module

import psutil
import pytest
import torch

from benchmarks import gpu, gpu_parts, operators
from benchmarks.growth import exponents
from benchmarks.naive import NaiveCanKDLoss
from benchmarks.step import NONE, PAIRS, build, pairs, side
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


@pytest.mark.parametrize('name, pair', pairs(quick=True).items())
def test_quick_steps_are_of_the_size_in_their_name(name, pair):
    """MMSegmentation's preprocessor pads to the size of its config."""
    model, seen = build(pair, NONE), []
    model.backbone.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    side(model, pair, pair['size'], 'cpu')()
    height, width = pair['size']
    assert seen == [(2, 3, height, width)] and name.endswith(f', {height}x{width}')


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


FINDS = "import json, sys; json.dump(dict(said='12 passed'), open(sys.argv[-1], 'w'))"
HANGS = (
    "import json, subprocess, sys, time; child = subprocess.Popen(['sleep', '60']).pid; print('halfway', flush=True); "
    "json.dump(dict(said='3 passed', child=child), open(sys.argv[-1], 'w')); time.sleep(60)"
)


def test_a_part_that_hangs_is_ended_and_leaves_what_it_had_found(tmp_path):
    out = tmp_path / 'kept' / 'gpu.json'
    sees = f"assert json.load(open({str(out)!r}))['tests']['said'] == '3 passed'"
    commands = dict(tests=['-c', HANGS], loss=['-c', f'{FINDS}; {sees}'], step=['-c', 'raise SystemExit(3)'])
    result = gpu.run(commands, dict(tests=4, loss=60, step=60), out)
    assert json.loads(out.read_text()) == result
    assert result['tests']['failed'] == 'ended at its limit of 4 s' and 'halfway' in result['tests']['log']
    assert 4 <= result['tests']['seconds'] < 4 + gpu.GRACE
    child = result['tests']['child']
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    assert result['loss']['said'] == '12 passed' and 'failed' not in result['loss']
    assert result['step']['failed'] == 'ended with status 3'
    assert 'ended at its limit of 4 s' in gpu.table(result)


def test_limits_come_to_eight_minutes_at_most():
    assert list(gpu.LIMITS) == list(gpu_parts.PARTS)
    assert sum(gpu.LIMITS.values()) + len(gpu.LIMITS) * gpu.GRACE <= 480


def test_without_a_gpu_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_parts, 'DEVICE', 'cpu')
    (found,) = gpu_parts.device(dry_run=False)
    finds = f"import json, sys; json.dump({found!r}, open(sys.argv[-1], 'w'))"
    with pytest.raises(SystemExit, match='sees no GPU: run this where it does'):
        gpu.run(dict(device=['-c', finds], tests=['-c', FINDS]), dict(device=60, tests=60), tmp_path / 'gpu.json')
    assert not (tmp_path / 'gpu.json').exists()


def test_the_table_says_what_is_within_its_bounds():
    sides = {name: dict(seconds=dict(total=total)) for name, total in dict(CanKD=3e-3, PKD=2e-3).items()}
    entry = dict(shape=[2, 256, 200, 336], setting='float32', sides=sides, bytes=1e9, operations=1e9)
    rates = dict(bytes=1e12, float32=2e12)
    text = gpu.table(dict(device=dict(seconds=1, rates=rates), loss=dict(seconds=1, results=[entry])))
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in text.splitlines()]
    assert ['3.00 ms, 1.50 of PKD', '1.3 of 2.00 ms', 'no'] in [row[2:] for row in rows]
    assert ['3.00 ms, 2.0 of the need', '5 of 1.50 ms', 'yes'] in [row[2:] for row in rows]
