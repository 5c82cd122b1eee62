import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import save_checkpoint
from mmrazor.registry import MODELS
from torch import nn

from cankd_mm.errors import SetupError

TASKS = ('detection', 'segmentation')


def build(path, **changes):
    cfg = Config.fromfile(str(path)).model
    cfg.update(changes)
    with DefaultScope.overwrite_default_scope('mmdet'):  # as a user of either library may have it
        return MODELS.build(cfg)


def batch(task, size=(64, 96)):
    inputs = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in range(2)]
    if task == 'detection':
        from mmdet.structures import DetDataSample
        from mmengine.structures import InstanceData

        samples = []
        for _ in inputs:
            sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1, 1)))
            sample.gt_instances = InstanceData(bboxes=torch.tensor([[8.0, 8, 40, 40]]), labels=torch.tensor([3]))
            samples.append(sample)
    else:
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        samples = []
        for _ in inputs:
            sample = SegDataSample(metainfo=dict(img_shape=size))
            sample.gt_sem_seg = PixelData(data=torch.randint(0, 11, (1, *size)))
            samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def losses_of(model, data):
    data = model.data_preprocessor(copy.deepcopy(data), training=True)
    return model(**data, mode='loss')


@pytest.mark.parametrize('task', TASKS)
def test_losses_and_gradients(pairs, task):
    model = build(pairs[task])
    model.init_weights()
    model.train()
    # MMSegmentation's class-weighted loss cannot take a padded label map.
    losses = losses_of(model, batch(task, size=(128, 128)))
    distill = {name: loss for name, loss in losses.items() if name.startswith('distill.')}
    assert len(distill) == 3 and all(loss > 0 for loss in distill.values())
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total > sum(distill.values())
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith('teacher.'), name


def test_teacher_runs_neither_head_nor_training_mode(pairs):
    model = build(pairs['detection'])
    model.teacher.backbone.add_module('dropout', nn.Dropout())
    calls = []
    model.teacher.bbox_head.register_forward_hook(lambda *args: calls.append(args))
    before = copy.deepcopy(model.teacher.state_dict())
    assert model.train() is model
    assert not any(module.training for module in model.teacher.modules())
    assert model.training and model.distiller.training
    losses_of(model, batch('detection'))
    assert not calls
    torch.testing.assert_close(model.teacher.state_dict(), before, rtol=0, atol=0)


def test_teacher_sees_its_own_normalization(pairs):
    model = build(pairs['detection'])
    seen = []
    model.teacher.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    data = batch('detection', size=(50, 70))
    losses_of(model, data)
    teacher = build(pairs['detection']).teacher
    teacher.data_preprocessor._channel_conversion = False
    teacher.data_preprocessor.std.fill_(1.0)
    other = build(pairs['detection'], teacher=teacher)
    other.teacher.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    losses_of(other, data)
    expected = teacher.data_preprocessor(copy.deepcopy(data), training=True)['inputs']
    torch.testing.assert_close(seen[1], expected, rtol=1e-5, atol=1e-3)
    assert not torch.allclose(seen[0], seen[1], atol=1.0)


def test_teacher_in_reduced_precision(pairs):
    full, reduced = build(pairs['detection']), build(pairs['detection'], teacher_dtype='bfloat16')
    reduced.load_state_dict(full.state_dict())
    seen = []
    for model in (full, reduced):
        model.teacher.neck.register_forward_hook(lambda module, args, output: seen.append(output[0].dtype))
        model.neck.register_forward_hook(lambda module, args, output: seen.append(output[0].dtype))
    data = batch('detection')
    losses = [losses_of(model.train(), data) for model in (full, reduced)]
    assert seen == [torch.float32, torch.float32, torch.bfloat16, torch.float32]
    for name, loss in losses[0].items():
        torch.testing.assert_close(losses[1][name], loss, rtol=5e-2, atol=0)
    sum(value for name, value in losses[1].items() if name.startswith('distill.')).backward()
    assert all(parameter.grad.isfinite().all() for parameter in reduced.distiller.parameters())


