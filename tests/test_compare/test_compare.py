"""A comparison of methods from end to end, and what it makes of its figures."""

import io
import json
import shutil

import pytest
from mmengine.fileio import load
from scipy import stats

from cankd_mm.apis.config import load_config
from cankd_mm.compare import compare, results_table
from cankd_mm.compare.plan import ALONE, MONITOR, method_configs, plan
from cankd_mm.compare.report import blocks_table, paired_difference, write_report
from cankd_mm.compare.run import _blocks
from cankd_mm.errors import SetupError
from cankd_mm.runs import Slots
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

METHODS = sorted((ROOT / 'configs' / 'methods').glob('*.py')) + sorted(
    (ROOT / 'configs/methods/ablations').glob('*.py')
)


def fits(method, task):
    other = dict(detection='segmentation', segmentation='detection')[task]
    return not method.stem.endswith(other)


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
@pytest.mark.parametrize('method', METHODS, ids=[path.stem for path in METHODS])
def test_every_method_trains(pairs, tmp_path, task, method):
    """One iteration through `train`, whose preflight looks at losses and gradients."""
    from cankd_mm.apis import train

    if not fits(method, task):
        pytest.skip('for the other task')
    cfg = method_configs(str(pairs[task]), [str(method)])[method.stem]
    cfg.train_cfg.update(max_epochs=1, val_interval=9)
    cfg.train_dataloader.dataset.indices = 4
    cfg.dump(str(tmp_path / 'method.py'))
    runner = train(str(tmp_path / 'method.py'), work_dir=str(tmp_path / 'run'))
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert runner.iter == 1 and 'get no gradient' not in log and 'is exactly zero' not in log


def test_methods_change_nothing_but_the_distillation(pairs):
    pair = str(pairs['detection'])
    configs = method_configs(pair, [str(ROOT / 'configs/methods/pkd.py')], {'train_cfg.max_epochs': 9})
    assert list(configs) == [ALONE, 'detection', 'pkd']
    alone, cankd, pkd = configs.values()
    assert alone.model.to_dict() == {k: v for k, v in cankd.model.architecture.to_dict().items() if k != '_scope_'}
    assert pkd.model.distiller.loss.to_dict() == dict(type='PKDLoss', loss_weight=10)
    assert all(cfg.train_cfg.max_epochs == 9 for cfg in configs.values())
    for key in ('optim_wrapper', 'train_dataloader', 'param_scheduler', 'val_dataloader'):
        assert alone[key] == cankd[key] == pkd[key], key


