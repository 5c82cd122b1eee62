"""The command lines as a user types them."""

import json
import os
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import forked
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def tool(name, *arguments):
    return forked.run([sys.executable, ROOT / 'tools' / name, *arguments], capture_output=True, cwd=ROOT)


@pytest.fixture
def here(monkeypatch, capsys):
    """Run a tool in this process: what it ends with and what it prints."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
        monkeypatch.setenv('LOCAL_RANK', '0')
        try:
            runpy.run_path(str(ROOT / 'tools' / name), run_name='__main__')
        except SystemExit as e:
            return e.code, capsys.readouterr().out
        return 0, capsys.readouterr().out

    return run


def test_a_mistake_ends_with_one_sentence_and_status_1(pairs, tmp_path):
    option = 'model.teacher_ckpt=nowhere.pth'
    done = tool('train.py', pairs['detection'], '--work-dir', tmp_path, '--cfg-options', option)
    assert done.returncode == 1
    *_, last = done.stdout.strip().splitlines()
    assert last.startswith('error: ') and "checkpoint 'nowhere.pth' does not exist" in last
    assert 'Traceback' not in done.stdout


@pytest.mark.parametrize(
    'options, words',
    [
        (['train_dataloader.dataset.data_root=nowhere/'], "needs 'nowhere/', which does not exist"),
        (['model.distiller.source=nekc'], "did you mean 'neck'"),
    ],
)
def test_options_of_the_command_line_reach_the_config(here, pairs, tmp_path, options, words):
    code, _ = here('train.py', pairs['detection'], '--work-dir', tmp_path, '--cfg-options', *options)
    assert code.startswith('error: ') and words in code


def test_missing_config(here):
    code, _ = here('train.py', 'configs/nowhere.py')
    where = f"does not exist in '{Path.cwd()}', the folder that relative paths start from: correct the path"
    assert code.startswith(f"error: The config 'configs/nowhere.py' {where}")
    code, _ = here('train.py', '/configs/nowhere.py')
    assert code.startswith("error: The config '/configs/nowhere.py' does not exist: correct the path")


def test_check_ends_with_its_verdict(here, pairs, tmp_path, monkeypatch):
    """And leaves no folder, also not the one that it is given."""
    monkeypatch.chdir(tmp_path)
    code, said = here('train.py', pairs['segmentation'], '--check', '--work-dir', 'run')
    assert code == 0 and said.splitlines()[-1] == 'doubtful: 3 warnings above' and len(said.splitlines()) < 20
    code, said = here('train.py', pairs['segmentation'], '--check', '--cfg-options', 'model.distiller.source=nekc')
    assert code.startswith('error: ') and said == '' and not list(tmp_path.iterdir())


def test_train_test_and_export(here, pairs, tmp_path):
    pair = pairs['segmentation']
    done = tool('train.py', pair, '--work-dir', tmp_path, '--cfg-options', 'train_cfg.max_epochs=1')
    assert done.returncode == 0, done.stdout[-2000:]
    assert re.search(r'distill\.loss_neck_2: [\d.]+', done.stdout)
    found = ['--out', tmp_path / 'found.pkl']
    code, _ = here('test.py', pair, tmp_path / 'epoch_1.pth', '--work-dir', tmp_path / 'test', *found)
    assert code == 0 and (tmp_path / 'found.pkl').exists()
    code, said = here('export_student.py', pair, tmp_path / 'epoch_1.pth', '--out', tmp_path / 'student')
    config, checkpoint = said.split()[-2:]
    assert code == 0 and os.path.getsize(checkpoint) < os.path.getsize(tmp_path / 'epoch_1.pth') / 2
    code, _ = here('test.py', config, checkpoint, '--work-dir', tmp_path / 'plain')
    reports = [report for folder in ('test', 'plain') for report in (tmp_path / folder).glob('*/*.json')]
    assert code == 0 and len(reports) == 2 and len({json.loads(report.read_text())['mIoU'] for report in reports}) == 1
    (tmp_path / 'results.json').write_text('a comparison of methods has one')
    code, said = here('results.py', tmp_path)
    assert code == 0 and f'| {tmp_path} (segmentation_cankd) | mIoU |' in re.sub(' +', ' ', said)
    assert (tmp_path / 'runs.json').exists()
    assert (tmp_path / 'results.json').read_text().startswith('a comparison')


CONTEXT, METHOD = 'train_dataloader.multiprocessing_context', 'env_cfg.mp_cfg.mp_start_method'


@pytest.mark.parametrize(
    'program, option',
    [
        ('-m', f'{CONTEXT}=spawn'),
        ('cankd', f'{METHOD}=spawn'),
        pytest.param('-m', f'{METHOD}=forkserver', marks=pytest.mark.full),
        pytest.param('cankd', f'{CONTEXT}=forkserver', marks=pytest.mark.full),
    ],
)
def test_workers_of_a_data_loader_that_start_anew(pairs, tmp_path, program, option):
    """They register what the command has, also where its operators are of this package."""
    script = tmp_path / 'cankd'  # as pip writes it
    script.write_text("from cankd_mm.__main__ import main\nif __name__ == '__main__':\n    main()\n")
    words = ['-m', 'cankd_mm'] if program == '-m' else [script]
    small = ['train_dataloader.num_workers=1', 'train_cfg.max_epochs=1', 'train_cfg.val_begin=9']
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', *words, 'train', pairs['detection'], '--work-dir', tmp_path / 'run']
        + ['--cfg-options', *small, option],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ['PYTHONPATH']])),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert torch.load(tmp_path / 'run' / 'epoch_1.pth')['meta']['iter'] == 2


def test_two_processes(pairs, tmp_path):
    """Distributed training without unused parameters, on the processor with gloo."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    command = [str(ROOT / 'tools' / 'dist_train.sh'), str(pairs['detection']), '2', '--work-dir', str(tmp_path)]
    environment = dict(os.environ, PORT=str(port), CUDA_VISIBLE_DEVICES='')
    environment['PATH'] = os.path.dirname(sys.executable) + os.pathsep + environment['PATH']
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'GPU number: 2' in done.stdout
    checkpoint = torch.load(tmp_path / 'epoch_2.pth')
    # 8 images in batches of 4 on two processes: one step an epoch.
    assert checkpoint['meta']['iter'] == 2
    command[0] = str(ROOT / 'tools' / 'dist_test.sh')
    command.insert(2, str(tmp_path / 'epoch_2.pth'))
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)
    assert done.returncode == 0 and 'coco/bbox_mAP' in done.stdout, done.stderr[-3000:]
