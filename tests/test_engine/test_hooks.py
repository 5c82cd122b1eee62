"""Hooks of the three libraries do to a student under distillation what they do to one alone.

The table says of every hook how that is known. Most look at nothing of the model, which their source shows; those that
do have a test here or the reason why there is nothing to test.
"""

import inspect
from types import SimpleNamespace

import mmdet.engine
import mmseg.engine  # noqa: F401
import pytest
import torch
from mmdet.models import RetinaNet
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.logging import MMLogger
from mmengine.registry import HOOKS, DefaultScope
from mmrazor.registry import MODELS

from cankd_mm.models.builders import build_model

NOTHING = 'looks at nothing of the model'
TABLE = {
    'CheckpointHook': NOTHING,
    'DistSamplerSeedHook': NOTHING,
    'EMAHook': 'test_average_is_of_the_student',
    'EarlyStoppingHook': NOTHING,
    'EmptyCacheHook': NOTHING,
    'IterTimerHook': NOTHING,
    'LoggerHook': NOTHING,
    'NPUProfilerHook': NOTHING,
    'NaiveVisualizationHook': 'draws the graph of the model, which is the student',
    'ParamSchedulerHook': NOTHING,
    'PrepareTTAHook': 'test_augmentation_at_test_time_wraps_the_student',
    'ProfilerHook': NOTHING,
    'RuntimeInfoHook': NOTHING,
    'SyncBuffersHook': 'test_buffers_and_norms_are_those_of_the_student_and_what_is_trained_beside_it',
    'CheckInvalidLossHook': NOTHING,
    'DetVisualizationHook': NOTHING,
    'TrainAugmentDetVisualizationHook': NOTHING,
    'GroundingVisualizationHook': NOTHING,
    'MeanTeacherHook': 'test_mean_teacher_is_refused_as_for_a_student_alone',
    'MemoryProfilerHook': NOTHING,
    'NumClassCheckHook': 'test_number_of_classes_is_checked_of_the_student',
    'PipelineSwitchHook': NOTHING,
    'SetEpochInfoHook': 'test_epoch_is_told_to_the_student',
    'SyncNormHook': 'test_buffers_and_norms_are_those_of_the_student_and_what_is_trained_beside_it',
    'TrackVisualizationHook': NOTHING,
    'YOLOXModeSwitchHook': 'test_mode_of_the_head_is_switched',
    'SegVisualizationHook': NOTHING,
    'DMCPSubnetHook': 'is for supernets, which are not distilled here',
    'DumpSubnetHook': 'is for supernets, which are not distilled here',
    'EstimateResourcesHook': 'estimates the model, of which blocks and connectors are a part while it trains',
    'PruningStructureHook': 'is for pruning, not distillation',
    'RMPruningHook': 'is for pruning, not distillation',
    'ResourceInfoHook': 'is for pruning, not distillation',
    'RFSearchHook': 'widens convolutions of 3x3 and more, of which blocks and connectors have none',
    'RecorderVisualizationHook': 'test_recorders_find_modules_by_the_names_of_the_student',
    'StopDistillHook': 'tests of FeatureDistill, and of several processes',
}


def registered(registry):
    """Every hook of a registry and of those that are part of it, by its name."""
    found = dict(registry.module_dict)
    for child in registry.children.values():
        found.update(registered(child))
    return found


HERE = ('cankd_mm', 'tests')
LIBRARIES = {
    name: hook for name, hook in registered(HOOKS).items() if hook.__module__.split('.')[0] not in (*HERE, '__main__')
}


def test_table_names_every_hook():
    missing = {name for name in LIBRARIES if not name.startswith('mmpretrain')} - set(TABLE)
    assert not {name for name in missing if LIBRARIES[name].__module__.split('.')[0].startswith('mm')}


@pytest.mark.parametrize('name', [name for name, how in TABLE.items() if how == NOTHING])
def test_source_shows_that_nothing_of_the_model_is_looked_at(name):
    if name in LIBRARIES:
        source = inspect.getsource(LIBRARIES[name])
        assert 'runner.model' not in source and 'model.module' not in source


def test_tests_of_the_table_exist():
    for how in TABLE.values():
        assert not how.startswith('test_') or how in globals()


@pytest.fixture
def model(pairs):
    return build(pairs['detection'])


def build(pair, **architecture):
    cfg = Config.fromfile(str(pair)).model
    cfg.architecture.update(architecture)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg)


