"""A comparison as jobs of a real Slurm, one of which is requeued in the middle, equals the same comparison run here."""

import io
import subprocess
import time
from types import SimpleNamespace

import pytest
import torch

from cankd_mm.errors import SetupError
from cankd_mm.experiments.compare import compare
from cankd_mm.experiments.jobs import Job, Slots, run_jobs
from tests.conftest import ROOT
from tests.test_slurm.test_slurm import partition as partition  # a fixture
from tests.test_slurm.test_slurm import wait_for

pytestmark = pytest.mark.slow
OPTIONS = {'train_cfg.max_epochs': 8, 'train_cfg.val_interval': 8, 'default_hooks.checkpoint.interval': 1}


def cluster(folder, name):
    pytest.importorskip('submitit')
    from cankd_mm.experiments.cluster import Cluster

    return Cluster(folder, name, {'gres': '', 'time': '10'})


def test_a_comparison_with_a_requeued_job_is_the_local_one(pairs, forked, partition, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    arguments = dict(methods=[str(ROOT / 'configs/methods/pkd.py')], seeds=[0], cfg_options=OPTIONS)
    pair = pairs['segmentation'].with_name('resumed_bit_by_bit.py')
    pair.write_text(
        f"_base_ = '{pairs['segmentation'].name}'\n"
        "custom_hooks = [dict(type='IterationSeedHook')]\n"
        'train_dataloader = dict(num_workers=0, persistent_workers=False)\n'
    )
    here = compare(str(pair), work_dir=str(tmp_path / 'here'), place=Slots(2), stream=io.StringIO(), **arguments)

    place, requeued = cluster(tmp_path / 'slurm', partition), []
    ended = place.ended
    sleep = time.sleep
    monkeypatch.setattr(
        'cankd_mm.experiments.cluster.time', SimpleNamespace(sleep=lambda s: sleep(s / 5), monotonic=time.monotonic)
    )

    def requeue_one():
        """The pair's own training, once it has a checkpoint."""
        folder = tmp_path / 'there' / 'resumed' / 'seed0'
        if not requeued and (folder / 'epoch_1.pth').exists():
            job = place._running[folder][1].job_id
            subprocess.run(['scontrol', 'requeue', job], check=True)
            requeued.append(job)
        return ended()

    place.ended = requeue_one
    there = compare(str(pair), work_dir=str(tmp_path / 'there'), place=place, stream=io.StringIO(), **arguments)
    assert requeued and 'resumed epoch' in (tmp_path / 'there' / 'resumed' / 'seed0' / 'train.log').read_text()
    assert [(r['method'], r['value']) for r in there['runs']] == [(r['method'], r['value']) for r in here['runs']]
    for method in ('student-alone', 'resumed', 'pkd'):
        one, other = (
            torch.load(tmp_path / d / method / 'seed0' / 'epoch_8.pth')['state_dict'] for d in ('here', 'there')
        )
        assert [key for key in one if not torch.equal(one[key], other[key])] == [], method


def test_a_job_that_is_killed_or_fails_is_named(partition, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr('cankd_mm.experiments.cluster._GRACE', 1)
    broken = Job(tmp_path / 'broken', 'configs/nowhere.py', {}, 'epoch_1.pth', 1, 0.1)
    with pytest.raises(SetupError, match=r"'configs/nowhere.py' does not exist.*train.log"):
        run_jobs([broken], cluster(tmp_path / 'a', partition), stream=io.StringIO())
    place = cluster(tmp_path / 'b', partition)
    killed = Job(tmp_path / 'killed', 'configs/nowhere.py', {}, 'epoch_1.pth', 1, 0.1)
    with place:
        monkeypatch.setattr(Job, 'command', lambda job: ['sleep', '60'])
        place.start(killed)
        job = place._running[killed.work_dir][1].job_id
        wait_for(lambda: (killed.work_dir / 'train.log').exists())
        subprocess.run(['scancel', '--signal=KILL', '--full', job], check=True)
        end = time.monotonic() + 60
        while not (over := place.ended()):
            assert time.monotonic() < end
        assert over == [(killed, False)] and place.running == []


def test_a_job_that_slurm_does_not_take(partition, tmp_path):  # noqa: F811
    with pytest.raises(SetupError, match='Slurm does not take the job: .*correct --partition or --slurm'):
        cluster(tmp_path, 'nowhere').start(Job(tmp_path / 'a', 'x.py', {}, 'epoch_1.pth', 1, 0.1))


def test_no_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(SetupError, match='There is no Slurm here'):
        cluster(tmp_path, None)
