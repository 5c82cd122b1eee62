"""What watches over a training: preflight, finite losses, the validation of student and teacher."""

import functools
import random
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, METRICS, RUNNERS
from mmengine.runner import EpochBasedTrainLoop, save_checkpoint

from cankd_mm.apis import check, train
from cankd_mm.config.read import load_config
from cankd_mm.demo.dataset import prepare
from cankd_mm.engine import CanBlockMonitorHook, DistillRunner, DistillValLoop, FiniteLossHook, IterationSeedHook
from cankd_mm.errors import SetupError
from cankd_mm.models.builders import build_model
from cankd_mm.work_dir import read_scalars

TASKS = ['detection', 'segmentation']


def log_of(work_dir):
    return next(work_dir.glob('*/*.log')).read_text()


def said(pair, **options):
    """What `cankd check` says, with options of the config."""
    return '\n'.join(check(str(pair), cfg_options=options))


@pytest.mark.parametrize('task', TASKS)
def test_check_reports(pairs, task):
    lines = check(str(pairs[task]), teacher_eval=3)
    doubtful = [line for line in lines if line.startswith('warning: ')]
    assert len(lines) < 20 and lines[-1] == f'doubtful: {len(doubtful)} warnings above'
    assert any('teacher finds nothing on 3 validation images' in line for line in doubtful) == (task == 'detection')
    log = '\n'.join(lines)
    assert 'teacher' in log and 'M parameters, all from /' in log
    assert "teacher's input: mean [123.68, 116.28, 103.53]" in log and "which is also the student's" in log
    assert 'classes: data ' in log and 'student starts from random weights' in log
    for level, side in enumerate((16, 8, 4)):
        shape = f'(4, 64, {side}, {side})'
        line = f"loss_neck_{level}: CanKDLoss of the student's neck level {level} and the teacher's neck level {level}"
        assert f'{line}, {shape}, weight 5.0: ' in log
    assert 'of the task loss; holds' in log and 'distillation losses' in log
    metric = dict(detection='coco/bbox_mAP', segmentation='aAcc')[task]
    assert f'teacher on 3 validation images: {metric} ' in log


@pytest.mark.parametrize('task', TASKS)
def test_check_of_what_is_ready(pairs, task, tmp_path):
    """With scenes enough that every class occurs."""
    prepare(tmp_path, num_train=30, num_small=30, num_val=30)
    loaders = [f'{split}_dataloader.dataset.data_root' for split in ('train', 'val', 'test')]
    options = {**dict.fromkeys(loaders, f'{tmp_path}/{task}/'), 'auto_scale_lr.base_batch_size': 4}
    if task == 'detection':
        files = [f'{split}_evaluator.ann_file' for split in ('val', 'test')]
        options.update(dict.fromkeys(files, f'{tmp_path}/detection/annotations/val.json'))
    lines = said(pairs[task], **options).splitlines()
    assert lines[-1] == 'ready: nothing is doubtful' and len(lines) < 20 and 'warning' not in str(lines)
    assert '  data: 30 images for training, 30 images for validation' in lines


