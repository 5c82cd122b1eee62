"""Trainings side by side, and who is in a work folder."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from mmengine.fileio import load

from cankd_mm.apis import train
from cankd_mm.config.read import load_config
from cankd_mm.errors import SetupError
from cankd_mm.experiments.jobs import Job, Local, run_jobs
from cankd_mm.experiments.logged import describe
from cankd_mm.experiments.tune import _train
from cankd_mm.work_dir import claimed, holder, is_complete, last_checkpoint, state_of
from tests.conftest import ROOT

# In place of a training: writes which GPU it sees, and waits until as many have started as should run at once.
STAND_IN = """
import os, pathlib, sys, time
folder, at_once = pathlib.Path(sys.argv[1]), int(sys.argv[2])
(folder / 'gpu').write_text(os.environ['CUDA_VISIBLE_DEVICES'])
while len(list(folder.parent.glob('*/gpu'))) < at_once:
    time.sleep(0.02)
(folder / 'epoch_1.pth').touch()
(folder / 'last_checkpoint').write_text('epoch_1.pth')
(folder / 'training.json').write_text('{"ended": {"max_epochs": 1}}')
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text('train_cfg = dict(max_epochs=1)\n')
    return str(path)


@pytest.mark.parametrize('visible, expected', [(None, '01'), ('3,5', '35')])
@pytest.mark.parametrize('count', [None, 4])
def test_trainings_share_out_the_gpus(tmp_path, config, monkeypatch, count, visible, expected):
    at_once = count or 2
    monkeypatch.setattr(Job, 'command', lambda job: [sys.executable, '-c', STAND_IN, str(job.work_dir), str(at_once)])
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if visible:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    jobs = [Job(tmp_path / str(i), config) for i in range(4)]
    run_jobs(jobs, Local(count), stream=io.StringIO())
    assert sorted((tmp_path / str(i) / 'gpu').read_text() for i in range(at_once)) == sorted(expected * (at_once // 2))
    assert all(job.done for job in jobs)


def test_a_training_that_others_need_is_done_before(tmp_path, config, monkeypatch):
    monkeypatch.setattr(Job, 'command', lambda job: [sys.executable, '-c', STAND_IN, str(job.work_dir), '1'])
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    stream = io.StringIO()
    run_jobs([Job(tmp_path / 'b', config, needs=tmp_path / 'a'), Job(tmp_path / 'a', config)], Local(2), stream)
    assert [line.split()[0] + line[-1] for line in stream.getvalue().splitlines()] == [
        'starteda', 'finisheda', 'startedb', 'finishedb'
    ]  # fmt: skip


# A training that has come to its tenth iteration, of which nothing is logged.
BEGUN = """
import pathlib, sys, time
(pathlib.Path(sys.argv[1]) / 'training.json').write_text('{"max_iters": 40, "iter": 10, "seconds_per_step": 6.0}')
time.sleep(1.5)
"""


def test_progress_needs_no_log(tmp_path, config, monkeypatch):
    monkeypatch.setattr(Job, 'command', lambda job: [sys.executable, '-c', BEGUN, str(job.work_dir)])
    stream = io.StringIO()
    with pytest.raises(SetupError):  # which is not done
        run_jobs([Job(tmp_path / 'x' / 'seed0', config)], Local(1), stream)
    assert '  x/seed0 25%; 0 waiting; about 3 min left' in stream.getvalue().splitlines()


# A training that lasts until it is ended, in a folder that it claims.
ENDLESS = """
import pathlib, sys, time
from cankd_mm.work_dir import claimed
with claimed(pathlib.Path(sys.argv[1])):
    print('in', flush=True)
    time.sleep(100)
"""


def test_a_work_folder_has_one_training_at_a_time(pairs, tmp_path):
    """Also where its launcher was killed; when its process ends, whatever it ends by, the folder is free."""
    words = [sys.executable, '-W', 'ignore', '-c', ENDLESS, str(tmp_path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, env=dict(os.environ, PYTHONPATH=str(ROOT)))
    try:
        process.stdout.readline()
        assert f'Process {process.pid} on ' in holder(tmp_path)
        with pytest.raises(SetupError, match=f'Process {process.pid} on .* trains in .*: wait for its end'):
            train(str(pairs['segmentation']), work_dir=str(tmp_path))
        assert not list(tmp_path.glob('*.py')), 'nothing is written there'
    finally:
        process.kill()
        process.wait()
    assert holder(tmp_path) is None
    with claimed(tmp_path):
        assert state_of(tmp_path)['pid'] == os.getpid()


def launched(tmp_path, pair, *words, before=()):
    """Start a command on a training that lasts, wait until it trains in the folder that is returned, too."""
    config = pair.with_name('endless.py')
    config.write_text(
        f"_base_ = '{pair.name}'\n"
        'train_cfg = dict(max_epochs=12, val_interval=12)\n'
        'default_hooks = dict(checkpoint=dict(interval=12), logger=dict(interval=1))\n'
    )
    command = [*before, sys.executable, '-W', 'ignore', '-m', 'cankd_mm', words[0], str(config), *words[1:]]
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    with open(tmp_path / 'log', 'w') as log:
        parent = subprocess.Popen(
            [*command, '--work-dir', str(tmp_path / 'run')],
            env=environment,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # which these tests may have ignored
        )
    end = time.monotonic() + 60
    while not (logs := list((tmp_path / 'run').glob('**/vis_data/scalars.json'))):
        assert time.monotonic() < end and parent.poll() is None, (tmp_path / 'log').read_text()
        time.sleep(0.05)
    return parent, logs[0].parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    'number', [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.full) for n in (signal.SIGHUP, signal.SIGKILL))]
)
def test_an_ended_launcher_leaves_nothing_that_runs_twice(pairs, tmp_path, number):
    """SIGTERM and a connection that is cut off end the trainings; what survives a SIGKILL is waited for."""
    parent, folder = launched(tmp_path, pairs['segmentation'], 'compare', '--seeds', '0', '--jobs', '1')
    first = state_of(folder)['pid']
    parent.send_signal(number)
    parent.wait(30)
    if number == signal.SIGKILL:
        assert holder(folder) is not None
    else:
        assert holder(folder) is None and 'interrupted: the same command goes on' in (tmp_path / 'log').read_text()
    stream = io.StringIO()
    run_jobs([Job(folder, str(folder.parent) + '.py', {'randomness.seed': 0})], Local(1), stream)
    assert ('waits for the end of what runs there' in stream.getvalue()) == (number == signal.SIGKILL)
    # One training or its continuation, and never two at once.
    logs = sorted(folder.glob('*/vis_data/scalars.json'))
    steps = [[entry['step'] for entry in map(json.loads, log.open()) if 'loss' in entry] for log in logs]
    assert steps[-1][-1] == 24 if number != signal.SIGKILL else steps[0] == list(range(1, 25))
    assert is_complete(folder, load_config(str(folder.parent) + '.py').train_cfg) and first != os.getpid()
    assert load(str(folder / 'training.json'))['iter'] == 24


