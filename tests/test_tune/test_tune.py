"""A search chooses, gives up, fails, is interrupted and goes on; and once with real trainings."""

import html
import io
import os
import re
import signal
import sys
import threading
import time

import optuna
import pytest
from optuna.trial import TrialState

from cankd_mm.config.read import load_config
from cankd_mm.errors import SetupError
from cankd_mm.experiments.jobs import Job, Local
from cankd_mm.experiments.tune import tune

pytestmark = pytest.mark.slow

# In place of a training: the better the nearer its weight is to 3, at two validations; one that is too large fails.
STAND_IN = r"""
import json, math, pathlib, re, sys, time
config, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
weight = float(re.search(r'loss_weight=([\d.e-]+)', config.read_text())[1])
folder.joinpath('log/vis_data').mkdir(parents=True, exist_ok=True)
with open(folder / 'starts', 'a') as starts:
    starts.write('.')
if weight > float(sys.argv[3]):
    sys.exit('the weight is too large')
value = 50 - 10 * abs(math.log(weight / 3))
with open(folder / 'log/vis_data/scalars.json', 'w') as scalars:
    for i, part in enumerate((0.5, 1)):
        scalars.write(json.dumps({'step': i, sys.argv[5]: part * value}) + '\n')
        scalars.flush()
        time.sleep(float(sys.argv[4]) * (1 - i))
(folder / 'epoch_2.pth').touch()
(folder / 'last_checkpoint').write_text(str(folder / 'epoch_2.pth'))
(folder / 'training.json').write_text('{"ended": {"max_epochs": 2}}')
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Have trials end in a moment; ``fails_above`` and ``seconds`` are of the stand-in."""
    script = tmp_path / 'stand_in.py'
    script.write_text(STAND_IN)
    settings = dict(fails_above=1e9, seconds=0, reports='mIoU')

    def command(job):
        values = map(str, settings.values())
        return [sys.executable, str(script), job.config, str(job.work_dir), *values]

    monkeypatch.setattr(Job, 'command', command)
    return settings


def search(pairs, tmp_path, **options):
    stream = io.StringIO()
    options = {'search': ['weight'], 'place': Local(2), 'work_dir': str(tmp_path / 'run'), 'stream': stream, **options}
    return tune(str(pairs['segmentation']), **options), stream.getvalue()


def study_of(tmp_path):
    storage = f'sqlite:///{tmp_path / "run" / "study.db"}'
    return optuna.load_study(study_name='segmentation_cankd', storage=storage)


def test_the_best_weight_is_found_and_written(pairs, tmp_path, stand_in):
    tuned, said = search(pairs, tmp_path, trials=16)
    trials = study_of(tmp_path).trials
    assert len(trials) == 16 and said.count('mIoU') == 16
    weight = load_config(str(tuned)).model.distiller.loss.loss_weight
    best = max((t for t in trials if t.state == TrialState.COMPLETE), key=lambda t: t.value)
    assert weight == float(f'{best.params["weight"]:.3g}') and abs(best.value - 50) < 8
    assert re.match(r'# The best of \d+ trials: mIoU [\d.]+ on the validation set that chose it', tuned.read_text())
    assert len(tuned.read_text().splitlines()) == 3
    page = (tmp_path / 'run' / 'report.html').read_text()
    assert f'<pre>{tuned.read_text().rstrip()}</pre>' in html.unescape(page), 'as it is copied'
    assert f'cankd compare {tuned} --seeds' in page and 'luck' in page and 'PED-ANOVA' in page
    assert {p.stem for p in (tmp_path / 'run').glob('*.png')} == {'history', 'importance', 'by_weight'}
    # Nothing is left to do.
    again, said = search(pairs, tmp_path, trials=16)
    assert said == '' and again.read_text() == tuned.read_text()
    search(pairs, tmp_path, trials=18)
    assert len(study_of(tmp_path).trials) == 18


