"""The teacher is outside the module tree, and its weights are all there."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import save_checkpoint

from cankd_mm.config.read import load_model_cfg
from cankd_mm.config.write import literal
from cankd_mm.errors import SetupError
from cankd_mm.models.builders import build_model
from tests.test_models.test_algorithms.test_feature_distill import build


def teacher_cfg(pairs):
    return load_model_cfg(Config.fromfile(str(pairs['detection'])).model.teacher)


def weights(pairs):
    return torch.load(Config.fromfile(str(pairs['detection'])).model.teacher_ckpt)['state_dict']


def test_nothing_of_the_tree_is_the_teachers(pairs):
    model = build(pairs['detection'])
    theirs = {id(tensor) for tensor in (*model.teacher.parameters(), *model.teacher.buffers())}
    for tensors in (model.parameters(), model.buffers(), model.state_dict(keep_vars=True).values()):
        assert not theirs & {id(tensor) for tensor in tensors}
    assert not any('teacher' in name for name, _ in model.named_modules())
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())


def test_a_copy_shares_the_teacher(pairs):
    model = build(pairs['detection'])
    other = copy.deepcopy(model)
    assert type(other) is type(model) and other.teacher is model.teacher
    assert other.neck is not model.neck and other.distiller is not model.distiller


def test_the_teacher_moves_with_the_student(pairs):
    model = build(pairs['detection'])
    model.double()
    assert next(model.teacher.parameters()).dtype is next(model.parameters()).dtype is torch.float64
    model.float().to('meta')
    assert {p.device.type for p in model.teacher.parameters()} == {'meta'}
    assert model.teacher.data_preprocessor.device.type == 'meta'
    assert model.teacher_input.scale.device.type == 'meta'
    model.train()
    assert not any(module.training for module in model.teacher.modules())


def test_distributed_training_knows_nothing_of_the_teacher(pairs, tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / 'store'), 1)
    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    try:
        model = build(pairs['detection'])
        wrapped = MMDistributedDataParallel(model)
        names = [name for name, _ in wrapped.named_parameters()]
        assert names and not any('teacher' in name for name in names)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize('as_list', [False, True])
def test_teacher_that_starts_from_its_own_config(pairs, tmp_path, as_list):
    cfg, path = teacher_cfg(pairs), tmp_path / 'teacher.pth'
    save_checkpoint(dict(state_dict={f'model.{key}': value for key, value in weights(pairs).items()}), str(path))
    init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix='model.')
    cfg.init_cfg = [dict(type='Xavier', layer='Conv2d'), init_cfg] if as_list else init_cfg
    model = build(pairs['detection'], teacher=cfg, teacher_ckpt=None)
    model.init_weights()
    assert all(torch.equal(value, model.teacher.state_dict()[key]) for key, value in weights(pairs).items())
    assert model.teacher_ckpt == str(path)
    some = {key: value for key, value in weights(pairs).items() if 'bbox_head' not in key}
    save_checkpoint(dict(state_dict={f'model.{key}': value for key, value in some.items()}), str(path))
    with pytest.raises(SetupError, match='teacher.pth.* lacks .* such as bbox_head'):
        build(pairs['detection'], teacher=cfg, teacher_ckpt=None)


def test_teacher_that_starts_from_its_own_pure_python_config(pairs, tmp_path):
    """In which the type of the ``init_cfg`` is a class."""
    cfg, path = teacher_cfg(pairs), tmp_path / 'teacher.py'
    save_checkpoint(dict(state_dict=weights(pairs)), str(tmp_path / 'teacher.pth'))
    cfg.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'teacher.pth'))
    text = f'from mmengine.model import PretrainedInit\n\nmodel = {literal(cfg.to_dict())}\n'
    path.write_text(text.replace("type='Pretrained'", 'type=PretrainedInit'))
    assert 'type=PretrainedInit' in path.read_text()
    model = build(pairs['detection'], teacher=str(path), teacher_ckpt=None)
    assert model.teacher_ckpt == str(tmp_path / 'teacher.pth')
    assert all(torch.equal(value, model.teacher.state_dict()[key]) for key, value in weights(pairs).items())


@pytest.mark.parametrize('init_cfg', [dict(type='Xavier', layer='Conv2d'), [dict(type='Normal', layer='Linear')], []])
def test_teacher_whose_own_config_loads_nothing(pairs, init_cfg):
    cfg = teacher_cfg(pairs)
    cfg.init_cfg = init_cfg
    model = build(pairs['detection'], teacher=cfg, teacher_ckpt=None)
    with pytest.raises(SetupError, match='has no trained weights: set model.teacher_ckpt'):
        model.init_weights()


def in_form(state, form):
    """The same weights, as various libraries write them."""
    if form.endswith('.'):
        return dict(state_dict={f'{form}{key}': value for key, value in state.items()})
    if form == 'ema_state_dict':
        return dict(ema_state_dict={'steps': torch.tensor(3), **{f'module.{k}': v for k, v in state.items()}})
    return state if form == 'nothing' else {form: state, 'optimizer': dict(state={0: dict(step=torch.ones(1))})}


PREFIXES = ['module.', 'model.', '_orig_mod.', 'student.', 'network.', 'module._orig_mod.', 'algorithm.model.']


@pytest.mark.parametrize('form', ['nothing', 'state_dict', 'model', 'ema_state_dict', 'net', 'weights', *PREFIXES])
def test_weights_are_found_wherever_they_stand(pairs, tmp_path, form):
    torch.save(in_form(weights(pairs), form), tmp_path / 'teacher.pth')
    model = build(pairs['detection'], teacher_ckpt=str(tmp_path / 'teacher.pth'))
    assert all(torch.equal(value, model.teacher.state_dict()[key]) for key, value in weights(pairs).items())


def test_weights_beside_others_are_found(pairs, tmp_path):
    state = {'criterion.weight': torch.ones(3), **in_form(weights(pairs), 'model.')['state_dict']}
    torch.save(dict(state_dict=state), tmp_path / 'teacher.pth')
    model = build(pairs['detection'], teacher_ckpt=str(tmp_path / 'teacher.pth'))
    assert all(torch.equal(value, model.teacher.state_dict()[key]) for key, value in weights(pairs).items())


@pytest.mark.parametrize(
    'content, words',
    [
        (
            lambda state: {f'{whose}.{key}': value for whose in ('student', 'teacher') for key, value in state.items()},
            "holds such a model under 'student.' and under 'teacher.': save one of the two under the plain names",
        ),
        (
            lambda state: dict(ema=state, net=state),
            "holds weights as 'ema' and as 'net': save one of them as state_dict",
        ),
        (
            lambda state: {key.replace('backbone', 'encoder'): value for key, value in state.items()},
            'lacks .* such as backbone.conv1.weight, and has encoder.conv1.weight in its place: give',
        ),
        (
            lambda state: {f'net.{key}': value for key, value in state.items() if 'bbox_head' not in key},
            'lacks .* such as backbone.conv1.weight, and has net.backbone.conv1.weight in its place: give',
        ),
        (lambda state: {f'net.distiller.{key}': value for key, value in state.items()}, 'holds a distillation run'),
    ],
)
def test_weights_that_are_not_found_for_certain(pairs, tmp_path, content, words):
    torch.save(content(weights(pairs)), tmp_path / 'teacher.pth')
    with pytest.raises(SetupError, match=words):
        build(pairs['detection'], teacher_ckpt=str(tmp_path / 'teacher.pth'))


@pytest.mark.parametrize(
    'content, words',
    [
        (dict(optimizer=dict(), epoch=3), "holds no weights, but 'optimizer', 'epoch'"),
        ([1, 2], 'holds a list, not weights by name'),
        (dict(state_dict=dict()), "holds no weights, but 'state_dict'"),
    ],
)
def test_file_without_weights_is_said_to_be_what_it_is(pairs, tmp_path, content, words):
    torch.save(content, tmp_path / 'teacher.pth')
    with pytest.raises(SetupError, match=words):
        build(pairs['detection'], teacher_ckpt=str(tmp_path / 'teacher.pth'))


def test_batch_norm_statistics_are_weights(pairs, tmp_path):
    state = {key: value for key, value in weights(pairs).items() if 'running_' not in key}
    torch.save(dict(state_dict=state), tmp_path / 'teacher.pth')
    with pytest.raises(SetupError, match='lacks .* batch norm statistics .* such as backbone.bn1.running_mean'):
        build(pairs['detection'], teacher_ckpt=str(tmp_path / 'teacher.pth'))
    state = {key: value for key, value in weights(pairs).items() if 'num_batches' not in key}
    torch.save(dict(state_dict=state), tmp_path / 'teacher.pth')  # counters, which older files lack
    build(pairs['detection'], teacher_ckpt=str(tmp_path / 'teacher.pth'))


def test_student_with_a_teacher_of_its_own_is_refused(pairs):
    student = build_model(Config.fromfile(str(pairs['detection'])).model.architecture, 'student')
    student.teacher = torch.nn.Identity()
    with pytest.raises(SetupError, match='student RetinaNet has a teacher of its own'):
        build(pairs['detection'], architecture=student)
