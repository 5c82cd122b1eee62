"""A comparison of methods from end to end, and what it makes of its figures."""

import io
import json
import shutil

import pytest
from mmengine.fileio import dump, load

from cankd_mm import apis
from cankd_mm.config.read import load_config
from cankd_mm.errors import SetupError
from cankd_mm.experiments.compare import compare
from cankd_mm.experiments.jobs import Local
from cankd_mm.experiments.report import ALONE, LONGER, results_table, verdicts
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

METHODS = sorted((ROOT / 'configs' / 'methods').glob('*.py')) + sorted(
    (ROOT / 'configs/methods/ablations').glob('*.py')
)


def written(pair, folder, methods, **options):
    """The configs that a comparison writes, by the name of their file."""
    compare(str(pair), list(map(str, methods)), work_dir=str(folder), train=False, cfg_options=options)
    return {path.stem: load_config(str(path)) for path in folder.glob('*.py')}


def fits(method, task):
    other = dict(detection='segmentation', segmentation='detection')[task]
    return not method.stem.endswith(other)


# One method for every type of loss, and two that start from the teacher.
EXAMPLES = ('cwd', 'fitnets', 'kl-segmentation', 'mgd', 'pkd', 'recommended')
CASES = [pytest.param(path, marks=[] if path.stem in EXAMPLES else pytest.mark.full, id=path.stem) for path in METHODS]


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
@pytest.mark.parametrize('method', CASES)
def test_every_method_trains(pairs, tmp_path, task, method):
    """One iteration through `train`, whose preflight looks at losses and gradients."""
    from cankd_mm.apis import train

    if not fits(method, task):
        pytest.skip('for the other task')
    cfg = written(pairs[task], tmp_path / 'configs', [method])[method.stem]
    cfg.train_cfg.update(max_epochs=1, val_begin=9)
    cfg.train_dataloader.dataset.indices = 4
    cfg.dump(str(tmp_path / 'method.py'))
    runner = train(str(tmp_path / 'method.py'), work_dir=str(tmp_path / 'run'))
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert runner.iter == 1 and 'get no gradient' not in log
    assert ('is exactly zero' in log) == method.stem.startswith('init-')


def test_methods_change_nothing_but_the_distillation(pairs, tmp_path):
    methods = [ROOT / 'configs/methods/pkd.py']
    configs = written(pairs['detection'], tmp_path, methods, **{'train_cfg.max_epochs': 9})
    alone, cankd, pkd = (configs.pop(name) for name in ('student-alone', 'cankd', 'pkd'))
    assert not configs
    assert alone.model.to_dict() == {k: v for k, v in cankd.model.architecture.to_dict().items() if k != '_scope_'}
    assert pkd.model.distiller.loss.to_dict() == dict(type='PKDLoss', loss_weight=10)
    assert all(cfg.train_cfg.max_epochs == 9 for cfg in (alone, cankd, pkd))
    for key in ('optim_wrapper', 'train_dataloader', 'param_scheduler', 'val_dataloader'):
        assert alone[key] == cankd[key] == pkd[key], key
    monitors = [[hook.type for hook in cfg.get('custom_hooks', [])] for cfg in (alone, cankd, pkd)]
    assert monitors == [[], ['CanBlockMonitorHook'], ['CanBlockMonitorHook']]


SECONDS = {ALONE: 0.1, 'cankd': 0.14, 'pkd': 0.2}
BY_ITERATIONS = """
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=1000, val_interval=250)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=100),
    dict(type='MultiStepLR', by_epoch=False, begin=100, end=1000, milestones=[601, 900], gamma=0.1)]
"""
BY_EPOCHS = """
train_cfg = dict(max_epochs=10, val_interval=5, val_begin=2)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=1, T_max=9)]
"""


