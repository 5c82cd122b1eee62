"""The student's learning rates and decays are those of its own training, whatever builds the optimizer."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper, build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, DefaultScope
from mmrazor.registry import MODELS
from torch import nn

from cankd_mm.engine.optimizer import install
from cankd_mm.models.builders import build_model

LR, DECAY = 1e-3, 0.05
ADAMW = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=LR, weight_decay=DECAY))
LAYERS = dict(num_layers=4, decay_rate=0.5)


class Stages(nn.Module):
    """A backbone whose parts are called as those of ConvNeXt and BEiT, which some constructors go by."""

    def __init__(self, channels=(8, 16, 32, 64)):
        super().__init__()
        pairs = list(zip((3, *channels), channels))
        self.downsample_layers = nn.ModuleList(nn.Conv2d(a, b, 2, 2 if i else 4) for i, (a, b) in enumerate(pairs))
        self.stages = nn.ModuleList(nn.Sequential(nn.Conv2d(c, c, 1), nn.BatchNorm2d(c)) for c in channels)
        self.layers = nn.ModuleList(nn.Conv2d(channels[-1], channels[-1], 1) for _ in range(4))

    def forward(self, x):
        outputs = []
        for down, stage in zip(self.downsample_layers, self.stages):
            x = stage(down(x))
            outputs.append(x)
        for layer in self.layers:
            x = layer(x)
        return (*outputs[:-1], x)


for name in ('TinyConvNeXt', 'TinyBEiT'):
    MODELS.parent.register_module(name=name, module=type(name, (Stages,), {}), force=True)

# What a config says of the optimizer, by library and backbone.
RECIPES = {
    'no rules': ('detection', None, dict()),
    'names': (
        'detection',
        None,
        dict(
            paramwise_cfg=dict(
                custom_keys={
                    'backbone': dict(lr_mult=0.1, decay_mult=0.5),
                    'neck': dict(lr_mult=0.0),
                    'bn': dict(decay_mult=0.0),
                    'loss': dict(lr_mult=7.0),
                    'conv': dict(decay_mult=0.3),
                }
            )
        ),
    ),
    'types of layers': (
        'detection',
        None,
        dict(paramwise_cfg=dict(bias_lr_mult=2.0, bias_decay_mult=0.0, norm_decay_mult=0.0, flat_decay_mult=0.1)),
    ),
    'names, in segmentation': (
        'segmentation',
        None,
        dict(paramwise_cfg=dict(custom_keys={'head': dict(lr_mult=10.0), 'norm': dict(decay_mult=0.0)})),
    ),
    'depth, in detection': (
        'detection',
        'TinyConvNeXt',
        dict(
            constructor='LearningRateDecayOptimizerConstructor',
            paramwise_cfg=dict(decay_type='layer_wise', **LAYERS),
        ),
    ),
    'stages, in detection': (
        'detection',
        'TinyConvNeXt',
        dict(
            constructor='LearningRateDecayOptimizerConstructor',
            paramwise_cfg=dict(decay_type='stage_wise', **LAYERS),
        ),
    ),
    'depth, in segmentation': (
        'segmentation',
        'TinyBEiT',
        dict(
            constructor='LearningRateDecayOptimizerConstructor',
            paramwise_cfg=dict(decay_type='layer_wise', **LAYERS),
        ),
    ),
    'depth, as it was called before': (
        'segmentation',
        'TinyBEiT',
        dict(constructor='LayerDecayOptimizerConstructor', paramwise_cfg=dict(num_layers=4, layer_decay_rate=0.5)),
    ),
    'stages, in segmentation': (
        'segmentation',
        'TinyConvNeXt',
        dict(
            constructor='LearningRateDecayOptimizerConstructor',
            paramwise_cfg=dict(decay_type='stage_wise', **LAYERS),
        ),
    ),
    'defaults by force': (
        'segmentation',
        None,
        dict(
            constructor='ForceDefaultOptimWrapperConstructor',
            paramwise_cfg=dict(
                force_default_settings=True, norm_decay_mult=0.0, custom_keys={'backbone': dict(lr_mult=0.1)}
            ),
        ),
    ),
}


def settings(optim_wrapper, model):
    """Learning rate and weight decay by the name of the parameter."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names.get(id(parameter), 'a parameter of something else'): (group['lr'], group['weight_decay'])
        for group in optim_wrapper.optimizer.param_groups
        for parameter in group['params']
    }