def runner_of(model, **kwargs):
    logger = MMLogger.get_current_instance()
    return SimpleNamespace(model=model, epoch=0, max_epochs=1, logger=logger, **kwargs)


def names(state):
    return {name for name in state if not name.startswith('distiller.')}


def test_average_is_of_the_student(pairs, model):
    hook = EMAHook(momentum=0.1)
    hook.before_run(runner_of(model))
    averaged = hook.ema_model.module
    student = build_model(Config.fromfile(str(pairs['detection'])).model.architecture, 'student')
    assert names(dict(averaged.named_parameters())) == set(dict(student.named_parameters()))
    assert averaged.teacher is model.teacher  # shared, not copied
    assert averaged.backbone is not model.backbone
    with torch.no_grad():
        model.neck.fpn_convs[0].conv.bias.add_(1)
    hook.ema_model.update_parameters(model)
    hook._swap_ema_parameters()
    assert type(averaged) is type(model) and isinstance(averaged, RetinaNet)


def test_augmentation_at_test_time_wraps_the_student(model):
    runner = runner_of(model)
    with DefaultScope.overwrite_default_scope('mmdet'):
        hook = HOOKS.build(dict(type='PrepareTTAHook', tta_cfg=dict(type='DetTTAModel')))
        hook.before_test(runner)
    assert runner.model.module is model


def test_buffers_and_norms_are_those_of_the_student_and_what_is_trained_beside_it(pairs, model):
    from mmdet.engine.hooks.sync_norm_hook import get_norm_states

    student = build_model(Config.fromfile(str(pairs['detection'])).model.architecture, 'student')
    assert names(get_norm_states(model)) == set(get_norm_states(student))
    assert names(dict(model.named_buffers())) == set(dict(student.named_buffers()))


def test_mean_teacher_is_refused_as_for_a_student_alone(pairs, model):
    before = {key: value.clone() for key, value in model.teacher.state_dict().items()}
    student = build_model(Config.fromfile(str(pairs['detection'])).model.architecture, 'student')
    for either in (student, model):
        with pytest.raises(AssertionError):
            mmdet.engine.hooks.MeanTeacherHook().before_train(runner_of(either, iter=0))
    assert all(torch.equal(value, before[key]) for key, value in model.teacher.state_dict().items())


def test_number_of_classes_is_checked_of_the_student(pairs):
    hook = mmdet.engine.hooks.NumClassCheckHook()
    dataset = SimpleNamespace(metainfo=dict(classes=tuple('0123456789')))
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset))
    teacher = pairs['detection'].with_name('teacher_of_four.py')
    cfg = Config.fromfile(str(pairs['detection']))
    teacher.write_text(f"_base_ = '{cfg.model.teacher}'\nmodel = dict(bbox_head=dict(num_classes=4))\n")
    cfg.model.update(teacher=str(teacher), teacher_ckpt=None)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    hook.before_train_epoch(runner_of(model, train_dataloader=loop.dataloader))
    model.bbox_head.num_classes = 4
    with pytest.raises(AssertionError, match='bbox_head|RetinaHead'):
        hook.before_train_epoch(runner_of(model, train_dataloader=loop.dataloader))


@MODELS.parent.register_module(force=True)
class EpochRetinaNet(RetinaNet):
    """As MMDetection's TOOD, it is told the epoch."""

    def set_epoch(self, epoch):
        self.epoch = epoch


def test_epoch_is_told_to_the_student(pairs):
    model = build(pairs['detection'], type='EpochRetinaNet')
    mmdet.engine.hooks.SetEpochInfoHook().before_train_epoch(runner_of(model))
    assert model.epoch == 0


def test_mode_of_the_head_is_switched(model):
    dataset = SimpleNamespace(update_skip_type_keys=lambda keys: None)
    loader = SimpleNamespace(dataset=dataset, persistent_workers=False)
    hook = mmdet.engine.hooks.YOLOXModeSwitchHook(num_last_epochs=1)
    hook.before_train_epoch(runner_of(model, train_dataloader=loader))
    assert model.bbox_head.use_l1 is True


def test_recorders_find_modules_by_the_names_of_the_student(model):
    from mmrazor.models.task_modules import RecorderManager

    with DefaultScope.overwrite_default_scope('mmrazor'):
        recorders = RecorderManager(dict(feature=dict(type='ModuleOutputs', source='neck')))
    recorders.initialize(model)
    with recorders:
        model.extract_feat(torch.zeros(1, 3, 64, 64))
    assert len(recorders.get_recorder('feature').get_record_data()) == 3
