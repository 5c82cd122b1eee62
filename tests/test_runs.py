"""Trainings side by side."""

import io
from types import SimpleNamespace

import pytest
import torch

from cankd_mm.runs import Job, Slots, run_jobs
from cankd_mm.runs.jobs import subprocess


@pytest.mark.parametrize('visible, expected', [(None, ['0', '1', '0']), ('3,5', ['3', '5', '3'])])
def test_every_training_has_a_gpu_of_its_own(tmp_path, monkeypatch, visible, expected):
    """Processes that are over at once stand in for trainings."""
    environments = []

    def start(command, env, **kwargs):
        environments.append(env)
        folder = tmp_path / command[command.index('--work-dir') + 1]
        (folder / 'epoch_1.pth').touch()
        (folder / 'last_checkpoint').write_text('epoch_1.pth')
        return SimpleNamespace(pid=0, returncode=0, poll=lambda: 0)

    monkeypatch.setattr(subprocess, 'Popen', start)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if visible:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    jobs = [Job(tmp_path / str(i), 'config.py', {}, 'epoch_1.pth', 1, 0.1) for i in range(3)]
    run_jobs(jobs, Slots(8), stream=io.StringIO())
    assert [environment['CUDA_VISIBLE_DEVICES'] for environment in environments] == expected