def test_student_predicts(pairs):
    model = build(pairs['detection']).eval()
    data = batch('detection')
    expected = model.test_step(copy.deepcopy(data))
    found = model.test_step(copy.deepcopy(data))
    torch.testing.assert_close(found[0].pred_instances.scores, expected[0].pred_instances.scores)


def same_width(pairs, **changes):
    """The pair with a teacher as narrow as the student, so that their parts fit."""
    cfg = Config.fromfile(str(pairs['detection'])).model
    student = cfg.architecture
    torch.manual_seed(2)
    teacher = MODELS.build(copy.deepcopy(student))
    path = pairs['detection'].with_name('same_width.pth')
    save_checkpoint(dict(state_dict=teacher.state_dict()), str(path))
    return build(pairs['detection'], teacher=student, teacher_ckpt=str(path), **changes)


@pytest.mark.parametrize('parts', [['neck', 'bbox_head'], dict(neck='neck', bbox_head='bbox_head')])
def test_parts_of_the_student_start_from_the_teacher(pairs, parts):
    model = same_width(pairs, init_from_teacher=parts)
    model.init_weights()
    for part in ('neck', 'bbox_head'):
        torch.testing.assert_close(
            model.get_submodule(part).state_dict(),
            model.teacher.get_submodule(part).state_dict(),
            rtol=0,
            atol=0,
        )
    ours, theirs = model.backbone.conv1.weight, model.teacher.backbone.conv1.weight
    assert not torch.equal(ours, theirs)


@pytest.mark.parametrize('task, head', [('detection', 'bbox_head'), ('segmentation', 'decode_head')])
def test_all_that_fits_behind_the_backbone_starts_from_the_teacher(pairs, task, head):
    model = build(pairs[task], init_from_teacher='auto')  # of another width: the lateral convolutions differ
    assert list(model.init_from_teacher) == ['neck.fpn_convs', head]
    model.init_weights()
    ours, theirs = model.state_dict(), model.teacher.state_dict()
    copied = [key for key in theirs if key.startswith(('neck.fpn_convs.', f'{head}.'))]
    assert copied and all(torch.equal(ours[key], theirs[key]) for key in copied)
    if task == 'detection':
        assert list(same_width(pairs, init_from_teacher='auto').init_from_teacher) == ['neck', 'bbox_head']


@pytest.mark.parametrize(
    'changes, words',
    [
        (dict(init_from_teacher='neck'), r"got 'neck': give a list of parts, \['neck'\], or 'auto'"),
        (dict(init_from_teacher=['nek']), r"student RetinaNet has no module 'nek'; did you mean .*'neck'"),
        (dict(init_from_teacher=['backbone']), r'backbone\.bn1\.bias \(8,\) .* backbone\.bn1\.bias \(12,\)'),
        (dict(init_from_teacher=dict(neck='bbox_head')), r'the teacher has .*, the student has not|student has not'),
        (dict(teacher_ckpt='nowhere.pth'), r"teacher's checkpoint 'nowhere.pth' does not exist"),
        (
            dict(teacher_ckpt=['a', 'b.pth']),
            r"teacher's checkpoint \['a', 'b.pth'\] is no path but a list: .* a path with a comma needs quotes",
        ),
        (dict(teacher='nowhere.py'), r"config 'nowhere.py' does not exist"),
        (dict(teacher='mmdet::retinanet/no_such_model.py'), r'no_such_model.py. does not exist'),
        (dict(teacher='nopackage::retinanet.py'), r"package 'nopackage', which is not installed"),
        (dict(teacher=dict(type='NoSuchNet')), r"teacher's type 'NoSuchNet' is neither in MMDetection nor in MMSeg"),
        (dict(teacher=dict(backbone=dict())), r"give its 'type'"),
        (dict(teacher_dtype='half'), r"cannot run the teacher in 'half'"),
    ],
)
def test_mistakes_are_one_clear_sentence(pairs, changes, words):
    with pytest.raises(SetupError, match=words) as error:
        build(pairs['detection'], **changes)
    assert '\n' not in str(error.value)


