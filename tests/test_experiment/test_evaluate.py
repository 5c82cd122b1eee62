"""One evaluation for every training, plain or distilled."""

import pytest
from mmengine.config import Config
from mmengine.fileio import load

from cankd_mm.apis import train
from cankd_mm.errors import SetupError
from cankd_mm.experiments.evaluate import evaluate
from cankd_mm.experiments.logged import describe

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def trained(pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    train(str(pairs['segmentation']), work_dir=str(folder), cfg_options={'train_cfg.max_epochs': 1})
    return folder


def test_of_what_is_deployed(trained):
    logged, run = describe(trained), evaluate(trained)
    assert logged['progress'] == run['progress'] == '1 of 1 epochs' and logged['measured'] == 'validation at epoch 1'
    assert logged['value'] == pytest.approx(run['value'], abs=0.01) and 'in plain mmseg' in run['measured']
    assert logged['seconds_per_step'] > 0, 'also of a training that is too short to be logged'
    assert run['metric'] == 'mIoU' and run['value'] == pytest.approx(run['metrics']['mIoU'], abs=0.01)
    assert (trained / 'student' / 'segmentation_cankd_student.pth').exists() and run['parameters'] > 1000
    before = (trained / 'result.json').stat().st_mtime
    assert evaluate(trained) == run and (trained / 'result.json').stat().st_mtime == before


@pytest.mark.parametrize('file', ['result.json', 'usage.json', 'training.json'])
@pytest.mark.parametrize('text', ['', '{"value": 3, "peak_'])
def test_half_of_a_file_that_a_kill_has_left_is_none(trained, file, text):
    run = evaluate(trained)
    (trained / file).write_text(text)
    assert describe(trained)['progress'] == '1 of 1 epochs'
    assert evaluate(trained)['value'] == run['value'] and load(str(trained / 'result.json'))['value'] == run['value']


def test_labels_that_are_kept_elsewhere_leave_the_validation(trained, monkeypatch):
    (trained / 'result.json').unlink(missing_ok=True)
    config = next(trained.glob('*.py'))
    cfg = Config.fromfile(str(config))
    cfg.test_evaluator = dict(cfg.test_evaluator, format_only=True, output_dir='somewhere')
    cfg.dump(str(config))
    run, logged = evaluate(trained), describe(trained)
    keys = ('metric', 'value', 'metrics', 'measured')
    assert [run[key] for key in keys] == [logged[key] for key in keys] and run['parameters'] > 1000


def test_nothing_to_evaluate(tmp_path):
    with pytest.raises(SetupError, match='There is no checkpoint of a training in'):
        evaluate(tmp_path)
