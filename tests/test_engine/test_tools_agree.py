"""The same config gives the same training under every standard tool, bit by bit."""

import os
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.utils import get_installed_path

from cankd_mm.apis.pair import write_pair
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

MENDED = "import cankd_mm, runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


@pytest.mark.parametrize('task', ['segmentation', pytest.param('detection', marks=pytest.mark.full)])
def test_what_pair_writes_trains_with_the_librarys_own_tool(pairs, task, tmp_path, monkeypatch):
    """So does the config that a training leaves in its work folder, and imports of the student's own stay."""
    cfg = Config.fromfile(str(pairs[task])).model
    (tmp_path / 'own_module.py').write_text('')
    monkeypatch.syspath_prepend(tmp_path)
    student = tmp_path / 'student.py'
    student.write_text(
        f"_base_ = '{pairs[task].with_name(f'{task}_student.py')}'\ncustom_imports = dict(imports='own_module')\n"
    )
    pair = tmp_path / 'pair.py'
    write_pair(cfg.teacher, str(student), str(pair), cfg.teacher_ckpt)
    library = dict(segmentation='mmseg', detection='mmdet')[task]
    tool = os.path.join(get_installed_path(library), '.mim', 'tools', 'train.py')
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ['PYTHONPATH']]))
    for config, work_dir in ((pair, tmp_path / 'first'), (tmp_path / 'first' / 'pair.py', tmp_path / 'second')):
        options = ['train_cfg.max_epochs=1', 'train_cfg.val_begin=9', 'randomness.seed=1']
        words = [tool, str(config), '--work-dir', str(work_dir), '--cfg-options', *options]
        start = [sys.executable, '-W', 'ignore']
        done = subprocess.run([*start, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        assert 'distill.loss_neck_0' in done.stderr + done.stdout
    first, second = (torch.load(tmp_path / name / 'epoch_1.pth')['state_dict'] for name in ('first', 'second'))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.full
def test_weights_are_equal(pairs, tmp_path):
    """Of one pair, with random flips and with worker processes."""
    pair = pairs['detection'].with_name('flipped_pair.py')
    pair.write_text(
        f"_base_ = '{pairs['detection'].name}'\n"
        'train_pipeline = [*_base_.train_pipeline]\n'
        "train_pipeline.insert(3, dict(type='RandomFlip', prob=0.5))\n"
        'train_dataloader = dict(num_workers=1, dataset=dict(pipeline=train_pipeline))\n'
        'randomness = dict(seed=3)\n'
        'train_cfg = dict(max_epochs=1, val_begin=9)\n'
    )
    tools = dict(cankd_mm=ROOT / 'tools' / 'train.py')
    for package in ('mmdet', 'mmseg', 'mmrazor'):
        tools[package] = os.path.join(get_installed_path(package), '.mim', 'tools', 'train.py')
    found = {}
    for name, tool in tools.items():
        # MMRazor's tool imports all of MMRazor before it reads the config, which current torch needs mended for.
        start = [str(tool)] if name != 'mmrazor' else ['-c', MENDED, str(tool)]
        command = [sys.executable, '-W', 'ignore', *start, str(pair), '--work-dir', str(tmp_path / name)]
        environment = dict(os.environ, OMP_NUM_THREADS='1')
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        found[name] = torch.load(tmp_path / name / 'epoch_1.pth')['state_dict']
    expected = found.pop('cankd_mm')
    for tool, weights in found.items():
        assert list(weights) == list(expected), tool
        assert [key for key, value in expected.items() if not torch.equal(value, weights[key])] == [], tool