def test_checkpoint_of_another_model(pairs, tmp_path):
    for state_dict, words in [
        ({'fc.weight': torch.zeros(1)}, r'lacks \d+ of the \d+ parameters'),
        ({'backbone.conv1.weight': torch.zeros(1)}, r'backbone\.conv1\.weight has the shape \(1,\) in the file and'),
        ({'architecture.neck': torch.zeros(1)}, r'holds a distillation run.*cankd export'),
    ]:
        path = tmp_path / 'other.pth'
        torch.save(dict(state_dict=state_dict), path)
        with pytest.raises(SetupError, match=words):
            build(pairs['detection'], teacher_ckpt=str(path))


def test_truncated_checkpoint(pairs, tmp_path):
    whole = Config.fromfile(str(pairs['detection'])).model.teacher_ckpt
    path = tmp_path / 'half.pth'
    path.write_bytes(open(whole, 'rb').read()[:20000])
    with pytest.raises(SetupError, match='cannot be read'):
        build(pairs['detection'], teacher_ckpt=str(path))


class _Code:
    def __reduce__(self):
        return (print, ('this ran',))


def test_checkpoint_that_carries_code_is_refused(pairs, tmp_path, capsys):
    if torch.__version__ < '2.6':
        pytest.skip('torch reads only weights by default since 2.6')
    path = tmp_path / 'code.pth'
    torch.save(dict(state_dict={}, meta=_Code()), path)
    with pytest.raises(SetupError, match='could run code'):
        build(pairs['detection'], teacher_ckpt=str(path))
    assert 'this ran' not in capsys.readouterr().out


def test_training_without_teacher_weights_is_an_error(pairs):
    model = build(pairs['detection'], teacher_ckpt=None)
    with pytest.raises(SetupError, match='model.teacher_ckpt'):
        model.init_weights()


def test_recorder_that_is_never_run(pairs):
    cfg = Config.fromfile(str(pairs['detection'])).model
    cfg.distiller.teacher_recorders = dict(input=dict(type='ModuleOutputs', source='data_preprocessor'))
    model = build(pairs['detection'], distiller=cfg.distiller)
    with pytest.raises(SetupError, match="teacher's 'data_preprocessor' recorded nothing"):
        losses_of(model, batch('detection'))


def test_logits_of_a_segmentor(pairs):
    """What is distilled lies in the head: the teacher runs that as well, without its losses."""
    loss = dict(type='KLDivergence', tau=2, loss_weight=3.0)
    distiller = dict(type='CanKDDistiller', source='decode_head.conv_seg', loss=loss)
    model = build(pairs['segmentation'], distiller=distiller)
    model.teacher.decode_head.loss_by_feat = None
    model.train()
    model.decode_head.dropout = nn.Identity()
    data = model.data_preprocessor(batch('segmentation', size=(128, 128)), training=True)
    losses = model(**data, mode='loss')
    with torch.no_grad():
        theirs = model.teacher(data['inputs'], mode='tensor')
    ours = model(data['inputs'], mode='tensor')
    expected = 3 * 4 * nn.functional.kl_div((ours / 2).log_softmax(1), (theirs / 2).softmax(1), reduction='batchmean')
    torch.testing.assert_close(losses['distill.loss_decode_head_conv_seg_0'], expected)


def test_ratio_of_the_losses_is_logged_and_not_trained(pairs):
    model = build(pairs['detection'])
    total, logged = model.parse_losses(losses_of(model, batch('detection')))
    task, distill = (sum(v for k, v in logged.items() if k.startswith(p)) for p in ('student.', 'distill.'))
    torch.testing.assert_close(logged['distill_to_task'], distill / task)
    torch.testing.assert_close(total, task + distill)


def test_registry_prefix_serves_in_place_of_the_scope(pairs):
    cfg = Config.fromfile(str(pairs['detection'])).model
    cfg.pop('_scope_')
    cfg.type = 'mmrazor.FeatureDistill'
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg)
    assert list(model.distiller.distill_losses) == ['loss_neck_0', 'loss_neck_1', 'loss_neck_2']