@pytest.mark.parametrize(
    'text, lengths, schedules',
    [
        (BY_ITERATIONS, dict(max_iters=1400, val_interval=350), [(0, 140), (140, 1400, [841, 1260])]),
        (BY_EPOCHS, dict(max_epochs=14, val_interval=7, val_begin=3), [(0, 1), (1, 13)]),
    ],
)
def test_as_much_time_stretches_the_whole_schedule(pairs, tmp_path, text, lengths, schedules):
    """By the median of the slowest method and of the student alone; the first figures choose for all calls."""
    pair = pairs['detection'].with_name('scheduled.py')
    pair.write_text(f"_base_ = '{pairs['detection'].name}'\n{text}")
    results = compare(str(pair), [], work_dir=str(tmp_path), train=False)
    times = {ALONE: (0.1, 0.1, 9.0), 'cankd': (0.14, 0.1, 0.2)}
    runs = [
        dict(method=method, seed=seed, value=0.0, metric='box AP', seconds_per_step=seconds)
        for method, found in times.items()
        for seed, seconds in enumerate(found)
    ]
    dump(dict(results, runs=runs), str(tmp_path / 'results.json'))
    for _ in range(2):
        compare(str(pair), [], work_dir=str(tmp_path), train=False)
        longer, alone = (
            load_config(str(tmp_path / f'{name}.py')) for name in ('student-alone-for-as-much-time', 'student-alone')
        )
        assert {key: longer.train_cfg[key] for key in lengths} == lengths
        keys = ('begin', 'end', 'T_max', 'milestones')
        found = [tuple(entry[key] for key in keys if key in entry) for entry in longer.param_scheduler]
        assert found == schedules
        for cfg in (longer, alone):
            for key in ('train_cfg', 'param_scheduler'):
                cfg.pop(key)
            cfg.pop('work_dir')
        assert longer.to_dict() == alone.to_dict()
        stored = load(str(tmp_path / 'results.json'))
        dump(dict(stored, runs=runs[:1]), str(tmp_path / 'results.json'))


@pytest.mark.parametrize(
    'text, name',
    [
        ('', 'cankd'),
        ("loss = dict(_delete_=True, type='mmrazor.PKDLoss', loss_weight=10)", 'pkd'),
    ],
)
@pytest.mark.parametrize('begun', [False, True])
def test_the_pair_is_called_by_its_loss(pairs, tmp_path, text, name, begun):
    """Whatever its file is called; a comparison that was begun by the file's name, as in 0.2.0, keeps that."""
    pair = pairs['segmentation'].with_name('pair_of-mine.py')
    pair.write_text(f"_base_ = '{pairs['segmentation'].name}'\nmodel = dict(distiller=dict({text}))\n")
    if begun:
        (tmp_path / 'pair').mkdir()
        name = 'pair'
    for _ in range(2):
        results = compare(str(pair), [], work_dir=str(tmp_path), train=False)
        assert results['reference'] == name and list(results['methods']) == [ALONE, name]
        shutil.rmtree(tmp_path / 'pair', ignore_errors=True)


