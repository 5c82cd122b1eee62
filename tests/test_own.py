"""The guide of parts of one's own, word for word: files, commands, script, and the cells of a notebook."""

import re
import shlex
import sys

import pytest
from mmengine.config import Config

from cankd_mm.config.read import read_dumped
from cankd_mm.work_dir import read_scalars
from tests import forked
from tests.conftest import ROOT
from tests.test_docs import blocks

pytestmark = pytest.mark.slow
PAGE = 'docs/guides/own.md'
CODE = [block for page, block in blocks('python') if page == PAGE]
FILES = {found[1]: block for block in CODE if (found := re.match(r'# (\w+\.py)\n', block))}
CELLS = [block for block in CODE if block not in FILES.values()]


@pytest.fixture
def folder(pairs, tmp_path, monkeypatch):
    """Where a user works: a pair, and the files of the page."""
    monkeypatch.chdir(tmp_path)
    pair = f"_base_ = '{pairs['segmentation']}'\ntrain_cfg = dict(max_epochs=1, val_interval=1)\n"
    (tmp_path / 'tools').symlink_to(ROOT / 'tools')
    for name, text in {'pair.py': pair, **FILES}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def run(*words):
    done = forked.run([sys.executable, *words], capture_output=True)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def test_commands(folder):
    commands = ''.join(block for page, block in blocks('bash') if page == PAGE).splitlines()
    words = [shlex.split(line, comments=True) for line in commands]
    said = [run(*line[1:]) if line[0] == 'python' else run('-m', 'cankd_mm', *line[1:]) for line in words]
    assert 'CosineLoss of the student' in said[0] and said[0].splitlines()[-1].startswith(('ready', 'doubtful'))
    assert all((folder / 'work_dirs' / run / 'student_best.pth').exists() for run in ('own', 'tool'))
    student = Config.fromfile(said[-1].split()[-2])
    assert 'custom_imports' not in student and not student.custom_hooks and student.model.type == 'EncoderDecoder'


def test_script(folder):
    run('own_training.py')
    weights = [cfg.model.distiller.loss.loss_weight for cfg in map(read_dumped, folder.glob('work_dirs/*/*.py'))]
    assert sorted(weights) == [2.0, 4.0]
    for name in ('script', 'runner'):
        (step,) = (entry for entry in read_scalars(folder / 'work_dirs' / name) if 'loss' in entry)
        assert step['distill.loss_neck_0'] and (folder / 'work_dirs' / name / 'student_best.pth').exists()


def test_notebook(folder):
    """Its cells, and then once more in another folder, which gets the log of its own training."""
    kernel = dict(__name__='__main__')
    for name in ('notebook', 'again'):
        for cell in CELLS:
            exec(cell.replace('work_dirs/notebook', f'work_dirs/{name}'), kernel)  # noqa: S102
        assert type(kernel['runner'].model.distiller.distill_losses['loss_neck_0']) is kernel['HuberLoss']
        steps = [entry for entry in read_scalars(folder / 'work_dirs' / name) if 'loss' in entry]
        assert len(steps) == 1 and (folder / 'work_dirs' / name / 'student_best.pth').exists()
