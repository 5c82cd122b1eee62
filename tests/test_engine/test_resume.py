"""A training that was interrupted ends as if it had not been, and a checkpoint of another one is refused."""

import os
import shutil
import signal
import sys
import time

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import save_checkpoint

from cankd_mm.apis import check, train
from cankd_mm.config.read import load_config, load_model_cfg
from cankd_mm.errors import SetupError
from cankd_mm.experiments.jobs import Job, run_jobs
from cankd_mm.models.builders import build_model
from cankd_mm.work_dir import claimed, find_resumable, state_of
from tests import forked
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


class Interruption(Exception):
    pass


@HOOKS.register_module(force=True)
class InterruptHook(Hook):
    """Stands in for a power cut after a number of iterations."""

    priority = 'LOWEST'

    def __init__(self, at):
        self.at = at

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.at:
            raise Interruption


BY_ITERATIONS = {
    'train_cfg': dict(_delete_=True, type='IterBasedTrainLoop', max_iters=7, val_interval=2),
    'param_scheduler': [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=7)],
    'train_dataloader.sampler.type': 'InfiniteSampler',
    'default_hooks.checkpoint.by_epoch': False,
    'default_hooks.checkpoint.interval': 2,
    'log_processor.by_epoch': False,
}
WITH_AVERAGE = {'custom_hooks': [dict(type='EMAHook')], 'train_cfg.max_epochs': 3, 'train_cfg.val_interval': 1}
BY_EPOCHS = {'train_cfg.max_epochs': 3, 'train_cfg.val_interval': 1}


@pytest.fixture
def pair(pairs):
    """The segmentation pair, with random numbers in the data, in the student and in the loss."""
    path = pairs['segmentation'].with_name('random_pair.py')
    path.write_text(
        f"_base_ = '{pairs['segmentation'].name}'\n"
        'train_pipeline = [*_base_.train_pipeline]\n'
        "train_pipeline.insert(2, dict(type='RandomFlip', prob=0.5))\n"
        'train_dataloader = dict(dataset=dict(pipeline=train_pipeline))\n'
        'model = dict(architecture=dict(decode_head=dict(dropout_ratio=0.5)))\n'
        "model.update(distiller=dict(connector=dict(type='MGDConnector', lambda_mgd=0.5)))\n"
    )
    return str(path)


@pytest.mark.parametrize(
    'options, at', [(BY_EPOCHS, 3), (BY_EPOCHS, 5), (BY_ITERATIONS, 3), (BY_ITERATIONS, 5), (WITH_AVERAGE, 5)]
)
def test_resumed_training_equals_an_uninterrupted_one(pair, tmp_path, options, at):
    options = {**options, 'randomness.seed': 7}
    whole = train(pair, work_dir=str(tmp_path / 'whole'), cfg_options=options)
    with pytest.raises(Interruption):
        cut = {**options, 'custom_hooks': [*options.get('custom_hooks', []), dict(type='InterruptHook', at=at)]}
        train(pair, work_dir=str(tmp_path / 'cut'), cfg_options=cut)
    resumed = train(pair, work_dir=str(tmp_path / 'cut'), cfg_options=options, resume='auto')
    assert resumed.iter == whole.iter
    names = [path.name for path in (tmp_path / 'whole').glob('*.pth') if path.name != 'student_best.pth']
    assert names
    for name in names:  # the last ones, and the best
        expected, found = (torch.load(tmp_path / folder / name) for folder in ('whole', 'cut'))
        for part in {'state_dict', 'ema_state_dict'} & set(expected):
            assert [key for key, value in expected[part].items() if not torch.equal(value, found[part][key])] == []


def test_seed_is_taken_from_the_checkpoint(pair, tmp_path):
    first = train(pair, work_dir=str(tmp_path), cfg_options={'train_cfg.max_epochs': 1})
    second = train(pair, work_dir=str(tmp_path), cfg_options={'train_cfg.max_epochs': 2}, resume='auto')
    assert second.train_dataloader.sampler.seed == first.train_dataloader.sampler.seed == first.seed