def test_comparison_from_end_to_end(pairs, forked, tmp_path):
    """Two methods, two seeds; the second call trains nothing."""
    methods = [str(ROOT / 'configs/methods/pkd.py')]
    options = {'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1, 'train_dataloader.dataset.indices': 4}
    arguments = dict(work_dir=str(tmp_path), cfg_options=options, place=Local(2), longer=False)
    stream = io.StringIO()
    results = compare(str(pairs['segmentation']), methods, [0, 1], stream=stream, **arguments)
    assert stream.getvalue().count('finished') == 6
    started = [line for line in stream.getvalue().splitlines() if line.startswith('started')]
    assert [line[-5:] for line in started] == ['seed0'] * 3 + ['seed1'] * 3, 'all methods of a seed before the next'
    assert {(run['method'], run['seed']) for run in results['runs']} == {
        (method, seed) for method in (ALONE, 'cankd', 'pkd') for seed in (0, 1)
    }
    assert results['metric'] == 'mIoU'
    teacher = apis.test(str(pairs['segmentation']), teacher=True, work_dir=str(tmp_path / 'teacher'))
    assert results['teacher'] == pytest.approx(teacher['mIoU'], abs=0.01)
    for run in results['runs']:
        assert run['value'] == pytest.approx(run['metrics']['mIoU'], abs=0.01)
        assert (run['distill_to_task'] is None) == (run['distill_loss'] is None) == (run['method'] == ALONE)
        assert run['loss'] == {ALONE: None, 'cankd': 'CanKDLoss', 'pkd': 'PKDLoss'}[run['method']]
        assert run['peak_mb'] > 100 and run['seconds_per_step'] > 0
        assert run['measured'] == 'exported student in plain mmseg' and run['parameters'] > 0
    assert len({run['parameters'] for run in results['runs']}) == 1
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
    # The student alone for as much time comes last, and is as long in every further call.
    results['runs'] = [dict(run, seconds_per_step=SECONDS[run['method']]) for run in results['runs']]
    dump(results, str(tmp_path / 'results.json'))
    arguments.pop('longer')
    longer = compare(str(pairs['segmentation']), methods, [0, 1], stream=again, **arguments)
    assert again.getvalue().count('finished') == 2 and len(longer['runs']) == 8
    assert longer['longer'] == dict(method='pkd', ratio=2.0, alone=1, length=2, unit='epochs')
    assert {run['progress'] for run in longer['runs'] if run['method'] == LONGER} == {'2 of 2 epochs'}
    assert 'has 2 epochs in place of 1: a step of pkd takes 2.00 times as long.' in verdicts(longer)
    longer['runs'] = [dict(run, seconds_per_step=1.0) for run in longer['runs']]
    dump(longer, str(tmp_path / 'results.json'))
    assert compare(str(pairs['segmentation']), methods, [0, 1], stream=io.StringIO(), **arguments) == longer
    other = dict(arguments, cfg_options={})
    with pytest.raises(SetupError, match='holds trainings of another config'):
        compare(str(pairs['segmentation']), methods, [0], **other)
    for method in results['methods']:
        shutil.rmtree(tmp_path / method.replace(',', '').replace(' ', '-'), ignore_errors=True)
    with pytest.raises(SetupError, match="results.json' holds figures of 'student alone' with another config"):
        compare(str(pairs['segmentation']), methods, [0], **other)


def test_configs_are_written_without_a_training(pairs, tmp_path):
    """So that one of them can be trained by itself."""
    results = compare(str(pairs['detection']), ['configs/methods/pkd.py'], work_dir=str(tmp_path), train=False)
    assert results['runs'] == [] and results_table(results) == 'No training has finished yet.'
    assert load_config(str(tmp_path / 'pkd.py')).model.distiller.loss.type == 'PKDLoss'


def test_half_of_its_figures_is_named(pairs, tmp_path):
    arguments = dict(methods=[], work_dir=str(tmp_path), train=False)
    compare(str(pairs['detection']), **arguments)
    (tmp_path / 'results.json').write_text('{"command": "ca')
    with pytest.raises(SetupError, match="results.json' is no whole JSON file .Unterminated .*: put a whole one there"):
        compare(str(pairs['detection']), **arguments)


@pytest.mark.parametrize(
    'change, words',
    [
        (dict(methods=['nowhere.py']), "'nowhere.py' does not exist"),
        (dict(methods=['configs/methods/pkd.py', 'configs/methods/pkd.py']), "Two methods .* 'pkd'"),
        (dict(cfg_options={'model.teacher_ckpt': 'nowhere.pth'}), "checkpoint 'nowhere.pth' does not exist"),
        (dict(cfg_options={'train_dataloader.dataset.data_root': 'nowhere'}), "'nowhere'"),
        (dict(cfg_options={'val_evaluator.format_only': True}), 'does not tell which figure'),
    ],
)
def test_mistakes(pairs, tmp_path, change, words):
    with pytest.raises(SetupError, match=words):
        compare(str(pairs['detection']), work_dir=str(tmp_path), **{'methods': [], **change})


def test_checkpoints_in_another_folder_are_apart(pairs, tmp_path):
    """MMEngine adds the last part of a work folder to `out_dir`, which is the seed of every method."""
    options = {'default_hooks.checkpoint.out_dir': str(tmp_path / 'elsewhere')}
    compare(str(pairs['detection']), [], work_dir=str(tmp_path / 'run'), cfg_options=options, train=False)
    folders = [
        load_config(str(path)).default_hooks.checkpoint.out_dir for path in sorted((tmp_path / 'run').glob('*.py'))
    ]
    assert folders == [str(tmp_path / 'elsewhere' / 'run' / name) for name in ('cankd', 'student-alone')]


def test_plain_config_is_no_pair(pairs):
    with pytest.raises(SetupError, match='is no distillation config'):
        compare(str(pairs['detection'].with_name('detection_student.py')), [])