@pytest.mark.parametrize('recipe', RECIPES)
def test_parameters_of_the_student_are_set_as_alone_and_those_beside_it_at_the_base(pairs, recipe):
    task, backbone, changes = RECIPES[recipe]
    cfg = Config.fromfile(str(pairs[task]))
    if backbone is not None:
        cfg.model.architecture.backbone = dict(type=backbone)
    optim_wrapper = {**copy.deepcopy(ADAMW), **changes}
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        student = build_model(cfg.model.architecture, 'student')
        alone = settings(build_optim_wrapper(student, copy.deepcopy(optim_wrapper)), student)
        model = MODELS.build(cfg.model)
        found = settings(build_optim_wrapper(model, copy.deepcopy(optim_wrapper)), model)
    assert len(alone) > 20 and (recipe == 'no rules' or len(set(alone.values())) > 1)
    beside = {name: found.pop(name) for name in list(found) if name.startswith('distiller.')}
    assert found == alone
    assert set(beside.values()) == {(LR, DECAY)} and len(beside) == len(list(model.distiller.parameters()))


@pytest.mark.parametrize('source', ['backbone', 'neck', 'decode_head.conv_seg'])
def test_blocks_are_at_the_base_whatever_their_source_is_called(pairs, source):
    cfg = Config.fromfile(str(pairs['segmentation']))
    cfg.model.distiller.source = source
    keys = {key: dict(lr_mult=0.0) for key in ('backbone', 'neck', 'head', 'conv', 'distiller')}
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(cfg.model)
        found = settings(build_optim_wrapper(model, {**ADAMW, 'paramwise_cfg': dict(custom_keys=keys)}), model)
    assert {value for name, value in found.items() if name.startswith('distiller.')} == {(LR, DECAY)}
    assert all(name in found for name, _ in model.named_parameters())


def test_model_without_a_teacher_is_as_ever(pairs):
    cfg = Config.fromfile(str(pairs['detection']))
    student = build_model(cfg.model.architecture, 'student')
    optimizer = build_optim_wrapper(student, copy.deepcopy(ADAMW)).optimizer
    assert len(optimizer.param_groups) == 1


def constructor_of(**cfg):
    return OPTIM_WRAPPER_CONSTRUCTORS.build(dict(type='DefaultOptimWrapperConstructor', **cfg))


def test_constructor_is_of_its_own_class():
    constructor = constructor_of(optim_wrapper_cfg=copy.deepcopy(ADAMW))
    assert isinstance(constructor, DefaultOptimWrapperConstructor)
    assert type(constructor).__name__ == 'DefaultOptimWrapperConstructor'


def test_registry_is_extended_once():
    before = OPTIM_WRAPPER_CONSTRUCTORS.build_func
    install()
    assert OPTIM_WRAPPER_CONSTRUCTORS.build_func is before


def test_several_optimizers_of_which_the_first_takes_what_is_trained_beside_the_student(pairs):
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(Config.fromfile(str(pairs['detection'])).model)
        parts = {part: copy.deepcopy(ADAMW) for part in ('backbone', 'neck', 'bbox_head')}
        found = build_optim_wrapper(model, dict(constructor='mmrazor.SeparateOptimWrapperConstructor', **parts))
    names = {part: set(settings(wrapper, model)) for part, wrapper in found.items()}
    assert {name.split('.')[0] for name in names['backbone']} == {'backbone', 'distiller'}
    assert set().union(*names.values()) == set(dict(model.named_parameters()))


def test_constructor_that_is_a_function(pairs):
    def optimizer_of_all(optim_wrapper_cfg, paramwise_cfg):
        return lambda model: OptimWrapper(torch.optim.SGD(model.parameters(), lr=LR))

    OPTIM_WRAPPER_CONSTRUCTORS.register_module(module=optimizer_of_all, force=True)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(Config.fromfile(str(pairs['detection'])).model)
        found = build_optim_wrapper(model, dict(constructor='optimizer_of_all'))
    assert set(settings(found, model)) == set(dict(model.named_parameters()))
