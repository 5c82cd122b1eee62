"""An installation without mmcv's compiled module trains and predicts the same."""

import os
import re
import subprocess
import sys
from pathlib import Path

import mmcv
import pytest
import torch

from cankd_mm.apis import train
from cankd_mm.stack.ops import Extension
from cankd_mm.work_dir import read_scalars
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
    """Variables with which mmcv is found without `_ext`, as mmcv-lite is."""
    folder = tmp_path_factory.mktemp('lite')
    (folder / 'mmcv').mkdir()
    for path in Path(mmcv.__file__).parent.iterdir():
        if not path.name.startswith('_ext'):
            (folder / 'mmcv' / path.name).symlink_to(path)
    return dict(
        os.environ, PYTHONPATH=os.pathsep.join([str(folder), str(ROOT), os.environ['PYTHONPATH']]), OMP_NUM_THREADS='1'
    )


def run(environment, *words):
    command = [sys.executable, '-W', 'ignore', *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_training_and_validation_are_the_same(environment, pairs, tmp_path):
    options = {'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1, 'randomness.seed': 1}
    train(str(pairs['detection']), work_dir=str(tmp_path / 'here'), cfg_options=options)
    words = ['--cfg-options', *(f'{key}={value}' for key, value in options.items())]
    done = run(environment, 'tools/train.py', pairs['detection'], '--work-dir', tmp_path / 'lite', *words)
    assert done.returncode == 0, done.stderr[-3000:]
    expected, found = (torch.load(tmp_path / name / 'epoch_1.pth')['state_dict'] for name in ('here', 'lite'))
    assert [key for key, value in expected.items() if not torch.equal(value, found[key])] == []
    metrics = [next(e for e in read_scalars(tmp_path / name) if 'coco/bbox_mAP' in e) for name in ('here', 'lite')]
    keys = [key for key in metrics[0] if 'coco' in key]
    assert [metrics[0][key] for key in keys] == [metrics[1][key] for key in keys]


def test_operator_that_is_not_there_is_named(environment):
    code = (
        'import cankd_mm, torch; from mmdet.models import necks; '
        'neck = necks.FPN_CARAFE([4, 4], 4, 2, norm_cfg=None); neck([torch.rand(1, 4, 8, 8), torch.rand(1, 4, 4, 4)])'
    )
    error = run(environment, '-c', code).stderr
    assert "mmcv-lite has no operator 'carafe_forward', which FPN_CARAFE needs, and cankd_mm none in its place" in error


def test_doctor_says_where_operators_come_from(environment):
    done = run(environment, '-m', 'cankd_mm.stack.doctor')
    assert done.returncode == 0, done.stdout
    found = dict(re.findall(r'^ok     from (.*): (.*)$', done.stdout, re.M))
    assert {source: names.split(', ') for source, names in found.items()} == Extension().sources()
