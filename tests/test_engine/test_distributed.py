"""Several processes give what one gives with the whole batch, and end together."""

import json
import os
import socket
import stat
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config

from cankd_mm.apis.pair import write_pair
from cankd_mm.work_dir import read_scalars
from tests.conftest import ROOT
from tests.distributed_step import step
from tests.forked import Popen

pytestmark = pytest.mark.slow


def torchrun(processes, *command, timeout=240):
    launch = [sys.executable, '-W', 'ignore', '-m', 'torch.distributed.run', '--standalone']
    environment = dict(
        os.environ,
        PYTHONPATH=f'{ROOT}{os.pathsep}{os.environ["PYTHONPATH"]}',
        OMP_NUM_THREADS='1',
        CUDA_VISIBLE_DEVICES='',
    )
    return subprocess.run(
        [*launch, f'--nproc_per_node={processes}', *map(str, command)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def two_ranks(folder, ranks, *arguments):
    """Run tools/train.py in two processes with the variables that a launcher sets."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    common = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), CUDA_VISIBLE_DEVICES='')
    command = [sys.executable, ROOT / 'tools' / 'train.py', *arguments]
    running = []
    for number, variables in enumerate(ranks):
        with open(folder / f'rank{number}.txt', 'w') as log:
            running.append(Popen(command, log, env={**os.environ, **common, **variables}, cwd=ROOT))
    codes = [process.wait(240) for process in running]
    assert codes == [0, 0], (folder / 'rank0.txt').read_text()[-3000:]


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_two_processes_equal_one_with_the_whole_batch(pairs, tmp_path, task):
    """Batch norm on its running statistics, and no search for unused parameters."""
    one, two = (step(n, pairs[task], tmp_path / f'{n}.pth') for n in (1, 2))
    losses = [name for name in one['losses'] if 'loss' in name]
    assert sum(name.startswith('distill.') for name in losses) == 3
    for name in losses:
        torch.testing.assert_close(two['losses'][name], one['losses'][name], rtol=1e-6, atol=0)
    assert len(one['gradients']) > 50
    for name, gradient in one['gradients'].items():
        # MMSegmentation's cross-entropy computes in single precision, whatever it is given.
        tolerance = 1e-12 if name.startswith('distiller.') else 5e-6
        torch.testing.assert_close(two['gradients'][name], gradient, rtol=0, atol=tolerance, msg=name)


def test_batch_norm_takes_the_statistics_of_its_own_process(pairs, tmp_path):
    """What the above leaves out: it differs, as for every model that is not trained with synchronized batch norm."""
    one, two = (step(n, pairs['segmentation'], tmp_path / f'{n}.pth', train_bn=True) for n in (1, 2))
    name = 'distill.loss_neck_0'
    assert not torch.allclose(one['losses'][name], two['losses'][name], rtol=1e-4)


def test_synchronized_batch_norm_and_an_end_of_the_distillation(pairs, tmp_path):
    """On processors, where torch synchronizes no batch norm; blocks are without a gradient once it has stopped."""
    config = pairs['segmentation'].with_name('stopping_pair.py')
    config.write_text(
        f"_base_ = '{pairs['segmentation'].name}'\n"
        "norm_cfg = dict(type='SyncBN', requires_grad=True)\n"
        'model = dict(architecture=dict(backbone=dict(norm_cfg=norm_cfg), decode_head=dict(norm_cfg=norm_cfg)))\n'
        "custom_hooks = [dict(type='mmrazor.StopDistillHook', stop_epoch=1)]\n"
        'train_cfg = dict(max_epochs=3, val_begin=9)\n'
        'default_hooks = dict(logger=dict(interval=1))\n'
    )
    ranks = [dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE='2') for rank in '01']
    two_ranks(tmp_path, ranks, config, '--launcher', 'pytorch', '--work-dir', tmp_path)
    scalars = next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()
    steps = [json.loads(line) for line in scalars if '"loss"' in line]
    assert 'distill.loss_neck_0' in steps[0] and steps[-1]['distill_to_task'] == 0 and len(steps) == 3


def test_error_on_one_rank_ends_all(pairs, tmp_path):
    hook = tmp_path / 'failing.py'
    hook.write_text(
        'from mmengine.dist import get_rank\n'
        'from mmengine.hooks import Hook\n'
        'from mmengine.registry import HOOKS\n'
        'from cankd_mm.errors import SetupError\n'
        '@HOOKS.register_module()\n'
        'class FailingHook(Hook):\n'
        '    def before_train_iter(self, runner, batch_idx, data_batch=None):\n'
        '        if get_rank() == 1 and runner.iter == 1:\n'
        "            raise SetupError('rank 1 gives up.')\n"
    )
    config = pairs['detection'].with_name('failing_pair.py')
    config.write_text(
        f"_base_ = '{pairs['detection'].name}'\n"
        "custom_imports = dict(imports=['cankd_mm', 'failing'], allow_failed_imports=False)\n"
        "custom_hooks = [dict(type='FailingHook')]\n"
    )
    runner = tmp_path / 'run.py'
    runner.write_text(
        f'import runpy, sys\nsys.path.insert(0, {str(tmp_path)!r})\n'
        f"runpy.run_path({str(ROOT / 'tools' / 'train.py')!r}, run_name='__main__')\n"
    )
    done = torchrun(2, runner, config, '--launcher', 'pytorch', '--work-dir', tmp_path / 'run', timeout=120)
    assert done.returncode != 0 and 'error: rank 1 gives up.' in done.stderr


def test_mpi_without_gpus(pairs, tmp_path):
    """Two processes with the variables that Open MPI sets."""
    variables = ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK')
    ranks = [dict(dict.fromkeys(variables, rank), OMPI_COMM_WORLD_SIZE='2') for rank in '01']
    options = ['--work-dir', tmp_path, '--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=2']
    two_ranks(tmp_path, ranks, pairs['segmentation'], '--launcher', 'mpi', *options)
    # 8 images in batches of 4 on two processes: one step.
    assert torch.load(tmp_path / 'epoch_1.pth')['meta']['iter'] == 1


def test_slurm_script_hands_everything_to_srun(tmp_path):
    """A stand-in for srun prints its arguments."""
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(srun.stat().st_mode | stat.S_IEXEC)
    environment = dict(os.environ, PATH=f'{tmp_path}{os.pathsep}{os.environ["PATH"]}', GPUS='16', SRUN_ARGS='--a b')
    command = ['tools/slurm_train.sh', 'part', 'name', 'config.py', 'dir', '--amp', '--cfg-options', 'a.b=[1, 2]']
    words = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True).stdout.splitlines()
    assert words[:2] == ['-p', 'part'] and '--ntasks=16' in words and '--ntasks-per-node=8' in words
    assert words[words.index('--a') + 1] == 'b'
    tail = ['config.py', '--work-dir=dir', '--launcher=slurm', '--amp', '--cfg-options', 'a.b=[1, 2]']
    assert words[-len(tail) :] == tail


@pytest.mark.full
def test_ranks_with_and_without_labels(pairs, digits, tmp_path):
    """An iteration in which one has labels and the other none, without a search for unused parameters."""
    cfg = Config.fromfile(str(pairs['detection'])).model
    student, pair = pairs['detection'].with_name('detection_student.py'), tmp_path / 'pair.py'
    images = str(digits / 'detection' / 'train')
    write_pair(cfg.teacher, str(student), str(pair), cfg.teacher_ckpt, data=str(student), unlabeled=images)
    ranks = [dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2') for rank in range(2)]
    options = ['train_dataloader.batch_size=1', 'train_cfg.val_begin=9', 'train_cfg.max_epochs=1', 'randomness.seed=0']
    options += ['default_hooks.logger.interval=1']
    two_ranks(tmp_path, ranks, pair, '--launcher', 'pytorch', '--work-dir', tmp_path / 'run', '--cfg-options', *options)
    logged = [entry for entry in read_scalars(tmp_path / 'run') if 'loss' in entry]
    assert len(logged) == 8 and any('student.loss_cls' not in entry for entry in logged)