def test_nothing_to_resume_starts_as_the_config_says(pair, tmp_path):
    student = build_model(load_config(pair).model.architecture, 'student')
    save_checkpoint(dict(state_dict=student.state_dict()), str(tmp_path / 'start.pth'))
    options = {'load_from': str(tmp_path / 'start.pth')}
    lines = check(pair, work_dir=str(tmp_path / 'run'), cfg_options=options, resume='auto')
    count = len(list(student.parameters()))
    assert f'  student: {count} of {count} parameters from {tmp_path}/start.pth' in lines


def test_checkpoints_of_an_earlier_training_are_not_written_over_without_a_word(pair, tmp_path):
    words = 'holds checkpoints of an earlier training, which this one writes over: give another --work-dir'
    for training, resume in enumerate((None, 'auto', None)):
        train(str(pair), work_dir=str(tmp_path), resume=resume, cfg_options={'train_cfg.max_epochs': 1})
        log = max(tmp_path.glob('*/*.log'), key=lambda path: path.stat().st_mtime).read_text()
        assert (words in log) == (training == 2)


def test_preflight_leaves_no_trace(pair, tmp_path, monkeypatch):
    options = {'randomness.seed': 3, 'train_cfg.max_epochs': 1}
    checked = train(pair, work_dir=str(tmp_path / 'checked'), cfg_options=options)
    monkeypatch.setattr('cankd_mm.apis.preflight.PreflightHook.before_train', lambda self, runner: None)
    plain = train(pair, work_dir=str(tmp_path / 'plain'), cfg_options=options)
    expected, found = plain.model.state_dict(), checked.model.state_dict()
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []


def test_killed_training_resumes(pair, tmp_path):
    """SIGKILL while it writes its first checkpoint, or right after it."""
    command = [sys.executable, ROOT / 'tools/train.py', pair, '--work-dir', tmp_path, '--resume', '--cfg-options']
    command += ['train_cfg.max_epochs=2', 'train_cfg.val_begin=9', 'default_hooks.logger.interval=1']
    with open(tmp_path / 'out.txt', 'w') as out:
        process = forked.Popen(command, out, cwd=ROOT)
        deadline = time.time() + 120
        while not any(tmp_path.glob('.epoch_1.pth.*.part')) and not (tmp_path / 'epoch_1.pth').exists():
            assert process.poll() is None and time.time() < deadline, (tmp_path / 'out.txt').read_text()[-2000:]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = forked.run(command, capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-2000:]
    assert torch.load(tmp_path / 'epoch_2.pth')['meta']['iter'] == 4


def test_half_written_checkpoint_is_not_picked_up(tmp_path):
    (tmp_path / '.epoch_2.pth.1.part').write_bytes(b'half')
    assert find_resumable(tmp_path) is None
    save_checkpoint(dict(state_dict={}), str(tmp_path / 'epoch_1.pth'))
    assert find_resumable(tmp_path) == tmp_path / 'epoch_1.pth'
    (tmp_path / 'last_checkpoint').write_text('')  # killed while MMEngine writes the note
    assert find_resumable(tmp_path) == tmp_path / 'epoch_1.pth'
    with claimed(tmp_path):  # by the next training, which has its place on the disk again
        assert not (tmp_path / '.epoch_2.pth.1.part').exists()


@pytest.mark.parametrize('best', ['mIoU', pytest.param(['mIoU', 'aAcc'], marks=pytest.mark.full)])
@pytest.mark.parametrize('kind', ['cankd', 'student'])
def test_a_run_in_another_folder_removes_nothing_of_the_one_it_goes_on_from(pairs, tmp_path, kind, best):
    """Of a pair and of a plain model; a better checkpoint is found at once."""
    config = str(pairs['segmentation'].with_name(f'segmentation_{kind}.py'))
    options = {'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1, 'default_hooks.checkpoint.save_best': best}
    options.update({'default_hooks.checkpoint.max_keep_ckpts': 2, 'default_hooks.checkpoint.rule': 'greater'})
    train(config, work_dir=str(tmp_path / 'old'), cfg_options=options)
    saved = torch.load(tmp_path / 'old/epoch_1.pth')
    known = saved['message_hub']['runtime_info']
    known.update({key: -1.0 for key in known if key.startswith('best_score')})
    save_checkpoint(saved, str(tmp_path / 'old/epoch_1.pth'))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'old').glob('*')}
    assert any(path.name.startswith('best_') for path in before)
    options['train_cfg.max_epochs'] = 3
    resume = str(tmp_path / 'old/epoch_1.pth')
    runner = train(config, work_dir=str(tmp_path / 'new'), cfg_options=options, resume=resume)
    assert runner.epoch == 3 and list((tmp_path / 'new').glob('best_mIoU_epoch_[23].pth'))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / 'old').glob('*')} == before


