"""A comparison as jobs of a real Slurm, one of which is requeued in the middle, equals the same comparison run here."""

import io
import subprocess
import threading
import time

import pytest
import torch

from cankd_mm.errors import SetupError
from cankd_mm.experiments.compare import compare
from cankd_mm.experiments.jobs import Job, Local, run_jobs
from cankd_mm.work_dir import state_of
from tests.conftest import ROOT
from tests.test_slurm.test_slurm import partition as partition  # a fixture
from tests.test_slurm.test_slurm import wait_for

pytestmark = pytest.mark.slow
OPTIONS = {'train_cfg.max_epochs': 8, 'train_cfg.val_interval': 8, 'default_hooks.checkpoint.interval': 1}


def cluster(folder, name):
    pytest.importorskip('submitit')
    from cankd_mm.experiments.slurm import Slurm

    return Slurm(folder, None, name, {'gres': '', 'time': '10'})


def test_a_comparison_with_a_requeued_job_is_the_local_one(pairs, forked, partition, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    methods = [str(ROOT / 'configs/methods/pkd.py')]
    arguments = dict(methods=methods, seeds=[0], cfg_options=OPTIONS, longer=False)  # which two clocks would differ in
    pair = pairs['segmentation'].with_name('resumed_bit_by_bit.py')
    pair.write_text(
        f"_base_ = '{pairs['segmentation'].name}'\n"
        "custom_hooks = [dict(type='IterationSeedHook')]\n"
        'train_dataloader = dict(num_workers=0, persistent_workers=False)\n'
    )
    here = compare(str(pair), work_dir=str(tmp_path / 'here'), place=Local(2), stream=io.StringIO(), **arguments)

    place, requeued = cluster(tmp_path / 'slurm', partition), []
    folder = tmp_path / 'there' / 'cankd' / 'seed0'

    def requeue():
        """The pair's own training, once it has a checkpoint."""
        wait_for((folder / 'epoch_1.pth').exists)
        job = state_of(folder)['slurm']
        subprocess.run(['scontrol', 'requeue', job], check=True)
        requeued.append(job)

    threading.Thread(target=requeue, daemon=True).start()
    there = compare(str(pair), work_dir=str(tmp_path / 'there'), place=place, stream=io.StringIO(), **arguments)
    assert requeued and 'resumed epoch' in (tmp_path / 'there' / 'cankd' / 'seed0' / 'train.log').read_text()
    assert [(r['method'], r['value']) for r in there['runs']] == [(r['method'], r['value']) for r in here['runs']]
    for method in ('student-alone', 'cankd', 'pkd'):
        one, other = (
            torch.load(tmp_path / d / method / 'seed0' / 'epoch_8.pth')['state_dict'] for d in ('here', 'there')
        )
        assert [key for key in one if not torch.equal(one[key], other[key])] == [], method


def test_a_job_that_is_killed_or_fails_is_named(partition, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr('cankd_mm.experiments.slurm._GRACE', 1)
    config = tmp_path / 'config.py'
    config.write_text(
        "__import__('pathlib').Path('number').write_text(__import__('os').environ['SLURM_JOB_ID'])\n"
        "__import__('time').sleep(60)\n"
    )
    broken = Job(tmp_path / 'broken', 'configs/nowhere.py')
    with pytest.raises(SetupError, match=r"'configs/nowhere.py' does not exist.*train.log"):
        run_jobs([broken], cluster(tmp_path / 'a', partition), stream=io.StringIO())
    killed = Job(tmp_path / 'killed', str(config))
    monkeypatch.chdir(tmp_path)

    def kill():
        wait_for((tmp_path / 'number').exists)
        time.sleep(0.5)
        subprocess.run(['scancel', '--signal=KILL', '--full', (tmp_path / 'number').read_text().strip()], check=True)

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(SetupError, match='The training .*killed failed: it printed nothing'):
        run_jobs([killed], cluster(tmp_path / 'b', partition), stream=io.StringIO())


def test_a_job_that_slurm_does_not_take(partition, tmp_path):  # noqa: F811
    with pytest.raises(SetupError, match='Slurm does not take the job: .*correct --partition or --slurm'):
        cluster(tmp_path, 'nowhere').run(Job(tmp_path / 'a', 'x.py'))


def test_no_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(SetupError, match='There is no Slurm here'):
        cluster(tmp_path, None)