def test_check_leaves_nothing_behind_and_a_training_opens_with_its_lines(pairs, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    options = {'randomness.seed': 0, 'train_cfg.max_epochs': 1, 'train_cfg.val_begin': 9}
    *lines, _ = said(pairs['detection'], **options).splitlines()
    assert not list(tmp_path.iterdir()) and capfd.readouterr() == ('', '')
    train(str(pairs['detection']), work_dir='run', cfg_options=options)
    log = log_of(Path('run'))
    plain = [line for line in lines if not line.startswith('warning: ')]
    assert len(plain) > 10 and '\n'.join(plain) in log and 'batch of 4 images' in log
    assert all(line.replace('warning: ', 'WARNING - ') in log for line in lines[len(plain) :])


NOT_FOR_4 = 'for 8 images at once, and this is a batch of 4 images (one process): give --auto-scale-lr, or set'
ALL_AT_ONCE = 'for 4 images at once, and this is a batch of 8 images (one process, accumulated over 2 iterations): set'


@pytest.mark.parametrize(
    'options, scale, processes, line, doubt',
    [
        ({}, False, 1, '4 images (one process), learning rate 0.002 of AdamW, which is for 8 images', NOT_FOR_4),
        ({}, False, 2, '8 images (4 each on 2 processes), learning rate 0.002 of AdamW, which is for 8 images', None),
        ({}, True, 1, '4 images (one process), learning rate 0.001 of AdamW, scaled from 0.002 for 8 images', None),
        ({'optim_wrapper.accumulative_counts': 2}, False, 1, 'over 2 iterations), learning rate 0.002 of AdamW', None),
        ({'optim_wrapper.accumulative_counts': 2}, True, 1, 'learning rate 0.001 of AdamW', ALL_AT_ONCE),
        ({'auto_scale_lr': None}, False, 1, '4 images (one process), learning rate 0.002 of AdamW\n', None),
    ],
)
def test_learning_rate_and_the_batch_that_it_is_for(pairs, monkeypatch, options, scale, processes, line, doubt):
    monkeypatch.setattr(DistillRunner, 'world_size', processes)
    lines = '\n'.join(check(str(pairs['detection']), auto_scale_lr=scale, cfg_options=options))
    assert line in lines and ('the learning rate is for' in lines) == bool(doubt) and (doubt or '') in lines


def test_weights_that_the_student_starts_from_are_counted(pairs, tmp_path):
    """From a file that fits a part of the backbone, from one that fits nothing, and from the teacher."""
    model = Config.fromfile(str(pairs['detection'])).model
    backbone = build_model(model.architecture, 'student').backbone.state_dict()
    some = {key: value for key, value in backbone.items() if key.startswith('layer')}
    logs = {}
    for name, state in dict(some=some, none={'a': torch.ones(1)}).items():
        save_checkpoint(dict(state_dict=state), str(tmp_path / f'{name}.pth'))
        init_cfg = dict(_delete_=True, type='Pretrained', checkpoint=str(tmp_path / f'{name}.pth'))
        options = {'model.architecture.backbone.init_cfg': init_cfg, 'model.init_from_teacher': ['bbox_head']}
        logs[name] = said(pairs['detection'], **options)
    own = sum('num_batches' not in key and 'running' not in key for key in backbone)
    expected = f"student's backbone: {own - 3} of {own} parameters from {tmp_path}/some.pth, not conv1.weight"
    assert expected in logs['some']
    assert "student's bbox_head: all parameters from the teacher's bbox_head" in logs['some']
    assert f"warning: student's backbone: 0 of {own} parameters" in logs['none']


def test_teacher_is_rated_on_the_images_it_has_seen_alone(pairs, monkeypatch):
    """With ground truth as its predictions, a teacher has a perfect score on a part of the images."""
    from mmengine.structures import InstanceData

    def perfect(self, batch):
        samples = self.data_preprocessor(batch, False)['data_samples']
        for sample in samples:
            truth = sample.gt_instances
            scores = torch.ones(len(truth.bboxes))
            sample.pred_instances = InstanceData(bboxes=truth.bboxes, labels=truth.labels, scores=scores)
        return samples

    monkeypatch.setattr('mmdet.models.RetinaNet.val_step', perfect)
    log = '\n'.join(check(str(pairs['detection']), teacher_eval=2))
    assert 'teacher on 2 validation images: coco/bbox_mAP 1,' in log and 'finds nothing' not in log


@pytest.mark.parametrize(
    'options, words',
    [
        ({'model.distiller.loss.loss_weight': 1e-6}, 'times the task loss: look at loss_weight'),
        ({'model.architecture.bbox_head.num_classes': 15}, 'predicts 15 classes, the data has 10'),
    ],
)
def test_doubts_are_warnings(pairs, options, words):
    assert any(
        line.startswith('warning: ') and words in line for line in said(pairs['detection'], **options).split('\n')
    )


def test_levels_are_reported_as_they_count(pairs):
    found = {}
    for weights in (None, 'pixels'):
        options = {'model.distiller.level_weights': weights, 'randomness.seed': 0}
        options['model.distiller.loss.loss_weight'] = 450.0  # nine times the recommended one, which is no doubt
        log = said(pairs['detection'], **options)
        assert 'look at loss_weight' not in log
        lines = re.findall(r'loss_neck_\d: .* weight 450.0: ([\d.]+), [\d.]+ of the task loss', log)
        found[weights] = torch.tensor([float(value) for value in lines])
    torch.testing.assert_close(found['pixels'], found[None] / torch.tensor([1, 4, 16]), rtol=1e-3, atol=0)


def test_parameters_without_gradient_are_named(pairs, monkeypatch):
    from cankd_mm.models import CanKDLoss

    build = CanKDLoss.__init__

    def with_idle_layer(self, *args, **kwargs):
        build(self, *args, **kwargs)
        self.idle = torch.nn.Linear(2, 2)

    monkeypatch.setattr(CanKDLoss, '__init__', functools.wraps(build)(with_idle_layer))
    names = 'distiller.distill_losses.loss_neck_0.idle.weight'
    assert f'6 parameters get no gradient, such as {names}' in said(pairs['detection'])


def test_more_classes_in_the_data_than_predicted(pairs):
    with pytest.raises(
        SetupError, match="data set has 11 classes and the model's decode_head predicts 7: set num_classes"
    ):
        options = {
            'model.architecture.decode_head.num_classes': 7,
            'model.architecture.decode_head.loss_decode.class_weight': None,
        }
        check(str(pairs['segmentation']), cfg_options=options)


def test_check_of_a_plain_config(pairs, monkeypatch):
    """Its data, batch and learning rate; and nothing is trained."""
    student = str(pairs['detection'].with_name('detection_student.py'))
    monkeypatch.setattr(EpochBasedTrainLoop, 'run_iter', None)
    first, *lines, verdict = check(student, cfg_options={'auto_scale_lr.base_batch_size': 4})
    assert first == f'preflight of {student}' and lines[0] == '  data: 8 images for training, 4 images for validation'
    assert lines[1].startswith('  batch of 4 images (one process), learning rate') and verdict.startswith('doubtful: ')
    assert all(line.startswith('warning: No object of ') for line in lines[2:]), 'which so few images lack'
    *others, doubt, _ = check(student, cfg_options={'auto_scale_lr.base_batch_size': 16})
    assert doubt.startswith('warning: the learning rate is for 16 images at once') and len(others) == len(lines) + 1
    with pytest.raises(SetupError, match='has 10 classes and the model.s bbox_head predicts 7: set num_classes'):
        check(student, cfg_options={'model.bbox_head.num_classes': 7})
    for look in (check, train):
        with pytest.raises(SetupError, match='--teacher-eval looks at a distillation'):
            look(student, teacher_eval=2)


def test_loss_that_is_no_number_stops_the_training(pairs, tmp_path):
    @HOOKS.register_module(force=True)
    class PoisonHook(Hook):
        """Spoils one level of the neck from the second iteration on."""

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            runner.model.neck.fpn_convs[1].conv.bias.data.fill_(float('nan'))

    options = {'custom_hooks': [dict(type='PoisonHook')], 'train_cfg.val_begin': 9}
    with pytest.raises(SetupError, match=r'Iteration 2: .*distill.loss_neck_1 is nan on the images .*\d\d\d\d.png'):
        train(str(pairs['detection']), work_dir=str(tmp_path), cfg_options=options)
    assert not (tmp_path / 'epoch_1.pth').exists()


def test_finite_losses_pass():
    hook = FiniteLossHook()
    runner = SimpleNamespace(iter=0, work_dir='', optim_wrapper=None)
    hook.after_train_iter(runner, 0, outputs={'loss': torch.ones(()), 'student.loss_cls': 1.0, 'acc': float('nan')})
    with pytest.raises(SetupError, match='student.loss_cls is inf on the images of this batch'):
        hook.after_train_iter(runner, 0, outputs={'student.loss_cls': float('inf')})


@pytest.mark.parametrize('when, evaluated', [('once', 1), ('always', 2), ('never', 0)])
def test_student_and_teacher_are_validated(pairs, tmp_path, monkeypatch, when, evaluated):
    options = {'train_cfg.val_interval': 1, 'val_cfg': dict(type='DistillValLoop', teacher=when)}
    calls, evaluate = [], DistillValLoop.evaluate_teacher
    monkeypatch.setattr(DistillValLoop, 'evaluate_teacher', lambda loop: calls.append(1) or evaluate(loop))
    runner = train(str(pairs['segmentation']), work_dir=str(tmp_path), cfg_options=options)
    assert len(calls) == evaluated
    lines = next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()
    assert sum('"mIoU"' in line for line in lines) == 2
    # MMEngine logs the last known value of a metric with every validation.
    assert sum('"teacher/mIoU"' in line for line in lines) == (2 if evaluated else 0)
    assert all('mIoU' in entry for entry in read_scalars(tmp_path) if 'loss' not in entry)
    assert not runner.model.teacher.training


def test_student_that_detects_nothing_is_validated(pairs, tmp_path):
    """It has no metrics, the teacher has: the best checkpoint has nothing to be chosen by, and training goes on."""
    options = {
        'model.architecture.test_cfg.score_thr': 2.0,
        'train_cfg.val_interval': 1,
        'default_hooks.checkpoint.save_best': 'coco/bbox_mAP',
    }
    runner = train(str(pairs['detection']), work_dir=str(tmp_path), cfg_options=options)
    assert runner.iter == 4 and not list(tmp_path.glob('best*'))


def test_validation_shows_the_teacher_what_tools_test_does(pairs, tmp_path):
    """Images as its own config normalizes them, which here differs from the student's."""
    from cankd_mm.apis import test as evaluate

    pair = pairs['segmentation']
    teacher, own = pair.with_name('caffe_teacher.py'), pair.with_name('caffe_pair.py')
    teacher.write_text(
        f"_base_ = '{Config.fromfile(str(pair)).model.teacher}'\n"
        'model = dict(data_preprocessor=dict(mean=[103.5, 116.3, 123.7], std=[1.0, 1.0, 1.0], bgr_to_rgb=False))\n'
    )
    own.write_text(f"_base_ = '{pair.name}'\nmodel = dict(teacher='{teacher}')\n")
    train(str(own), work_dir=str(tmp_path))
    reported = next(entry for entry in read_scalars(tmp_path) if 'teacher/mIoU' in entry)
    alone = evaluate(str(own), teacher=True, work_dir=str(tmp_path / 'test'))
    other = evaluate(str(pair), teacher=True, work_dir=str(tmp_path / 'test'))
    assert alone['mAcc'] != other['mAcc']
    for key in ('mIoU', 'mAcc', 'aAcc'):
        assert reported[f'teacher/{key}'] == pytest.approx(alone[key], abs=1e-6)


def runner_of(pair, work_dir, **changes):
    """A runner as `tools/train.py` of MMDetection builds it."""
    cfg = Config.fromfile(str(pair))
    cfg.merge_from_dict({'work_dir': str(work_dir), **changes})
    return RUNNERS.build(cfg)


def test_runner_keeps_what_the_config_says(pairs, tmp_path):
    runner = runner_of(pairs['segmentation'], tmp_path)
    hooks = {type(hook).__name__: hook for hook in runner.hooks}
    assert {'FiniteLossHook', 'BestStudentHook', 'IterationSeedHook'} <= set(hooks)
    assert hooks['CheckpointHook'].save_best == ['mIoU'] and hooks['CheckpointHook'].max_keep_ckpts == 2
    assert type(runner.val_loop).__name__ == 'DistillValLoop'
    changes = {
        'default_hooks.best_student': None,
        'default_hooks.checkpoint.save_best': 'aAcc',
        'default_hooks.checkpoint.max_keep_ckpts': 1,
        'val_cfg': dict(type='DistillValLoop', teacher='never'),
    }
    runner = runner_of(pairs['segmentation'], tmp_path, **changes)
    hooks = {type(hook).__name__: hook for hook in runner.hooks}
    assert 'BestStudentHook' not in hooks and hooks['CheckpointHook'].save_best == ['aAcc']
    assert hooks['CheckpointHook'].max_keep_ckpts == 2 and runner.val_loop.teacher == 'never'


@pytest.mark.parametrize('different', [False, True])
def test_processes_draw_numbers_of_their_own_where_the_config_says_so(pairs, tmp_path, monkeypatch, different):
    """With the hook that seeds iterations as without it: MMEngine adds the rank to the seed."""
    drawn = []
    for rank in (0, 1):
        monkeypatch.setattr('mmengine.runner.utils.get_rank', lambda rank=rank: rank)
        runner = runner_of(pairs['segmentation'], tmp_path, randomness=dict(seed=3, diff_rank_seed=different))
        IterationSeedHook().before_train_epoch(runner)
        drawn.append((torch.rand(()).item(), np.random.rand(), random.random()))
    assert all((first != second) == different for first, second in zip(*drawn))


def test_gradient_scaler_may_overflow_until_its_scale_is_one():
    scaler = SimpleNamespace(is_enabled=lambda: True)
    runner = SimpleNamespace(iter=0, work_dir='', optim_wrapper=SimpleNamespace(loss_scaler=scaler))
    bad, good = dict(loss=torch.tensor(float('inf'))), dict(loss=torch.ones(()))
    hook = FiniteLossHook()
    for outputs in (*[bad] * 16, good, *[bad] * 16):  # from 65536 to 1, twice
        hook.after_train_iter(runner, 0, outputs={**outputs, 'student.loss_cls': outputs['loss']})
    with pytest.raises(SetupError, match='student.loss_cls is inf'):
        hook.after_train_iter(runner, 0, outputs={**bad, 'student.loss_cls': bad['loss']})


def test_monitor_measures_what_a_block_adds():
    model = build_model_with_blocks()
    block = model.distiller.distill_losses['loss_a'].can
    torch.nn.init.constant_(block.bn.weight, 0.5)
    scalars = {}
    hub = SimpleNamespace(update_scalar=lambda name, value: scalars.update({name: float(value)}))
    runner, hook = SimpleNamespace(model=model, iter=0, message_hub=hub), CanBlockMonitorHook(interval=1)
    x, t = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    hook.before_train_iter(runner, 0)
    z = block(x, t)
    hook.after_train_iter(runner, 0)
    assert scalars['train/can/a_ratio'] == pytest.approx(float((z - x).norm() / x.norm()), rel=1e-5)
    assert scalars['train/can/a_weight'] == 0.5


def build_model_with_blocks():
    from cankd_mm.models import CanKDLoss

    losses = torch.nn.ModuleDict(dict(loss_a=CanKDLoss(4)))
    model = torch.nn.Module()
    model.distiller = torch.nn.Module()
    model.distiller.distill_losses = losses
    return model


def test_can_block_monitor(pairs, tmp_path):
    options = {
        'custom_hooks': [dict(type='CanBlockMonitorHook', interval=1)],
        'train_cfg.max_epochs': 1,
        'train_cfg.val_begin': 9,
        'default_hooks.logger.interval': 1,
    }
    runner = train(str(pairs['segmentation']), work_dir=str(tmp_path), cfg_options=options)
    first, second = [entry for entry in read_scalars(tmp_path) if 'loss' in entry]
    assert first['can/neck_0_ratio'] == 0 and second['can/neck_0_ratio'] > 0
    block = runner.model.distiller.distill_losses['loss_neck_2'].can
    assert second['can/neck_2_weight'] == pytest.approx(float(block.bn.weight.detach().abs().mean()), rel=1e-5)
    assert not block._forward_hooks


@pytest.mark.parametrize(
    'hook', [dict(type='DistillScheduleHook', begin=1, end=1), dict(type='StopDistillHook', stop_epoch=1)]
)
def test_monitor_says_nothing_where_no_block_runs(pairs, tmp_path, hook):
    """After the distillation has stopped, and after a resume from there; another training distils again."""
    options = {
        'custom_hooks': [dict(type='CanBlockMonitorHook', interval=1), {**hook, '_scope_': 'mmrazor'}],
        'train_cfg.max_epochs': 2,
        'train_cfg.val_begin': 9,
        'default_hooks.logger.interval': 1,
    }
    runner = train(str(pairs['segmentation']), work_dir=str(tmp_path / 'run'), cfg_options=options)
    assert runner.model.distillation_stopped
    options['train_cfg.max_epochs'] = 3
    train(str(pairs['segmentation']), work_dir=str(tmp_path / 'run'), cfg_options=options, resume='auto')
    logged = ['can/neck_0_ratio' in entry for entry in read_scalars(tmp_path / 'run') if 'loss' in entry]
    assert logged == [True, True, False, False, False, False]
    again = DistillRunner.from_cfg(
        load_config(str(pairs['segmentation']), {'train_cfg.max_epochs': 1}, str(tmp_path / 'again'))
    )
    again.model = runner.model
    again.train()
    assert not runner.model.distillation_stopped


MOSAIC = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='CachedMosaic', img_scale=(128, 128), max_cached_images=5, random_pop=False),
    dict(type='Resize', scale=(128, 128)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]


