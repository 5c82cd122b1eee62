"""What a run may change when it goes on, and what makes another training of it."""

import pytest
from mmengine.config import Config

from cankd_mm.config.differences import TESTED, config_of_run, differences
from cankd_mm.config.read import load_config

SAME = {
    'another folder': {'work_dir': 'elsewhere', 'load_from': 'a.pth', 'resume': True},
    'another launcher': {'launcher': 'slurm', 'env_cfg.mp_cfg.mp_start_method': 'spawn', 'log_level': 'ERROR'},
    'workers': {'train_dataloader.num_workers': 7, 'train_dataloader.persistent_workers': False},
    'validation': {'val_dataloader.batch_size': 9, 'train_cfg.val_interval': 7, 'val_evaluator.iou_metrics': ['mDice']},
    'testing': {'test_dataloader.batch_size': 9, 'model.architecture.test_cfg.mode': 'slide'},
    'hooks that watch': {'custom_hooks': [dict(type='CanBlockMonitorHook')], 'default_hooks.logger.interval': 3},
    'data in another place': {'train_dataloader.dataset.data_root': '/elsewhere/segmentation'},
    'data that was renamed': {'train_dataloader.dataset.data_root': '/elsewhere/scenes/'},
    'a list by absolute path': {'train_dataloader.dataset.ann_file': '/elsewhere/train_small.txt'},
    'a config of a teacher from another folder': {'model.teacher': '../teacher.py'},
    'a teacher by absolute path': {'model.teacher_ckpt': '/elsewhere/work_dirs/teacher/epoch_1.pth'},
    'a teacher that was fetched': {'model.teacher_ckpt': 'https://elsewhere.org/epoch_1.pth'},
    'a learning rate that is not scaled': {'auto_scale_lr': dict(enable=False, base_batch_size=16)},
    'a tuple': {'model.architecture.data_preprocessor.size': [128, 128]},
    'nothing': {'randomness': {}, 'custom_hooks': []},
}
OTHER = {
    'optim_wrapper.type': 'AmpOptimWrapper',
    'optim_wrapper.optimizer.lr': 1.0,
    'optim_wrapper.clip_grad': dict(max_norm=1),
    'param_scheduler.0.end': 3,
    'train_cfg.max_epochs': 3,
    'train_dataloader.batch_size': 3,
    'train_dataloader.sampler.shuffle': False,
    'train_dataloader.dataset.ann_file': 'train.txt',
    'train_dataloader.dataset.indices': 3,
    'train_dataloader.dataset.pipeline.0.color_type': 'grayscale',
    'model.architecture.data_preprocessor.size': (64, 64),
    'randomness.seed': 0,
    'randomness.diff_rank_seed': True,
    'auto_scale_lr': dict(enable=True, base_batch_size=16),
    'custom_hooks': [dict(type='EMAHook')],
    'model.architecture.backbone.base_channels': 16,
    'model.distiller.loss.loss_weight': 0,
    'model.init_from_teacher': 'auto',
    'model.teacher_ckpt': '/elsewhere/segmentation.pth',
}


@pytest.fixture
def cfg(pairs):
    return load_config(str(pairs['segmentation']))


def changed(cfg, options):
    other = Config(cfg.to_dict())
    other.merge_from_dict(options)
    return other


@pytest.mark.parametrize('what', SAME)
def test_the_same_training(cfg, tmp_path, what):
    if 'a teacher' in what:
        cfg.model.teacher = 'configs/teacher.py' if 'config' in what else cfg.model.teacher
        cfg.model.teacher_ckpt = 'work_dirs/teacher/epoch_1.pth'
    if what == 'data that was renamed':
        cfg.train_dataloader.dataset.data_root = str(tmp_path / 'gone')
    assert differences(cfg, changed(cfg, SAME[what])) == {}


@pytest.mark.parametrize('key', OTHER)
def test_another_training(cfg, key):
    found = differences(cfg, changed(cfg, {key: OTHER[key]}))
    inside = OTHER[key] if isinstance(OTHER[key], dict) else {}
    assert sorted(found) in ([key], sorted(f'{key}.{name}' for name in inside))
    assert [new for _, new in found.values()] in (list(inside.values()), [OTHER[key]], [[64, 64]])


def test_another_teacher_whose_file_has_the_same_name(cfg):
    cfg.model.teacher_ckpt = '/here/teacher/epoch_1.pth'
    found = differences(cfg, changed(cfg, {'model.teacher_ckpt': '/here/other/epoch_1.pth'}))
    assert [*found] == ['model.teacher_ckpt']


def test_another_student(cfg):
    change = {'test_dataloader.dataset.pipeline.0.color_type': 'grayscale', 'optim_wrapper.optimizer.lr': 1.0}
    found = differences(cfg, changed(cfg, change), TESTED)
    assert found == {'test_dataloader.dataset.pipeline.0.color_type': (None, 'grayscale')}


@pytest.mark.parametrize('meta', [{}, None, {'cfg': 'import os'}, {'cfg': 'a = ('}])
def test_a_checkpoint_without_a_config_that_can_be_read(meta):
    assert config_of_run({'meta': meta}) is None


def test_the_config_of_a_run_has_its_seed(cfg):
    found = config_of_run({'meta': dict(cfg=cfg.pretty_text, seed=5)})
    assert found.randomness == {'seed': 5} and list(differences(cfg, found)) == ['randomness.seed']
