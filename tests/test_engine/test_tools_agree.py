"""The same config gives the same training under every standard tool, bit by bit."""

import os
import subprocess
import sys

import pytest
import torch
from mmengine.utils import get_installed_path

from tests.conftest import ROOT

pytestmark = pytest.mark.slow

MENDED = "import cankd_mm, runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


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
