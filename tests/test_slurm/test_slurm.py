"""On a real Slurm, as `tests/test_slurm/start.sh` starts it on one machine.

Without one these tests are skipped, unless REQUIRE_SLURM is set.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cankd_mm.work_dir import last_checkpoint, read_scalars
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def call(*words):
    environment = dict(os.environ, GRES='', GPUS='2', CPUS_PER_TASK='1', CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')
    environment['PATH'] = os.path.dirname(sys.executable) + os.pathsep + environment['PATH']
    return subprocess.Popen(
        list(map(str, words)), cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def say(*words):
    process = call(*words)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]
    return output


@pytest.fixture(scope='module')
def partition():
    if shutil.which('sinfo') is None or subprocess.run(['sinfo'], capture_output=True).returncode != 0:
        if os.environ.get('REQUIRE_SLURM'):
            pytest.fail('REQUIRE_SLURM is set, and sinfo reaches no cluster')
        pytest.skip('no Slurm')
    return say('sinfo', '--noheader', '--format=%R').split()[0]


@pytest.fixture(scope='module')
def config(pairs):
    """A pair of which a training takes a while, and goes on bit by bit."""
    path = pairs['segmentation'].with_name('slurm_pair.py')
    path.write_text(
        f"_base_ = '{pairs['segmentation'].name}'\n"
        'train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)\n'
        'train_cfg = dict(max_epochs=6, val_interval=6)\n'
        'randomness = dict(seed=3)\n'
        'default_hooks = dict(checkpoint=dict(interval=1), logger=dict(interval=1))\n'
    )
    return path


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'waited in vain'
        time.sleep(0.2)


def tasks(work_dir):
    """The processes of a training, by rank."""
    found = {}
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            words = (folder / 'cmdline').read_text().split('\0')
            variables = dict(v.split('=', 1) for v in (folder / 'environ').read_text().split('\0') if '=' in v)
        except OSError:  # ended meanwhile
            continue
        if f'--work-dir={work_dir}' in words and 'python' in words[0] and 'SLURM_PROCID' in variables:
            found[int(variables['SLURM_PROCID'])] = int(folder.name)
    return found


@pytest.fixture(scope='module')
def trained(partition, config, tmp_path_factory):
    """A training over two tasks, without interruption."""
    work_dir = tmp_path_factory.mktemp('slurm') / 'run'
    return work_dir, say('tools/slurm_train.sh', partition, 'cankd', config, work_dir)


def test_two_tasks_train_one_pair(trained):
    work_dir, log = trained
    assert 'GPU number: 2' in log and 'mIoU' in log
    # 8 images in batches of 2 on two tasks: two steps an epoch.
    assert torch.load(work_dir / 'epoch_6.pth')['meta']['iter'] == 12
    assert all(entry['distill.loss_neck_0'] > 0 for entry in read_scalars(work_dir) if 'loss' in entry)


def test_the_failure_of_one_task_ends_all(partition, config, tmp_path):
    work_dir = tmp_path / 'run'
    script = call('tools/slurm_train.sh', partition, 'cankd', config, work_dir)
    wait_for(lambda: last_checkpoint(work_dir) is not None)
    os.kill(tasks(work_dir)[1], signal.SIGKILL)
    output, _ = script.communicate(timeout=60)
    assert script.returncode != 0, output[-3000:]
    wait_for(lambda: not tasks(work_dir), 30)
    assert not (work_dir / 'epoch_6.pth').exists()


def test_a_requeued_job_goes_on_with_nothing_lost(partition, config, trained, tmp_path):
    work_dir, log = tmp_path / 'run', tmp_path / 'log.txt'
    training = ['tools/slurm_train.sh', partition, 'cankd', config, work_dir, '--resume']
    options = ['--parsable', '--requeue', '--ntasks=2', f'--output={log}', '--open-mode=append']
    job = say('sbatch', *options, '--wrap', shlex.join(map(str, training))).strip()
    wait_for(lambda: (work_dir / 'epoch_2.pth').exists())
    say('scontrol', 'requeue', job)
    wait_for(lambda: (work_dir / 'epoch_6.pth').exists(), 240)
    wait_for(lambda: job not in say('squeue', '--noheader', '--format=%A').split(), 60)
    assert 'resumed epoch' in log.read_text() and 'Traceback' not in log.read_text()
    expected, found = (torch.load(folder / 'epoch_6.pth')['state_dict'] for folder in (trained[0], work_dir))
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []
