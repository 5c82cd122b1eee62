"""What is distilled is what the module gave, and each feature is given to its own argument of the loss."""

import copy

import pytest
import torch
from mmrazor.registry import MODELS
from torch import nn

from cankd_mm.errors import SetupError
from cankd_mm.models.distillers.cankd_distiller import _arguments
from tests.test_models.test_algorithms.test_feature_distill import batch, build

# The block adds its input to what the last norm gives, in place, and the activation of a plain one follows in place.
SOURCES = ['backbone.layer2.1.bn2', 'backbone.layer4.1.bn2', 'backbone.bn1', 'backbone.layer2.1', 'neck']


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('source', SOURCES)
def test_what_is_distilled_is_what_the_module_gave(pairs, source, training):
    loss = dict(type='L2Loss', loss_weight=1.0)
    model = build(pairs['segmentation'], distiller=dict(type='CanKDDistiller', source=source, loss=loss))
    data = model.data_preprocessor(batch('segmentation', size=(128, 128)), True)
    model.train(training)
    given, taken = {}, {}
    for whose, network in (('s', model), ('t', model.teacher)):
        network.get_submodule(source).register_forward_hook(
            lambda module, args, output, whose=whose: given.update({whose: copy.deepcopy(detached(output))})
        )
    names = list(model.distiller.distill_losses)
    for number, name in enumerate(names):

        def take(module, args, kwargs, number=number):
            taken[number] = [f.detach().clone() for f in (*args, *kwargs.values())]

        model.distiller.distill_losses[name].register_forward_pre_hook(take, with_kwargs=True)
    sum(value for key, value in model(**data, mode='loss').items() if key.startswith('distill.')).backward()
    for number in range(len(names)):
        expected = [given[whose][number] if isinstance(given[whose], list) else given[whose] for whose in 'st']
        connector = model.distiller.connectors
        student = connector[names[number]](expected[0]) if names[number] in connector else expected[0]
        for found, right in zip(taken[number], (student, expected[1])):
            torch.testing.assert_close(found, right.detach())


def detached(output):
    return [f.detach() for f in output] if isinstance(output, (list, tuple)) else output.detach()


def test_the_long_form_says_that_a_feature_is_overwritten(pairs):
    record = dict(type='ModuleOutputs', source='backbone.layer4.1.bn2')
    mapping = {side: dict(recorder='norm', from_student=side[0] == 's') for side in ('s_feature', 't_feature')}
    distiller = dict(
        type='CanKDDistiller',
        student_recorders=dict(norm=record),
        teacher_recorders=dict(norm=record),
        distill_losses=dict(loss_norm=dict(type='ATLoss', loss_weight=1.0)),
        loss_forward_mappings=dict(loss_norm=mapping),
    )
    data = batch('segmentation', size=(128, 128))
    model = build(pairs['segmentation'], distiller=copy.deepcopy(distiller))
    with pytest.raises(SetupError, match="teacher's 'backbone.layer4.1.bn2' is overwritten.*'ModuleOutputCopies'"):
        model(**model.data_preprocessor(copy.deepcopy(data), True), mode='loss')
    for whose in ('student', 'teacher'):
        distiller[f'{whose}_recorders'] = dict(norm=dict(record, type='ModuleOutputCopies'))
    model = build(pairs['segmentation'], distiller=distiller)
    assert model(**model.data_preprocessor(data, True), mode='loss')['distill.loss_norm'] > 0


def loss_of(first, second):
    class Loss(nn.Module):
        def __init__(self, loss_weight=1.0):
            super().__init__()

    exec(f'def forward(self, {first}, {second}):\n    return {first}.mean() - 2 * {second}.mean()', space := {})  # noqa: S102
    Loss.forward = space['forward']
    return Loss


PAIRS = [
    ('s_feature', 't_feature'), ('preds_S', 'preds_T'), ('student', 'teacher'), ('pred', 'target'), ('stu', 'tea'),
    ('studentFeature', 'teacherFeature'), ('feat_s', 'feat_t'), ('x_student', 'y_teacher'), ('input', 'target'),
]  # fmt: skip


@pytest.mark.parametrize('student, teacher', PAIRS)
def test_names_tell_which_feature_is_whose(student, teacher):
    assert _arguments(loss_of(student, teacher)) == [student, teacher]
    assert _arguments(loss_of(teacher, student)) == [student, teacher]


def test_a_loss_that_has_the_teacher_first_gets_both_right(pairs):
    MODELS.register_module(name='TeacherFirst', module=loss_of('t_feature', 's_feature'), force=True)
    distiller = dict(type='CanKDDistiller', source='neck', levels=1, loss=dict(type='TeacherFirst'))
    model = build(pairs['segmentation'], distiller=distiller).eval()
    data = model.data_preprocessor(batch('segmentation', size=(128, 128)), True)
    with torch.no_grad():
        found = model(**data, mode='loss')['distill.loss_neck_0']
        inputs = model.teacher_input(data['inputs'], data['data_samples'])
        expected = model.teacher.extract_feat(inputs)[0].mean() - 2 * model.extract_feat(data['inputs'])[0].mean()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('names', [('a', 'b'), ('x', 'y'), ('t_feature', 'target'), ('first', 's_feature')])
def test_names_that_do_not_tell_are_a_sentence(names):
    with pytest.raises(SetupError, match=f'loss Loss takes {names[0]} and {names[1]}, whose names do not tell'):
        _arguments(loss_of(*names))