@pytest.fixture(scope='module')
def trained(pairs, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('trained')
    runner = train(str(pairs['segmentation']), work_dir=str(work_dir), cfg_options={'train_cfg.val_interval': 1})
    return str(pairs['segmentation']), work_dir, runner


def test_checkpoint_holds_no_teacher(trained):
    _, work_dir, runner = trained
    saved = torch.load(work_dir / 'epoch_2.pth')['state_dict']
    prefixes = {key.split('.')[0] for key in saved}
    assert prefixes == {'backbone', 'neck', 'decode_head', 'distiller', '_extra_state'}
    assert any('can.bn.weight' in key for key in saved)
    assert runner.model.teacher.state_dict()


def test_training_leaves_the_teacher_as_it_was(trained):
    """Every parameter and buffer, bit by bit; the student's have moved."""
    pair, _, runner = trained
    model = Config.fromfile(pair).model
    saved = torch.load(model.teacher_ckpt)['state_dict']
    teacher = runner.model.teacher.state_dict()
    assert sorted(teacher) == sorted(saved) and all(torch.equal(teacher[key], saved[key]) for key in saved)
    assert any('running_mean' in key for key in saved)
    assert not any(torch.equal(runner.model.state_dict()[key], saved[key]) for key in ['neck.fpn_convs.0.conv.bias'])


def test_best_student_stands_by_itself(trained):
    pair, work_dir, runner = trained
    best = next(work_dir.glob('best_mIoU_epoch_*.pth'))
    student = torch.load(work_dir / 'student_best.pth', weights_only=True)
    build_model(Config.fromfile(pair).model.architecture, 'student').load_state_dict(student['state_dict'])
    saved = torch.load(best)['state_dict']
    assert all(torch.equal(value, saved[key]) for key, value in student['state_dict'].items())


def test_resume_refuses_another_teacher(trained, tmp_path):
    pair, work_dir, _ = trained
    teacher = Config.fromfile(pair).model.teacher
    torch.manual_seed(99)
    save_checkpoint(
        dict(state_dict=build_model(load_model_cfg(teacher), 'teacher').state_dict()), str(tmp_path / 't.pth')
    )
    with pytest.raises(SetupError, match='epoch_2.pth.* was distilled from another teacher'):
        train(pair, work_dir=str(work_dir), resume='auto', cfg_options={'model.teacher_ckpt': str(tmp_path / 't.pth')})


def test_resume_refuses_another_config(trained, pairs):
    _, work_dir, _ = trained
    with pytest.raises(SetupError, match="another training: model.architecture.type was 'EncoderDecoder' and is 'Ret"):
        train(str(pairs['detection']), work_dir=str(work_dir), resume='auto')


TRAINED_OTHERWISE = {
    'optim_wrapper.optimizer.lr': 0.5,
    'param_scheduler.1.T_max': 7,
    'train_dataloader.batch_size': 2,
    'model.architecture.data_preprocessor.size': (96, 96),
    'randomness.seed': 4,
    'model.distiller.loss.loss_weight': 3.0,
}


@pytest.mark.parametrize('key', TRAINED_OTHERWISE)
def test_resume_refuses_what_would_train_otherwise(trained, key):
    """And says so before anything is written, also where the training would be longer."""
    pair, work_dir, _ = trained
    before = {path: path.stat().st_mtime_ns for path in work_dir.glob('*.p*')}
    options, known = {'train_cfg.max_epochs': 5, key: TRAINED_OTHERWISE[key]}, state_of(work_dir)
    assert known['ended'] == {'max_epochs': 2}
    with pytest.raises(SetupError, match=rf"epoch_2.pth' is of another training: .*{key} was .* and is .*; give what"):
        train(pair, work_dir=str(work_dir), resume='auto', cfg_options=options)
    assert {path: path.stat().st_mtime_ns for path in work_dir.glob('*.p*')} == before and state_of(work_dir) == known


def test_resume_goes_on_by_the_same_schedule_for_longer_and_not_for_less(trained, tmp_path, monkeypatch):
    """What only watches may change."""
    pair, work_dir, _ = trained
    with pytest.raises(SetupError, match='max_epochs was 2 and is 1; give what it was trained with, or another'):
        train(pair, work_dir=str(work_dir), resume='auto', cfg_options={'train_cfg.max_epochs': 1})
    options = {
        'train_cfg.max_epochs': 3,
        'train_cfg.val_begin': 9,
        'train_dataloader.num_workers': 0,
        'custom_hooks': [dict(type='CanBlockMonitorHook', interval=1)],
        'default_hooks.logger.interval': 1,
        'val_dataloader.batch_size': 1,
    }
    resume, said = str(work_dir / 'epoch_2.pth'), []
    monkeypatch.setattr('cankd_mm.config.differences.print_log', lambda line, logger: said.append(line))
    runner = train(pair, work_dir=str(tmp_path), resume=resume, cfg_options=options)
    assert runner.epoch == 3
    assert said == [f'{resume} was to end at train_cfg.max_epochs 2, and goes on to 3 by the schedule that it has.']


@pytest.mark.parametrize('content', [b'', b'half of it', None], ids=['empty', 'half', 'no weights'])
@pytest.mark.parametrize('resume', ['auto', 'epoch_2.pth'])
def test_a_broken_checkpoint_is_named_with_the_whole_one_beside_it(trained, tmp_path, content, resume):
    pair, work_dir, _ = trained
    for name in ('epoch_1.pth', 'epoch_2.pth', 'last_checkpoint'):
        shutil.copy(work_dir / name, tmp_path)
    last = tmp_path / 'epoch_2.pth'
    if content is None:
        save_checkpoint(dict(state_dict={}), str(last))
    else:
        last.write_bytes(content)
    (tmp_path / 'epoch_3.pth').write_bytes(b'half of it')
    path = resume if resume == 'auto' else str(tmp_path / resume)
    with pytest.raises(SetupError, match=r"epoch_2.pth' .*: resume from '.*epoch_1.pth', the newest that is whole, or"):
        train(pair, work_dir=str(tmp_path), resume=path)
    with pytest.raises(SetupError, match="resume from '.*epoch_1.pth', the newest that is whole"):
        run_jobs([Job(tmp_path, pair)])
    (tmp_path / 'epoch_1.pth').unlink()
    with pytest.raises(SetupError, match="epoch_2.pth' (cannot be read .* write it again|holds no weights)"):
        train(pair, work_dir=str(tmp_path), resume=path)


def test_resume_refuses_a_file_without_an_optimizer(trained):
    pair, work_dir, _ = trained
    with pytest.raises(SetupError, match="student_best.pth' holds no state of an optimizer"):
        train(pair, work_dir=str(work_dir), resume=str(work_dir / 'student_best.pth'))


def test_teacher_of_a_foreign_checkpoint_is_not_taken(trained):
    """Other algorithms save the teacher, too: ours stays what its own file made it."""
    _, _, runner = trained
    model = runner.model
    before = {key: value.clone() for key, value in model.teacher.state_dict().items()}
    state = {**model.state_dict(), **{f'teacher.{key}': torch.ones_like(value) for key, value in before.items()}}
    model.load_state_dict(state, strict=False)
    assert all(torch.equal(value, before[key]) for key, value in model.teacher.state_dict().items())