@pytest.mark.parametrize('loss', ['CanKDLoss', 'PKDLoss'])  # the latter has no parameters
def test_stopped_distillation_trains_the_student_alone(pairs, loss):
    cfg = Config.fromfile(str(pairs['detection'])).model
    cfg.distiller.loss = dict(type=loss)
    teacher = dict(teacher=cfg.architecture, teacher_ckpt=None) if loss == 'PKDLoss' else {}
    model = build(pairs['detection'], distiller=cfg.distiller, **teacher)
    model.distillation_stopped = True
    model.train()
    losses = losses_of(model, batch('detection'))
    assert losses.pop('distill_to_task') == 0
    assert [losses.pop(f'distill.loss_neck_{level}') for level in range(3)] == [0, 0, 0], 'and so the log says'
    assert all(name.startswith('student.') for name in losses)
    model.parse_losses(losses_of(model, batch('detection')))[0].backward()
    # As distributed training wants it.
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_losses_are_those_of_mmrazors_own_algorithm(pairs):
    """Where both normalize alike and the teacher has no dropout, only the time spent differs."""
    from cankd_mm.config.read import load_model_cfg
    from cankd_mm.models.builders import build_model
    from cankd_mm.models.checkpoints import student_state_dict

    ours = build(pairs['detection'])
    cfg = Config.fromfile(str(pairs['detection'])).model
    stock = MODELS.build(
        dict(
            _scope_='mmrazor',
            type='SingleTeacherDistill',
            architecture=build_model(cfg.architecture, 'student'),
            teacher=build_model(load_model_cfg(cfg.teacher), 'teacher'),
            distiller=cfg.distiller,
        )
    )
    stock.teacher.load_state_dict(ours.teacher.state_dict())
    stock.architecture.load_state_dict(student_state_dict(ours.state_dict()), strict=True)
    stock.distiller.load_state_dict(ours.distiller.state_dict(), strict=True)
    data = batch('detection')
    stock.train(False)  # returns nothing
    expected, found = losses_of(stock, data), losses_of(ours.eval(), data)
    assert set(found) == {*expected, 'distill_to_task'}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_deliveries_of_a_head(pairs):
    """The student's head gives what the teacher's has given, so that its task losses are the teacher's."""
    cfg = Config.fromfile(str(pairs['detection'])).model
    path = 'mmdet.models.dense_heads.RetinaHead.forward_single'
    cfg.distiller.distill_deliveries = dict(head=dict(type='MethodOutputs', max_keep_data=3, method_path=path))
    plain, model = build(pairs['detection']), build(pairs['detection'], distiller=cfg.distiller)
    data = batch('detection')
    torch.manual_seed(0)
    model.load_state_dict(plain.state_dict())
    theirs = model.teacher.eval()(**model.data_preprocessor(copy.deepcopy(data), True), mode='loss')
    losses, alone = (losses_of(each.train(), data) for each in (model, plain))
    for name, value in theirs.items():
        torch.testing.assert_close(losses[f'student.{name}'], value)
        assert not torch.allclose(alone[f'student.{name}'][0], value[0])
    assert sum(name.startswith('distill.loss') for name in losses) == 3


def test_rules_for_initial_weights_are_for_the_student_alone(pairs):
    cfg = Config.fromfile(str(pairs['detection'])).model
    cfg.architecture.init_cfg = dict(type='Constant', layer=['BatchNorm2d', 'Conv2d'], val=3.0)
    model = build(pairs['detection'], architecture=cfg.architecture)
    before = {name: value.clone() for name, value in model.distiller.state_dict().items()}
    model.init_weights()
    assert all(torch.equal(value, before[name]) for name, value in model.distiller.state_dict().items())
    assert not model.distiller.distill_losses['loss_neck_0'].can.bn.weight.any()


def test_task_loss_of_zero_is_logged_as_a_number(pairs):
    model = build(pairs['detection'])
    model.bbox_head.loss = lambda *args, **kwargs: dict(loss_cls=sum(p.sum() for p in model.parameters()) * 0)
    assert losses_of(model.train(), batch('detection'))['distill_to_task'] == 0