def test_comparison_from_end_to_end(pairs, forked, tmp_path):
    """Two methods, two seeds; the second call trains nothing, a third adds a seed."""
    methods = [str(ROOT / 'configs/methods/pkd.py')]
    options = {'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1, 'train_dataloader.dataset.indices': 4}
    arguments = dict(work_dir=str(tmp_path), cfg_options=options, place=Slots(2))
    stream = io.StringIO()
    results = compare(str(pairs['segmentation']), methods, [0, 1], stream=stream, **arguments)
    assert stream.getvalue().count('finished') == 6
    assert {(run['method'], run['seed']) for run in results['runs']} == {
        (method, seed) for method in (ALONE, 'segmentation', 'pkd') for seed in (0, 1)
    }
    assert results['metric'] == 'mIoU'
    for run in results['runs']:
        assert run['value'] == pytest.approx(run['metrics']['mIoU'], abs=0.01)
        assert (run['distill_to_task'] is None) == (run['distill_loss'] is None) == (run['method'] == ALONE)
        assert run['loss'] == {ALONE: None, 'segmentation': 'CanKDLoss', 'pkd': 'PKDLoss'}[run['method']]
        assert run['peak_mb'] > 100 and run['seconds_per_step'] > 0
    assert load(str(tmp_path / 'results.json')) == json.loads(json.dumps(results))
    assert len((tmp_path / 'results.json').read_text().splitlines()) < 30, 'a line for each training'
    assert (tmp_path / 'results.md').read_text().strip() == results_table(results)
    assert (tmp_path / 'results.png').stat().st_size > 5000
    again = io.StringIO()
    assert compare(str(pairs['segmentation']), methods, [0, 1], stream=again, **arguments) == results
    assert again.getvalue() == ''
    # What is recorded need not be trained again where its folder is gone; what is new is.
    shutil.rmtree(tmp_path / 'pkd')
    assert compare(str(pairs['segmentation']), methods, [0, 1], stream=again, **arguments) == results
    assert again.getvalue() == ''
    # A call with fewer methods keeps what is recorded of the others.
    assert compare(str(pairs['segmentation']), [], [0], stream=again, **arguments) == results
    with pytest.raises(SetupError, match="results.json' holds figures of 'student alone' with another config"):
        compare(str(pairs['segmentation']), methods, [0], **{**arguments, 'cfg_options': {}})
    (tmp_path / 'results.json').unlink()
    with pytest.raises(SetupError, match='holds trainings of another config'):
        compare(str(pairs['segmentation']), methods, [0], **{**arguments, 'cfg_options': {}})


def test_paired_difference_is_students_t():
    ours, theirs = {0: 3.0, 1: 5.0, 2: 4.5, 7: 9.0}, {0: 1.0, 1: 4.0, 2: 4.0}
    difference = paired_difference(ours, theirs)
    low, high = stats.ttest_rel([3.0, 5.0, 4.5], [1.0, 4.0, 4.0]).confidence_interval(0.95)
    assert difference.mean == pytest.approx((low + high) / 2)
    assert difference.margin == pytest.approx((high - low) / 2)
    assert paired_difference({0: 1.0}, {0: 3.0}) == (-2.0, None)
    assert paired_difference({0: 1.0}, {1: 3.0}) is None


def test_report_is_made_again_from_its_json(tmp_path):
    def run(method, seed, value):
        return dict(method=method, seed=seed, value=value, seconds_per_step=0.1, peak_mb=10.0, distill_to_task=None)

    runs = [run(ALONE, 0, 10.0), run(ALONE, 1, 12.0), run('cankd', 0, 20.0), run('cankd', 1, 24.0), run('x', 0, 21.0)]
    results = dict(reference='cankd', metric='mIoU', methods=dict.fromkeys([ALONE, 'cankd', 'x']), runs=runs)
    text = write_report(results, tmp_path, 'again')
    assert '| student alone | 10.0 12.0 | 11.0 | 1.4 |' in text
    assert '| cankd | 20.0 24.0 | 22.0 | 2.8 | +11.0 ± 12.7 |  |' in text
    assert '| x | 21.0 | 21.0 |  | +11.0 | +1.0 |' in text
    assert (tmp_path / 'again.png').exists() and (tmp_path / 'again.md').exists()


def test_blocks_are_followed_over_the_training(tmp_path):
    """Measured every 20 iterations and logged every 10: at most some ten points, and the last."""
    logged = {'loss': 1.0, 'can/neck_0_ratio': 0.1}
    steps = [{**logged, 'step': 10 * i, 'can/neck_0_weight': 0.01 * (i // 2)} for i in range(2, 51)]
    blocks = _blocks([{'step': 10, 'loss': 1.0}, *steps])
    assert blocks['neck_0_weight'][:2] == [[20, 0.01], [60, 0.03]] and blocks['neck_0_weight'][-1] == [500, 0.25]
    assert len(blocks['neck_0_ratio']) == 13 and _blocks([{'step': 10, 'loss': 1.0}]) == _blocks([{}]) == {}
    run = dict(seed=0, value=50.0, seconds_per_step=0.1, peak_mb=10.0, distill_to_task=2.0, distill_loss=3.0)
    runs = [
        dict(run, method='cankd', loss='CanKDLoss', blocks=blocks),
        dict(run, method='no-block', loss='CanKDLoss', blocks={}),
        dict(run, method='pkd', loss='PKDLoss', blocks={}),
    ]
    results = dict(reference='cankd', metric='mIoU', methods=dict.fromkeys(['cankd', 'no-block', 'pkd']), runs=runs)
    text = write_report(results, tmp_path)
    assert '| cankd | 50.0 | 3.00 | 0.25 | 0.10 |' in text and '| no-block | 50.0 | 3.00 |  |  |' in text
    assert '| pkd | 50.0 | 3.00' not in text and (tmp_path / 'results_blocks.png').exists()
    assert blocks_table(dict(results, runs=runs[1:])) == ''
    assert blocks_table(dict(results, runs=[dict(runs[0], distill_loss=None, blocks={})])) == ''


def test_configs_are_written_without_a_training(pairs, tmp_path):
    """So that one of them can be trained by itself."""
    results = compare(str(pairs['detection']), ['configs/methods/pkd.py'], work_dir=str(tmp_path), train=False)
    assert results['runs'] == [] and results_table(results) == 'No training has finished yet.'
    assert load_config(str(tmp_path / 'pkd.py')).model.distiller.loss.type == 'PKDLoss'


@pytest.mark.parametrize(
    'change, words',
    [
        (dict(methods=['nowhere.py']), "method 'nowhere.py' does not exist"),
        (dict(methods=['configs/methods/pkd.py', 'configs/methods/pkd.py']), "Two methods .* 'pkd'"),
        (dict(cfg_options={'model.teacher_ckpt': 'nowhere.pth'}), "checkpoint 'nowhere.pth' does not exist"),
        (dict(cfg_options={'train_dataloader.dataset.data_root': 'nowhere'}), "'nowhere'"),
    ],
)
def test_mistakes(pairs, tmp_path, change, words):
    with pytest.raises(SetupError, match=words):
        compare(str(pairs['detection']), work_dir=str(tmp_path), **{'methods': [], **change})


def test_plain_config_is_no_pair(pairs):
    with pytest.raises(SetupError, match='is no distillation config'):
        compare(str(pairs['detection'].with_name('detection_student.py')), [])


def test_all_methods_of_a_seed_come_before_the_next_seed(pairs, tmp_path):
    configs = method_configs(str(pairs['detection']), ['configs/methods/pkd.py'])
    jobs = plan(configs, [4, 5], tmp_path)
    assert [job.options['randomness.seed'] for job in jobs] == [4] * 3 + [5] * 3
    assert jobs[0].iters == 2 * 2 and jobs[0].final == 'epoch_2.pth'
    assert load_config(jobs[2].config).model.distiller.loss.type == 'PKDLoss'
    monitors = [[hook.type for hook in load_config(job.config).get('custom_hooks', [])] for job in jobs[:3]]
    assert monitors == [[], [MONITOR], [MONITOR]]