def test_preflight_leaves_no_trace_in_caches_and_random_numbers(pairs, tmp_path):
    """Cached mosaics without workers, and a loss that counts."""
    pair = pairs['detection'].with_name('mosaic_pair.py')
    pair.write_text(
        f"_base_ = '{pairs['detection'].name}'\ntrain_dataloader = dict(dataset=dict(pipeline={MOSAIC!r}))\n"
        'randomness = dict(seed=5)\ntrain_cfg = dict(max_epochs=1, val_begin=9)\n'
    )
    checked = train(str(pair), work_dir=str(tmp_path / 'checked')).model.state_dict()
    runner = runner_of(pair, tmp_path / 'plain')
    runner.train()
    plain = runner.model.state_dict()
    assert [name for name, value in plain.items() if not torch.equal(value, checked[name])] == []


def test_level_of_one_pixel_is_named(pairs):
    options = {'train_dataloader.dataset.pipeline.2.scale': (32, 32), 'model.distiller.levels': [2]}
    assert 'loss_neck_2 is zero, as a map of one pixel has nothing to normalize' in said(pairs['detection'], **options)


def test_student_that_reads_weights_its_own_way(pairs, tmp_path):
    from mmdet.models import ResNet
    from mmdet.registry import MODELS

    @MODELS.register_module(force=True)
    class RenamingResNet(ResNet):
        """As Swin and PVT, it takes weights of other names, from an init_cfg that may have no type."""

        def init_weights(self):
            weights = torch.load(self.init_cfg['checkpoint'])
            self.load_state_dict({key.replace('old_', ''): value for key, value in weights.items()})

    model = Config.fromfile(str(pairs['detection'])).model
    backbone = build_model(model.architecture, 'student').backbone.state_dict()
    torch.save({f'old_{key}': value for key, value in backbone.items()}, tmp_path / 'old.pth')
    init_cfg = dict(_delete_=True, checkpoint=str(tmp_path / 'old.pth'))
    options = {'model.architecture.backbone.init_cfg': init_cfg, 'model.architecture.backbone.type': 'RenamingResNet'}
    log = said(pairs['detection'], **options)
    assert f"student's backbone: reads {tmp_path}/old.pth its own way" in log
    assert 'starts from random weights' not in log and 'another architecture' not in log


def test_best_student_of_any_metric(pairs, tmp_path):
    """Here the recall of proposals, which MMEngine has no rule for."""
    options = {
        'val_evaluator': dict(_delete_=True, type='AnyMetric'),
        'train_cfg.val_interval': 1,
        'val_cfg': dict(type='DistillValLoop', teacher='never'),
    }

    @METRICS.register_module(force=True)
    class AnyMetric(BaseMetric):
        default_prefix = 'any'

        def process(self, data_batch, data_samples):
            self.results += [1] * len(data_samples)

        def compute_metrics(self, results):
            return dict(goodness=float(len(results)))

    train(str(pairs['detection']), work_dir=str(tmp_path), cfg_options=options)
    assert (tmp_path / 'student_best.pth').exists() and list(tmp_path.glob('best_any_goodness_*.pth'))
