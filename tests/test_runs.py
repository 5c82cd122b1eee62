"""Trainings side by side."""

import io
from types import SimpleNamespace

import pytest
import torch

from cankd_mm.experiments.jobs import Job, Slots, run_jobs, subprocess


@pytest.mark.parametrize('visible, expected', [(None, '0101'), ('3,5', '3535')])
@pytest.mark.parametrize('count', [None, 4])
def test_trainings_share_out_the_gpus(tmp_path, monkeypatch, count, visible, expected):
    """Processes stand in for trainings, which are over as soon as as many run as should."""
    environments = []
    at_once = count or 2

    def start(command, env, **kwargs):
        environments.append(env)
        folder = tmp_path / command[command.index('--work-dir') + 1]
        (folder / 'epoch_1.pth').touch()
        (folder / 'last_checkpoint').write_text('epoch_1.pth')
        return SimpleNamespace(pid=0, returncode=0, poll=lambda: None if len(environments) % at_once else 0)

    monkeypatch.setattr(subprocess, 'Popen', start)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if visible:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    jobs = [Job(tmp_path / str(i), 'config.py', {}, 'epoch_1.pth', 1, 0.1) for i in range(4)]
    run_jobs(jobs, Slots(count), stream=io.StringIO())
    assert ''.join(environment['CUDA_VISIBLE_DEVICES'] for environment in environments) == expected
