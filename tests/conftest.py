import gc
import os
import subprocess
import time
import warnings
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock, patch

import pytest
import torch
from packaging.version import parse

ROOT = Path(__file__).parents[1]
# Before anything imports it: several test processes on few cores are slower with many threads.
os.environ.setdefault('OMP_NUM_THREADS', '1')
# Processes that are started find no transformers and sklearn, which MMEngine and MMDetection would import: 2.5 seconds.
os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT / 'tests/without'), os.environ.get('PYTHONPATH')]))
warnings.filterwarnings('ignore')

from mmengine.runner import Runner  # noqa: E402

import cankd_mm  # noqa: E402, F401

torch.set_num_threads(1)
gc.freeze()  # what is imported is not looked through again after every test


def needs_torch(version: str, why: str):
    """Mark a test of something that older versions of torch lack."""
    return pytest.mark.skipif(parse(torch.__version__) < parse(version), reason=f'before torch {version}, {why}')


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    start = time.monotonic()
    yield
    if time.monotonic() - start > 0.5:
        gc.collect()  # a runner and its parts refer to each other, and to gigabytes


@pytest.fixture(autouse=True, scope='session')
def _in_repository():
    """Paths in configs are relative to the repository, as for a user who runs the tools from there."""
    before = Path.cwd()
    os.chdir(ROOT)
    yield
    os.chdir(before)


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    """Both data sets of the demo, a few scenes large."""
    from cankd_mm.demo.dataset import prepare

    root = tmp_path_factory.mktemp('digits')
    prepare(root, num_train=12, num_small=8, num_val=4)
    return root


@pytest.fixture(scope='session')
def write_config(digits, tmp_path_factory):
    """Write a small config on top of the demo's student of a task: ``write_config('detection', 'teacher', text)``."""
    folder = tmp_path_factory.mktemp('configs')
    bases = dict(detection='retinanet_r18', segmentation='fpn_r18')

    def write(task: str, name: str, width: int = 8, text: str = '') -> Path:
        base = ROOT / 'configs' / 'demo' / '_base_' / f'{bases[task]}.py'
        small = dict(detection='annotations/train_small.json', segmentation='train_small.txt')[task]
        channels = [width, 2 * width, 4 * width, 8 * width]
        evaluator = f"val_evaluator = dict(ann_file='{digits}/detection/annotations/val.json')\n"
        # A few steps of training leave every score low.
        no_threshold = 'model.update(test_cfg=dict(score_thr=0.0))\n'
        path = folder / f'{task}_{name}.py'
        path.write_text(
            f"_base_ = '{base}'\n"
            f'model = dict(backbone=dict(base_channels={width}), neck=dict(in_channels={channels}))\n'
            f"data = dict(data_root='{digits}/{task}/')\n"
            f"train_dataloader = dict(batch_size=4, dataset=dict(ann_file='{small}', **data))\n"
            'val_dataloader = dict(batch_size=2, dataset=data)\n'
            'test_dataloader = val_dataloader\n'
            f'{evaluator if task == "detection" else ""}'
            f'{"test_evaluator = val_evaluator" if task == "detection" else ""}\n'
            'train_cfg = dict(max_epochs=2, val_interval=2)\n'
            f'{no_threshold if task == "detection" else ""}'
            f'{text}'
        )
        return path

    return write


@pytest.fixture(scope='session')
def pairs(write_config, tmp_path_factory):
    """Per task, a distillation config whose teacher has a checkpoint of its own, of another width than the student."""
    from mmengine.config import Config
    from mmengine.runner import save_checkpoint

    from cankd_mm.config.read import load_model_cfg
    from cankd_mm.models.builders import build_model

    found = {}
    for task in ('detection', 'segmentation'):
        teacher = write_config(task, 'teacher', width=12)
        student = write_config(task, 'student', width=8)
        checkpoint = tmp_path_factory.mktemp('teacher') / f'{task}.pth'
        torch.manual_seed(1)
        model = build_model(load_model_cfg(str(teacher)), 'teacher')
        save_checkpoint(dict(state_dict=model.state_dict()), str(checkpoint))
        pair = student.with_name(f'{task}_cankd.py')
        pair.write_text(
            f"_base_ = ['{student.name}', '{ROOT}/configs/demo/_base_/cankd_neck.py']\n"
            "model = dict(_delete_=True, _scope_='mmrazor', type='FeatureDistill', architecture=_base_.model,\n"
            f"             teacher='{teacher}', teacher_ckpt='{checkpoint}', distiller=_base_.distiller)\n"
        )
        Config.fromfile(str(pair))
        found[task] = pair
    return found


@pytest.fixture(scope='module')
def forked():
    """Have what this package starts as processes of Python start with the libraries imported; see `tests/forked.py`."""
    from tests import forked

    def run(words, **options):  # the plain libraries' tools start without this package
        return (subprocess if '-m' in words else forked).run(words, **options)

    def popen(words, **options):
        done = run(words, **options)
        return SimpleNamespace(wait=lambda: done.returncode, terminate=lambda: None)

    jobs = SimpleNamespace(Popen=forked.Popen, STDOUT=subprocess.STDOUT)
    with patch('cankd_mm.experiments.jobs.subprocess', jobs), patch(
        'cankd_mm.experiments.reproduce.subprocess', SimpleNamespace(Popen=popen)
    ):
        yield


@pytest.fixture(autouse=True, scope='session')
def _each_run_for_itself():
    """In one process, MMEngine shares logger and scope of runs of one config in one second."""
    original, number = Runner.setup_env, count()

    def setup_env(self, *args):
        original(self, *args)
        self._timestamp += f'_{next(number)}'

    with patch.object(Runner, 'setup_env', setup_env):
        yield


@pytest.fixture(autouse=True, scope='session')
def _no_wait_at_an_end_of_the_data():
    """Loops by iterations sleep for two seconds there, for worker processes that these have not."""
    with patch('mmengine.runner.loops.time', Mock()):
        yield


@pytest.fixture(autouse=True, scope='session')
def _short_waits():
    with patch('cankd_mm.experiments.jobs.SECONDS', 0.05):
        yield


@pytest.fixture(autouse=True, scope='session')
def _unformatted_configs():
    """Write configs as they are: to lay one out nicely takes longer than to train two iterations."""
    from mmengine.config import config

    with patch.object(config, 'FormatCode', lambda text, **kwargs: (text, True), create=True):
        yield