def test_poor_trials_are_given_up(pairs, tmp_path, stand_in, monkeypatch):
    monkeypatch.setattr(optuna.pruners, 'MedianPruner', lambda **kw: optuna.pruners.ThresholdPruner(lower=20))
    stand_in['seconds'] = 1.5  # several looks at it, beside other programs as well
    _, said = search(pairs, tmp_path, trials=6, search=['model.distiller.loss.loss_weight=0.01,3.0'])
    trials = study_of(tmp_path).trials
    for trial in trials:
        poor = trial.params['model.distiller.loss.loss_weight'] == 0.01
        assert trial.state == (TrialState.PRUNED if poor else TrialState.COMPLETE)
        assert (tmp_path / 'run' / f'trial_{trial.number:03d}' / 'epoch_2.pth').exists() == (not poor)
    assert said.count('given up') == sum(t.state == TrialState.PRUNED for t in trials) > 0


def test_failures_are_named_and_the_search_goes_on(pairs, tmp_path, stand_in):
    stand_in['fails_above'] = 60.0
    _, said = search(pairs, tmp_path, trials=5)
    assert 'the weight is too large (its log is' in said
    states = [trial.state for trial in study_of(tmp_path).trials]
    assert TrialState.FAIL in states and sum(s in (TrialState.COMPLETE, TrialState.PRUNED) for s in states) == 5
    stand_in['fails_above'] = 0.0
    with pytest.raises(SetupError, match='trial_00. failed: the weight is too large'):
        search(pairs, tmp_path, trials=5, work_dir=str(tmp_path / 'other'))


@pytest.fixture
def interruptible():
    """Have SIGINT interrupt this process, also where it has been started in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interrupted_search_goes_on_in_the_same_folders(pairs, tmp_path, stand_in, interruptible):
    stand_in['seconds'] = 30
    started = tmp_path / 'run' / 'trial_001' / 'starts'

    def interrupt():
        while not (started.exists() and (tmp_path / 'run' / 'trial_000' / 'starts').exists()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        search(pairs, tmp_path, trials=3)
    left = [t for t in study_of(tmp_path).trials if t.state == TrialState.RUNNING]
    assert len(left) == 2
    stand_in['seconds'] = 0
    search(pairs, tmp_path, trials=3)
    for number in (0, 1):
        assert (tmp_path / 'run' / f'trial_{number:03d}' / 'starts').read_text() == '..'
    over = study_of(tmp_path).get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    assert len(over) == 3 and {t.params['weight'] for t in left} <= {t.params['weight'] for t in over}


def test_a_trial_that_detects_nothing_counts_as_zero(pairs, tmp_path, stand_in):
    """CocoMetric then reports nothing, and MMEngine logs the time that the validation took alone."""
    stand_in['reports'] = 'time'
    stream = io.StringIO()
    with pytest.raises(SetupError, match='All 2 trials have mIoU 0, and there is no best: train for longer'):
        search(pairs, tmp_path, trials=2, stream=stream)
    assert stream.getvalue().count('mIoU 0.00') == 2
    page = (tmp_path / 'run' / 'report.html').read_text()
    assert 'All 2 trials have mIoU 0, and there is no best.' in page and 'best config' not in page
    assert not (tmp_path / 'run' / 'tuned.py').exists()
    assert [t.value for t in study_of(tmp_path).trials] == [0.0, 0.0]


def test_proposals_are_not_repeated(pairs, tmp_path, stand_in):
    search(pairs, tmp_path, trials=2)
    search(pairs, tmp_path, trials=4)
    weights = [t.params['weight'] for t in study_of(tmp_path).trials]
    assert len(set(weights)) == 4


def test_another_search_is_not_mixed_in(pairs, tmp_path, stand_in):
    search(pairs, tmp_path, trials=1)
    with pytest.raises(
        SetupError, match="'segmentation_cankd' was begun with another search, seed: give another --work-d"
    ):
        search(pairs, tmp_path, trials=2, search=['weight', 'mode'], seed=4)


def test_no_time(pairs, tmp_path, stand_in):
    with pytest.raises(SetupError, match='No trial of the search .* is complete: give it more --trials or --hours'):
        search(pairs, tmp_path, hours=0)


def test_with_real_trainings(pairs, forked, tmp_path):
    options = {'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1, 'train_dataloader.dataset.indices': 4}
    tuned, said = search(pairs, tmp_path, search=['init'], trials=2, cfg_options=options)
    assert said.count('mIoU') == 2
    cfg = load_config(str(tuned))
    assert cfg.train_cfg.max_epochs == 1 and 'init_from_teacher' in cfg.model
