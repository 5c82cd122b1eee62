"""A pair is a model like any other: it is copied, stored, converted and counted."""

import copy
import pickle

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from torch import nn

from cankd_mm.config.read import load_model_cfg
from cankd_mm.errors import SetupError
from cankd_mm.models.builders import build_model
from tests.test_models.test_algorithms.test_feature_distill import TASKS, batch, build, losses_of


def as_file(model, folder):
    torch.save(model, folder / 'model.pth')
    return torch.load(folder / 'model.pth', weights_only=False)


WAYS = {
    'deepcopy': lambda model, folder: copy.deepcopy(model),
    'twice': lambda model, folder: copy.deepcopy(copy.deepcopy(model)),
    'pickle': lambda model, folder: pickle.loads(pickle.dumps(model)),
    'torch.save': as_file,
}


def values(losses):
    return {
        key: float(torch.as_tensor(value[0] if isinstance(value, list) else value)) for key, value in losses.items()
    }


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('task', TASKS)
def test_copies_distil_as_the_original(pairs, tmp_path, task, way):
    model, data = build(pairs[task]).train(), batch(task, size=(128, 128))
    model.init_weights()
    losses_of(model, data)
    model.eval()  # without dropout and batch statistics: one figure
    other = WAYS[way](model, tmp_path)
    assert type(other) is type(model) and other.state_dict().keys() == model.state_dict().keys()
    expected, found = values(losses_of(model, data)), values(losses_of(other, data))
    assert found == pytest.approx(expected, rel=1e-6) and found['distill.loss_neck_0'] > 0
    with torch.no_grad():
        other.backbone.conv1.weight.mul_(2)
    assert values(losses_of(other, data)) != pytest.approx(expected, rel=1e-3)
    assert values(losses_of(model, data)) == pytest.approx(expected, rel=1e-6)


def test_all_pairs_of_a_student_have_one_class(pairs):
    first, second = (build(pairs['segmentation']) for _ in range(2))
    assert type(first) is type(second) is not type(build(pairs['detection']))


MISTAKES = {
    'teacher_ckpt': 'nowhere.pth',
    'init_from_teacher': ['nowhere'],
    'distiller': dict(type='CanKDDistiller', source='nowhere', loss=dict(type='CanKDLoss')),
    'teacher_dtype': 'float8',
}


@pytest.mark.parametrize('entry', MISTAKES)
def test_a_build_that_fails_leaves_the_student_as_it_was(pairs, entry):
    student = build_model(load_model_cfg(str(pairs['detection'].with_name('detection_student.py'))), 'student')
    kind, names, entries = type(student), [name for name, _ in student.named_modules()], set(vars(student))
    with pytest.raises(SetupError):
        build(pairs['detection'], architecture=student, **{entry: MISTAKES[entry]})
    assert type(student) is kind and [name for name, _ in student.named_modules()] == names
    assert set(vars(student)) == entries and not any(module._forward_hooks for module in student.modules())
    build(pairs['detection'], architecture=student)


def test_the_parameters_that_tools_count_are_the_students(pairs):
    cfg = Config.fromfile(str(pairs['segmentation'])).model
    alone, model = build_model(cfg.architecture, 'student'), build(pairs['segmentation']).eval()
    inputs = torch.zeros(1, 3, 64, 64)
    expected, found = (get_model_complexity_info(each.eval(), None, inputs=(inputs,)) for each in (alone, model))
    assert found['params'] == expected['params'] < sum(p.numel() for p in model.parameters())
    assert found['flops'] == expected['flops']


@pytest.mark.parametrize('change', ['half', 'bfloat16', 'double'])
def test_the_fingerprint_is_of_the_weights_that_were_loaded(pairs, change):
    model, other = build(pairs['detection']), build(pairs['detection'])
    assert torch.equal(getattr(model, change)().get_extra_state(), other.get_extra_state())


def test_the_teacher_keeps_its_weights_where_the_student_forgets_its_own(pairs):
    """As sharded training does, which initializes the student afterwards."""
    model = build(pairs['detection'])
    before = copy.deepcopy(model.teacher.state_dict())
    model.to_empty(device='meta')
    assert all(parameter.is_meta for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.teacher.state_dict().items())


def test_the_teacher_goes_where_the_batch_is(pairs):
    """A wrapper may move the student's own parameters alone."""
    model = build(pairs['detection'])
    for child in model.children():
        child.to('meta')
    model.frozen_teacher(torch.zeros(1, 3, 64, 64, device='meta'))
    assert all(parameter.is_meta for parameter in model.teacher.parameters())


@pytest.mark.parametrize('source', ['backbone.bn1', 'neck'])
def test_a_recorded_batch_norm_is_found_after_its_conversion(pairs, source):
    """As `sync_bn` of a config converts it once the model is built."""
    distiller = dict(type='CanKDDistiller', source=source, loss=dict(type='CanKDLoss'))
    model = build(pairs['segmentation'], distiller=distiller).eval()
    data = batch('segmentation', size=(128, 128))
    expected = values(losses_of(model, data))
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert isinstance(converted.backbone.bn1, nn.SyncBatchNorm)
    assert values(losses_of(converted, data)) == pytest.approx(expected, rel=1e-6)