@pytest.mark.slow
@pytest.mark.full
def test_nohup_keeps_a_comparison_from_a_connection_that_is_cut_off(pairs, tmp_path):
    words = 'compare', '--seeds', '0', '--jobs', '1'
    parent, folder = launched(tmp_path, pairs['segmentation'], *words, before=['nohup'])
    parent.send_signal(signal.SIGHUP)
    assert parent.wait(120) == 0 and is_complete(folder, load_config(str(folder.parent) + '.py').train_cfg)


# How far a training is, by whatever its files are called and wherever they are: the changes of the config.
WAYS = {
    'by epochs': '',
    'by iterations': "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=4, val_interval=4)\n"
    'default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2))\nlog_processor = dict(by_epoch=False)\n',
    'checkpoints by iterations of epochs': 'default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1))\n'
    'log_processor = dict(by_epoch=False)\n',
    'the log alone by iterations': 'log_processor = dict(by_epoch=False)\n',
    'another folder': "default_hooks = dict(checkpoint=dict(out_dir='{elsewhere}'))\n",
    'another name': "default_hooks = dict(checkpoint=dict(filename_tmpl='after_{{}}.pth'))\n",
    'not the last': 'default_hooks = dict(checkpoint=dict(interval=1, save_last=False))\n',
    'ended early': "custom_hooks = [dict(type='EarlyStoppingHook', monitor='mIoU', min_delta=200.0, patience=0)]\n"
    'train_cfg = dict(max_epochs=20, val_interval=1)\n',
}


@pytest.mark.slow
@pytest.mark.parametrize('way', WAYS)
def test_a_training_is_as_far_as_its_files_say(pairs, tmp_path, way):
    config = tmp_path / 'pair.py'
    config.write_text(f"_base_ = '{pairs['segmentation']}'\n{WAYS[way].format(elsewhere=tmp_path / 'elsewhere')}")
    cfg, work_dir = load_config(str(config)), tmp_path / 'run'
    assert not is_complete(work_dir, cfg.train_cfg)
    runner = train(str(config), work_dir=str(work_dir))
    early = way == 'ended early'
    validated = 'iteration 4' if way == 'by iterations' else 'epoch 2'
    assert early or describe(work_dir)['measured'] == f'validation at {validated}'
    assert is_complete(work_dir, cfg.train_cfg) and (runner.iter < 40 if early else runner.iter == 4)
    longer = {**cfg.train_cfg, **{key: 100 for key in ('max_epochs', 'max_iters') if key in cfg.train_cfg}}
    assert not is_complete(work_dir, longer)
    if not early and way != 'not the last':  # of which the checkpoint alone knows nothing
        (work_dir / 'training.json').unlink()
        assert is_complete(work_dir, cfg.train_cfg) and not is_complete(work_dir, longer), 'as a folder of 0.2.0'
    if early:  # and is not begun again
        return
    # It goes on where MMEngine would.
    named = (work_dir / 'last_checkpoint').read_text()
    assert last_checkpoint(work_dir).samefile(named)
    again = train(str(config), work_dir=str(work_dir), resume='auto')
    assert again.iter == 4 and 'resumed' in next(iter(sorted(work_dir.glob('*/*.log'))[-1:])).read_text()


@pytest.mark.slow
def test_a_training_of_another_config_is_not_done(pairs, tmp_path):
    """Of a comparison, a search, a demo."""
    config = str(pairs['segmentation'])
    train(config, work_dir=str(tmp_path), cfg_options={'train_cfg.max_epochs': 1})
    job = Job(tmp_path, config, {'train_cfg.max_epochs': 1})
    run_jobs([job])
    for change in ({'randomness.seed': 1}, {'optim_wrapper.optimizer.lr': 0.5}):
        other = job._replace(options={**job.options, **change})
        words = f'epoch_1.pth. is of another training: {next(iter(change))} was'
        with pytest.raises(SetupError, match=words):
            run_jobs([other])
        with pytest.raises(SetupError, match=words):
            _train(None, other, None, None)  # of a search


def test_a_file_system_without_locks_keeps_nobody_from_training(tmp_path, monkeypatch):
    def acquire(*args, **kwargs):
        raise NotImplementedError

    monkeypatch.setattr('filelock.FileLock.acquire', acquire)
    with claimed(tmp_path):
        assert state_of(tmp_path)['pid'] == os.getpid() and holder(tmp_path) is None
