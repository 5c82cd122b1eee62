"""A small pair goes the whole way: trained, exported, evaluated in the plain library, gathered in a table."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from mmengine.runner import save_checkpoint

from cankd_mm.config.metric import metric_of
from cankd_mm.config.read import load_config
from cankd_mm.errors import SetupError
from cankd_mm.experiments.reproduce import reproduce
from cankd_mm.experiments.rows import Model, Row, find_row, load_rows, write_results
from cankd_mm.models.builders import build_model
from cankd_mm.work_dir import holder, last_checkpoint
from tests.conftest import ROOT
from tests.test_configs.small import make_data, shrink

pytestmark = pytest.mark.slow

METRICS = dict(detection='box AP', segmentation='mIoU')


def small_row(task, config):
    return Row(
        name=config.stem,
        number=f'small-{task}',
        config=config,
        dataset='digits',
        data_source='they are there',
        metric=METRICS[task],
        schedule='2e',
        gpus=0,
        batch_size=4,
        mu=5,
        student=Model('student', None, 1.0),
        teacher=Model('teacher', None, 2.0),
        paper=0.5,
        ours=None,
    )


@pytest.fixture(scope='module', params=list(METRICS))
def done(request, pairs, forked, tmp_path_factory):
    row = small_row(request.param, pairs[request.param])
    folder = tmp_path_factory.mktemp('work_dirs')
    options = {'train_dataloader.batch_size': 2}
    with contextlib.redirect_stdout(io.StringIO()) as out:  # which loggers keep
        result = reproduce(row, gpus=0, work_dir=str(folder / 'run'), seed=3, cfg_options=options)
    (folder / 'said').write_text(out.getvalue())
    return row, folder, result


def test_what_is_said(done):
    """What is no recipe of the row comes first; environment and config are said by the training alone."""
    row, folder, _ = done
    said = (folder / 'said').read_text()
    first, *_, last = said.splitlines()
    assert first.startswith(f'This is not the recipe of {row.name}') and 'batch_size was 4 and is 2.' in first
    assert said.count('System environment:') == said.count('Config:') == 1
    assert last == f'evaluating {folder / "run"}'


def test_result(done):
    row, folder, result = done
    assert json.loads((folder / 'run' / 'result.json').read_text()) == result
    metric = metric_of(load_config(str(row.config)))
    assert 0 <= result['value'] == metric.of(result['metrics']) and result['metric'] == row.metric == metric.name
    assert (result['paper'], result['student_alone'], result['teacher']) == (0.5, 1.0, 2.0)
    # 2 images a step at a learning rate that is meant for 8.
    assert result['lr'] == pytest.approx(2e-3 * 2 / 8) and (result['gpus'], result['batch_size']) == (0, 2)
    assert result['options'] == {'train_dataloader.batch_size': 2, 'randomness.seed': 3}
    scalars = next((folder / 'run').glob('*/vis_data/scalars.json')).read_text().splitlines()
    rates = [json.loads(line)['lr'] for line in scalars if '"loss"' in line]
    assert max(rates) <= result['lr']
    assert result['machine']['versions']['torch']


def test_what_is_done_is_not_trained_again(done):
    row, folder, result = done
    before = {path: path.stat().st_mtime for path in (folder / 'run').glob('*.pth')}
    options = {'train_dataloader.batch_size': 2}
    again = reproduce(row, gpus=0, work_dir=str(folder / 'run'), seed=3, cfg_options=options)
    assert again['value'] == result['value']
    assert {path: path.stat().st_mtime for path in (folder / 'run').glob('*.pth')} == before


@pytest.mark.parametrize('further', [{}, pytest.param({'train_cfg.max_epochs': 4}, marks=pytest.mark.full)])
def test_a_smoke_test_is_no_row(done, further):
    """Neither is it gone on from."""
    row, folder, result = done
    words = 'batch_size was 2 and is 4, .*randomness.seed was 3 and is 5; give what it was trained with'
    with pytest.raises(SetupError, match=words):
        reproduce(row, gpus=0, work_dir=str(folder / 'run'), seed=5, cfg_options=further)
    assert json.loads((folder / 'run' / 'result.json').read_text()) == result


# The command with a row of its own.
ROW = """
import sys
from pathlib import Path
from cankd_mm.__main__ import main
from cankd_mm.experiments import rows
from tests.test_reproduce.test_run import small_row
config, work_dir = sys.argv[1:]
rows.load_rows = lambda folder: [small_row('segmentation', Path(config))]
sys.argv = ['cankd', 'reproduce', 'small-segmentation', '--gpus', '0', '--work-dir', work_dir]
main()
"""


@pytest.mark.full
def test_an_ended_reproduction_leaves_no_training(pairs, tmp_path):
    words = [sys.executable, '-W', 'ignore', '-c', ROW, str(pairs['segmentation']), str(tmp_path / 'run')]
    with open(tmp_path / 'log', 'w') as log:
        environment = dict(os.environ, PYTHONPATH=str(ROOT))
        process = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
    end = time.monotonic() + 60
    while holder(tmp_path / 'run') is None:
        assert time.monotonic() < end and process.poll() is None, (tmp_path / 'log').read_text()
        time.sleep(0.02)
    process.terminate()
    assert process.wait(30) == 130 and 'the same command goes on from here' in (tmp_path / 'log').read_text()
    while holder(tmp_path / 'run'):  # the training ends on its own account
        assert time.monotonic() < end
        time.sleep(0.02)
    assert last_checkpoint(tmp_path / 'run') is None


def test_table(done, tmp_path):
    """A finished row, and a training of the same config that only has a log."""
    row, folder, result = done
    shutil.copytree(folder / 'run', folder / 'log')
    (folder / 'log' / 'result.json').unlink()
    text, (_, runs) = write_results(folder, [row])
    logged, reproduced = json.loads(runs.read_text())
    assert reproduced['value'] == result['value'] and 'in plain mm' in reproduced['measured']
    assert logged['value'] == pytest.approx(result['value'], abs=0.1)
    assert logged['measured'].startswith('validation at') and logged['progress'] == '2 of 2 epochs'
    # The folder of the evaluation is no run.
    assert row.number in text and len(text.splitlines()) == 4
    # The recipe has another batch.
    difference, other = f' {reproduced["value"] - 0.5:+.1f} ', 'train_dataloader.batch_size was 4 and is 2'
    assert text.count(other) == 2 and reproduced['deviation'] == other and ' difference ' not in text
    recipe = tmp_path / row.config.name
    recipe.write_text(f"_base_ = '{row.config}'\ntrain_dataloader = dict(batch_size=2)\n")
    before = {key: value for key, value in reproduced.items() if key != 'deviation'}  # as in 0.2.0
    (folder / 'run' / 'result.json').write_text(json.dumps(before))
    text, _ = write_results(folder, [row._replace(config=recipe)])
    (folder / 'run' / 'result.json').write_text(json.dumps(result))
    assert text.count(difference) == 2 and "the row's recipe" not in text


@pytest.mark.parametrize(
    'file, text', [('result.json', '{"value": '), ('result.json', '[1, 2]'), ('{}.py', 'model = ('), ('{}.py', 'a = 1')]
)
def test_a_run_that_is_broken_is_named_beside_the_table_of_the_others(done, tmp_path, file, text):
    row, folder, result = done
    for name in ('good', 'broken'):
        shutil.copytree(folder / 'run', tmp_path / name, ignore=shutil.ignore_patterns('*.pth', 'test', 'student'))
    (tmp_path / 'broken' / file.format(row.name)).write_text(text)
    table, written = write_results(tmp_path)
    assert written == [tmp_path / 'runs.md', tmp_path / 'runs.json'] and written[0].read_text() == f'{table}\n'
    good, (_, sentence) = json.loads(written[1].read_text()), table.split('\n\n')
    assert [entry['value'] for entry in good] == [result['value']]
    assert sentence.startswith(f'{tmp_path / "broken"} cannot be read (') and sentence.endswith('and is left out.')


def test_a_run_that_logged_no_learning_rate_is_in_the_table(done, tmp_path):
    """It was shorter than the interval of the log."""
    _, folder, result = done
    shutil.copytree(
        folder / 'run', tmp_path / 'run', ignore=shutil.ignore_patterns('*.pth', 'test', 'student', 'result.json')
    )
    for log in tmp_path.glob('run/*/vis_data/scalars.json'):
        log.write_text(''.join(line for line in log.open() if '"loss"' not in line))
    table, (_, runs) = write_results(tmp_path)
    (entry,) = json.loads(runs.read_text())
    assert entry['lr'] is None and entry['value'] == pytest.approx(result['value'], abs=0.1)
    assert '2 of 2 epochs' in table


def test_a_run_of_no_row_is_shown_without_figures_of_the_paper(done):
    _, folder, result = done
    _, (_, runs) = write_results(folder / 'run')
    (entry,) = json.loads(runs.read_text())
    assert entry['value'] == result['value'] and entry['paper'] is None and entry['row'] is None


# The command where it has nothing to compute.
TABLE = """
import sys
sys.argv[0] = 'cankd'
from cankd_mm.__main__ import main
main()
assert not {'torch', 'mmdet', 'mmseg', 'mmrazor', 'scipy', 'matplotlib'} & set(sys.modules), sorted(sys.modules)
"""


def cankd_without_torch(*words):
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, '-c', TABLE, *words], stdout=subprocess.PIPE, text=True, env=environment)
    assert done.returncode == 0
    return done.stdout


def test_lists_and_tables_need_no_torch(done):
    """So they are there in a second: of rows, and of runs that were evaluated or only trained."""
    row, folder, result = done
    assert 'cankd_retinanet-r101_retinanet-r50_2x_coco' in cankd_without_torch('reproduce')
    shutil.copytree(folder / 'run', folder / 'again', dirs_exist_ok=True)
    (folder / 'again' / 'result.json').unlink()
    table = cankd_without_torch('results', str(folder))
    assert table.count(f' {result["metric"]} ') > 1 and f' {result["value"]} ' in table


def test_what_is_missing_is_said_before_anything_is_trained(pairs, tmp_path):
    row = small_row('detection', pairs['detection'])
    options = {'train_dataloader.dataset.data_root': 'nowhere/'}
    with pytest.raises(SetupError, match="cannot run yet:\n  .*lacks 'nowhere/'.*\n  .*'nowhere.pth' do not exist"):
        reproduce(row, 0, 'nowhere.pth', str(tmp_path / 'run'), cfg_options=options)
    assert not (tmp_path / 'run').exists()


def test_a_training_that_fails_is_named(pairs, forked, tmp_path):
    row = small_row('detection', pairs['detection'])
    options = {'model.distiller.source': 'nekc'}
    with pytest.raises(SetupError, match=f'training of {row.name} failed with status 1.*the same command resumes'):
        reproduce(row, 0, work_dir=str(tmp_path / 'run'), cfg_options=options)


@pytest.mark.full
def test_row_of_the_paper_on_small_images(forked, tmp_path):
    """A transformer at full architecture, beside the small dense detector and segmentor above."""
    make_data(tmp_path / 'data')
    row = find_row(load_rows(ROOT / 'configs'), '8')
    cfg = shrink(row.config, tmp_path / 'data')
    config = tmp_path / row.config.name
    cfg.dump(str(config))
    teacher = tmp_path / 'my weights, new' / 'teacher.pth'
    weights = build_model(cfg.model.teacher, 'teacher').state_dict()
    save_checkpoint(dict(state_dict=weights), str(teacher))
    del weights
    row = row._replace(config=config, batch_size=2, gpus=1)
    work_dir = tmp_path / 'run'
    result = reproduce(row, 0, str(teacher), str(work_dir), seed=1)
    metric = metric_of(cfg).key
    assert result['paper'] == row.paper and result['lr'] > 0
    assert metric in result['metrics'] or not result['metrics']  # nothing detected at all, nothing reported
    assert json.loads((work_dir / 'result.json').read_text()) == result
