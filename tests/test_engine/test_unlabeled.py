"""Images without labels: distilled, by themselves or in a batch with labelled ones, and loaded by what names them."""

import json
import re
import shutil
import time
import tracemalloc
from pathlib import Path
from threading import Timer
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from filelock import FileLock
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner

from cankd_mm.apis import against_teacher, check, export_student, train
from cankd_mm.apis import test as evaluate
from cankd_mm.apis.pair import write_pair
from cankd_mm.config import differences
from cankd_mm.config.metric import check_named
from cankd_mm.config.pair import student_config
from cankd_mm.config.read import load_config
from cankd_mm.engine import LabeledAndUnlabeled, UnlabeledImages
from cankd_mm.errors import SetupError
from cankd_mm.experiments.compare import compare
from cankd_mm.experiments.jobs import Local
from cankd_mm.experiments.tune import tune
from cankd_mm.models.builders import build_model
from cankd_mm.show.show import show
from cankd_mm.work_dir import read_scalars
from tests.conftest import ROOT
from tests.test_models.test_algorithms.test_feature_distill import TASKS, batch, build

LIBRARIES = dict(detection='mmdet', segmentation='mmseg')


def values(losses, prefix):
    total = {}
    for key, value in losses.items():
        if key.startswith(prefix):
            total[key] = float(sum(value).detach() if isinstance(value, list) else value.detach())
    return total


@pytest.mark.parametrize('labeled', [[], [0], [1], [0, 1]])
@pytest.mark.parametrize('source', ['neck', 'backbone', 'head'])
@pytest.mark.parametrize('task', TASKS)
def test_a_batch_of_any_mix(pairs, task, source, labeled):
    """All images are distilled, and those with labels have the losses that they have by themselves."""
    source = (
        source
        if source != 'head'
        else dict(detection='bbox_head.retina_reg', segmentation='decode_head.conv_seg')[task]
    )
    if source == 'bbox_head.retina_reg':
        pytest.skip('is run once a level')
    distiller = dict(type='CanKDDistiller', source=source, loss=dict(type='CanKDLoss'))
    model = build(pairs[task], distiller=distiller)
    model.init_weights()
    model.eval()
    data = model.data_preprocessor(batch(task, size=(128, 128)), training=True)
    whole = model(**data, mode='loss')
    expected = {}
    if labeled:
        samples = [data['data_samples'][number] for number in labeled]
        expected = values(model(data['inputs'][labeled], samples, mode='loss'), 'student.')
    for number, sample in enumerate(data['data_samples']):
        if number not in labeled:
            sample.set_metainfo(dict(unlabeled=True))
            for field in ('gt_instances', 'gt_sem_seg'):
                if field in sample:
                    delattr(sample, field)
    found = model(**data, mode='loss')
    assert values(found, 'distill.') == pytest.approx(values(whole, 'distill.'), rel=1e-5)
    assert values(found, 'student.') == pytest.approx(expected or {'student.loss': 0.0}, rel=1e-4, abs=1e-6)
    total, logged = model.parse_losses(found)
    total.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert ('distill_to_task' in logged) == bool(labeled), 'nothing is a share of no task loss'
    assert torch.isfinite(torch.as_tensor(logged.get('distill_to_task', 0.0)))


def folder_of(tmp_path, digits, task):
    """The images of the digit scenes in folders of folders, and nothing else of them."""
    root = tmp_path / 'my photos, new'
    images = sorted((digits / task).rglob('train*/**/*.png'))
    images = [path for path in images if 'gtFine' not in str(path)]
    for number, path in enumerate(images):
        inside = root / f'day {number % 3}' / 'more'
        inside.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, inside / f'{number}.png')
    return root, len(images)


def written(pairs, task, tmp_path, images, **options):
    cfg = Config.fromfile(str(pairs[task])).model
    student, pair = pairs[task].with_name(f'{task}_student.py'), tmp_path / 'pair.py'
    lines = write_pair(cfg.teacher, str(student), str(pair), cfg.teacher_ckpt, unlabeled=str(images), **options)
    return pair, lines


@pytest.mark.slow
@pytest.mark.parametrize('task', ['segmentation', pytest.param('detection', marks=pytest.mark.full)])
def test_from_a_folder_of_images_to_the_exported_student(pairs, digits, task, tmp_path):
    images, count = folder_of(tmp_path, digits, task)
    pair, said = written(pairs, task, tmp_path, images, recommended=True)
    assert any('LoadAnnotations' in line and line.startswith('left out') for line in said)
    options = {'randomness.seed': 0, 'auto_scale_lr.base_batch_size': 4}
    runner = train(str(pair), work_dir=str(tmp_path / 'run'), cfg_options=options)
    assert len(runner.train_dataloader.dataset) == count
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert 'no image has labels' in log and 'student.loss_' not in log
    assert not re.search(r'WARNING - [a-z\d]', log), 'as those of the preflight begin'
    assert re.search(r'distill\.loss_neck_0: [\d.]+', log)
    (head,) = runner.model.frozen_parts
    ours, theirs = (getattr(model, head).state_dict() for model in (runner.model, runner.model.teacher))
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items()), 'it stays as the teacher has it'
    trained = runner.model.neck.state_dict()
    assert not all(torch.equal(value, runner.model.teacher.neck.state_dict()[key]) for key, value in trained.items())
    config, weights = export_student(str(pair), str(tmp_path / 'run' / 'epoch_2.pth'))
    assert 'cankd_mm' not in open(config).read().replace(str(tmp_path), '')
    plain = load_config(config)
    assert 'UnlabeledImages' not in open(config).read() and plain.train_dataloader is plain.train_cfg is None
    assert evaluate(config, weights, work_dir=str(tmp_path / 'test'))
    compared = compare(str(pair), [], work_dir=str(tmp_path / 'compare'), train=False)
    assert list(compared['methods']) == ['cankd'], 'without labels there is no student alone'


@pytest.mark.slow
def test_a_training_that_goes_on_repeats_the_uninterrupted_one(pairs, digits, tmp_path):
    images, _ = folder_of(tmp_path, digits, 'segmentation')
    pair, _ = written(pairs, 'segmentation', tmp_path, images)
    options = {'randomness.seed': 3, 'train_dataloader.dataset.length': 8, 'train_cfg.val_begin': 9}
    whole = train(str(pair), work_dir=str(tmp_path / 'whole'), cfg_options=options)
    parts = tmp_path / 'parts'
    parts.mkdir()
    shutil.copy(tmp_path / 'whole' / 'epoch_1.pth', parts)
    resumed = train(str(pair), work_dir=str(parts), cfg_options=options, resume=str(parts / 'epoch_1.pth'))
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in resumed.model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize('task', ['detection', pytest.param('segmentation', marks=pytest.mark.full)])
def test_beside_a_labelled_data_set(pairs, digits, task, tmp_path):
    images, count = folder_of(tmp_path, digits, task)
    data = tmp_path / 'data.py'
    shutil.copy(pairs[task].with_name(f'{task}_student.py'), data)
    pair, _ = written(pairs, task, tmp_path, images, data=str(data))
    options = {'train_cfg.max_epochs': 1, 'train_dataloader.dataset.ratio': 0.5}
    runner = train(str(pair), work_dir=str(tmp_path / 'run'), cfg_options=options)
    dataset = runner.train_dataloader.dataset
    assert [len(part) for part in dataset.datasets] == [8, 4] and dataset.metainfo['classes']
    assert runner.iter == 3 and runner.model.frozen_parts == []
    marks = [bool(dataset[number]['data_samples'].metainfo.get('unlabeled')) for number in range(12)]
    assert marks == [False] * 8 + [True] * 4
    alone = student_config(load_config(str(pair)), exported=False).train_dataloader.dataset
    assert alone == load_config(str(tmp_path / f'{task}_student_data.py')).train_dataloader.dataset
    pair.unlink()
    written(pairs, task, tmp_path, images, data=str(data), recommended=True)
    assert load_config(str(pair)).model.frozen_parts == [dict(detection='bbox_head', segmentation='decode_head')[task]]


def with_switch(pairs, tmp_path):
    """A student whose augmentation is exchanged in the second epoch, as those of RTMDet and YOLOX are."""
    student, steps = pairs['detection'].with_name('detection_student.py'), load_config(str(pairs['detection']))
    steps = steps.train_dataloader.dataset.to_dict()['pipeline']
    steps.insert(-1, dict(type='RandomFlip', prob=1.0))
    hooks = [dict(type='PipelineSwitchHook', switch_epoch=1, switch_pipeline=steps), dict(type='EMAHook')]
    path = tmp_path / 'switching.py'
    path.write_text(f'_base_ = {str(student)!r}\ncustom_hooks = {hooks}\n')
    return path


@pytest.mark.slow
def test_augmentation_that_is_exchanged_late_is_that_of_labelled_images(pairs, digits, tmp_path):
    images, _ = folder_of(tmp_path, digits, 'detection')
    cfg, student, data = load_config(str(pairs['detection'])).model, with_switch(pairs, tmp_path), tmp_path / 'data.py'
    shutil.copy(pairs['detection'].with_name('detection_student.py'), data)

    def kinds(dataset):
        return [type(step).__name__ for step in dataset.pipeline.transforms]

    beside, alone = (str(tmp_path / f'{name}.py') for name in ('beside', 'alone'))
    write_pair(cfg.teacher, str(student), beside, cfg.teacher_ckpt, data=str(data), unlabeled=str(images))
    runner = train(beside, work_dir=str(tmp_path / 'beside'))
    labeled, unlabeled = runner.train_dataloader.dataset.datasets
    assert 'RandomFlip' in kinds(labeled) and 'RandomFlip' not in kinds(unlabeled)

    said = write_pair(cfg.teacher, str(student), alone, cfg.teacher_ckpt, unlabeled=str(images), recommended=True)
    assert any(line.startswith('left out') and 'PipelineSwitchHook' in line for line in said)
    assert [hook.type for hook in load_config(alone).custom_hooks] == ['EMAHook']
    hooks = load_config(str(student)).custom_hooks
    with pytest.raises(SetupError, match='PipelineSwitchHook exchanges .* take it out of custom_hooks'):
        train(alone, work_dir=str(tmp_path / 'alone'), cfg_options=dict(custom_hooks=hooks))


def test_mosaic_that_is_left_out_late_is_that_of_labelled_images():
    left, mixed = [], object.__new__(LabeledAndUnlabeled)
    mixed.datasets = [SimpleNamespace(update_skip_type_keys=left.extend), None]
    mixed.update_skip_type_keys(('Mosaic', 'MixUp'))
    assert left == ['Mosaic', 'MixUp']


@pytest.mark.slow
def test_hooks_that_act_on_a_training_alone_leave_the_student_with_it(pairs, digits, tmp_path):
    """Without labels no training is left, of whose loop some ask."""
    images, _ = folder_of(tmp_path, digits, 'segmentation')
    pair, _ = written(pairs, 'segmentation', tmp_path, images)
    hooks = [dict(type='EarlyStoppingHook', monitor='mIoU'), dict(type='EMAHook'), dict(type='SegVisualizationHook')]
    options = {'custom_hooks': hooks, 'train_cfg.max_epochs': 1}
    train(str(pair), work_dir=str(tmp_path / 'run'), cfg_options=options)
    checkpoint = str(tmp_path / 'run' / 'epoch_1.pth')
    figures = evaluate(str(pair), checkpoint, work_dir=str(tmp_path / 'test'), cfg_options=options)
    config, weights = export_student(str(pair), checkpoint, cfg_options=options)
    plain = Config.fromfile(config)
    assert [hook.type for hook in plain.custom_hooks] == ['EMAHook', 'SegVisualizationHook']
    plain.load_from, plain.work_dir = weights, str(tmp_path / 'plain')
    assert Runner.from_cfg(plain).test() == figures


@pytest.mark.slow
@pytest.mark.full
def test_averages_of_the_weights_accumulated_gradients_and_the_page(pairs, digits, tmp_path):
    images, _ = folder_of(tmp_path, digits, 'segmentation')
    pair, _ = written(pairs, 'segmentation', tmp_path, images)
    options = {
        'custom_hooks': [dict(type='EMAHook'), dict(type='CanBlockMonitorHook', interval=1)],
        'optim_wrapper.accumulative_counts': 2,
    }
    runner = train(str(pair), work_dir=str(tmp_path / 'run'), cfg_options=options)
    ema = runner.model.state_dict()
    saved = torch.load(tmp_path / 'run' / 'epoch_2.pth')
    assert saved['ema_state_dict'] and ema.keys() == saved['state_dict'].keys()
    page = show(str(pair), str(tmp_path / 'run' / 'epoch_2.pth'), count=1, out=str(tmp_path / 'page'), evaluate=False)
    assert 'What it changed' in open(page).read()


def test_images_that_are_validated_on_are_named(pairs, digits, tmp_path):
    pair, _ = written(pairs, 'segmentation', tmp_path, digits / 'segmentation' / 'leftImg8bit')
    count = len(list((digits / 'segmentation' / 'leftImg8bit' / 'val').rglob('*.png')))
    assert f'warning: {count} of the images without labels are those of the validation' in '\n'.join(check(str(pair)))


def test_classes_of_another_order_are_named(pairs, digits, tmp_path):
    """A frozen head would give them the wrong names; where all is trained it is a warning."""
    images, _ = folder_of(tmp_path, digits, 'detection')
    cfg = Config.fromfile(str(pairs['detection'])).model
    weights = torch.load(cfg.teacher_ckpt)
    weights['meta'] = dict(dataset_meta=dict(classes=('1', '0', *'23456789')))
    torch.save(weights, tmp_path / 'other.pth')
    options = {'model.teacher_ckpt': str(tmp_path / 'other.pth')}
    pair, _ = written(pairs, 'detection', tmp_path, images)
    with pytest.raises(SetupError, match="class 0 is '0' in the data and '1' in the teacher's checkpoint: give both"):
        train(str(pair), work_dir=str(tmp_path / 'run'), cfg_options=options)
    lines = check(str(pairs['detection']), cfg_options=options)
    assert any(line.startswith("warning: class 0 is '0' in the data and '1'") for line in lines)


def test_where_nothing_has_labels_nothing_is_validated(pairs, digits, tmp_path):
    images, count = folder_of(tmp_path, digits, 'segmentation')
    student = tmp_path / 'student.py'
    base = pairs['segmentation'].with_name('segmentation_student.py')
    student.write_text(f"_base_ = '{base}'\nval_dataloader = dict(dataset=dict(data_root='nowhere/'))\n")
    cfg = Config.fromfile(str(pairs['segmentation'])).model
    pair = tmp_path / 'pair.py'
    said = write_pair(cfg.teacher, str(student), str(pair), cfg.teacher_ckpt, unlabeled=str(images))
    assert any(f'{count} of {images}, an epoch of {-(-count // 4)} iterations' in line for line in said)
    assert any(line.startswith('no validation, as its data is not there') for line in said)
    runner = train(str(pair), work_dir=str(tmp_path / 'run'), cfg_options={'train_cfg.max_epochs': 1})
    assert runner.val_loop is None and (tmp_path / 'run' / 'epoch_1.pth').exists()


class InThisProcess(Local):
    """Where the trainings of a search run one after another."""

    def __init__(self):
        super().__init__(1)

    def run(self, job, ends=None):
        train(job.config, work_dir=str(job.work_dir), cfg_options=job.options)
        return job.done


def test_a_process_that_waits_for_labels_gives_up_where_nobody_makes_them(tmp_path, monkeypatch):
    """And waits while the first one has their folder."""
    monkeypatch.setattr(against_teacher, '_SECONDS', 0.01)
    monkeypatch.setattr(against_teacher, '_PATIENCE', 0.2)
    folder, start = tmp_path / 'labels', time.monotonic()
    folder.mkdir()
    lock = FileLock(str(folder / '.lock'), thread_local=False)
    lock.acquire()
    Timer(0.5, lock.release).start()
    with pytest.raises(SetupError, match="no longer labels images in '.*labels', .* see what that one said last"):
        against_teacher._wait_for(folder)
    assert time.monotonic() - start > 0.6
    (folder / 'labels.json').write_text('{"counts": {}}')
    against_teacher._wait_for(folder)


@pytest.mark.slow
@pytest.mark.parametrize('task', ['segmentation', pytest.param('detection', marks=pytest.mark.full)])
def test_the_teacher_rates_a_training_whose_validation_has_no_labels(pairs, digits, task, tmp_path, monkeypatch):
    """By that name in the log, the best checkpoint, and the table of a comparison; the export is plain."""
    images, _ = folder_of(tmp_path, digits, task)
    val = str(digits / dict(detection='detection/val', segmentation='segmentation/leftImg8bit/val')[task])
    pair, said = written(pairs, task, tmp_path, images, unlabeled_val=val)
    weights, sure = torch.load(load_config(str(pair)).model.teacher_ckpt), tmp_path / 'sure.pth'
    last = dict(detection='bbox_head.retina_cls', segmentation='decode_head.conv_seg')[task]
    weights['state_dict'][f'{last}.weight'] *= 100  # one that trained none is sure of nothing
    weights['state_dict'][f'{last}.bias'] *= 0
    torch.save(weights, sure)
    assert any(line.startswith('validation: ') and "the teacher's predictions count as true" in line for line in said)
    options = {'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1, 'randomness.seed': 0}
    options['model.teacher_ckpt'] = str(sure)
    runner = train(str(pair), work_dir=str(tmp_path / 'run'), cfg_options=options)
    key, name = dict(detection=('bbox_mAP', 'box AP'), segmentation=('mIoU', 'mIoU'))[task]
    assert runner.cfg.default_hooks.checkpoint.get('save_best') is None  # as the runner chooses it
    logged = [entry for entry in read_scalars(tmp_path / 'run') if f'against_teacher/{key}' in entry]
    assert len(logged) == 1 and 'teacher/against_teacher' not in str(logged)
    assert list((tmp_path / 'run').glob(f'best_against_teacher_{key}_epoch_1.pth')) or logged[0].values() == 0
    compared = compare(str(pair), [], [0], work_dir=str(tmp_path / 'compare'), cfg_options=options)
    assert compared['metric'] == f'{name} against the teacher' and 'exported student' in compared['runs'][0]['measured']
    assert compared['runs'][0]['metrics'][f'against_teacher/{key}'] == pytest.approx(
        logged[0][f'against_teacher/{key}']
    )
    place = InThisProcess()
    tune(str(pair), ['weight'], trials=1, work_dir=str(tmp_path / 'tune'), cfg_options=options, place=place)
    assert [folder.parent.name for folder in (tmp_path / 'tune').rglob('teacher_labels_*')] == ['tune']  # once
    told, student = [], str(tmp_path / 'run' / 'epoch_1.pth')
    monkeypatch.setattr(differences, 'warn', told.append)
    for name, against in dict(own=None, other=str(images)).items():
        evaluate(str(pair), student, work_dir=str(tmp_path / name), cfg_options=options, against_teacher=against)
    config, _ = export_student(str(pair), student, cfg_options={'model.teacher_ckpt': str(sure)})
    assert told == [], 'the test is that of the run'
    assert load_config(config).val_dataloader is load_config(config).test_cfg is None
    assert check(str(pair), work_dir=str(tmp_path / 'look')) and not (tmp_path / 'look').exists()
    plain = tmp_path / 'plain.py'
    plain.write_text(f"_base_ = '{pair.name}'\nmodel = dict(_delete_=True, **_base_.model.architecture)\n")
    with pytest.raises(SetupError, match='has no teacher whose predictions count: give the config of a pair'):
        evaluate(str(plain), str(tmp_path / 'run' / 'epoch_1.pth'))


def test_hooks_wait_for_the_metric_that_the_teacher_rates_by(pairs, digits, tmp_path):
    """By the name that it then has; MMEngine would end the training at its first validation."""
    images, _ = folder_of(tmp_path, digits, 'segmentation')
    student, pair = tmp_path / 'student.py', tmp_path / 'pair.py'
    student.write_text(
        f'_base_ = {str(pairs["segmentation"].with_name("segmentation_student.py"))!r}\n'
        "default_hooks = dict(checkpoint=dict(save_best=['mIoU', 'mDice']))\n"
        "custom_hooks = [dict(type='EarlyStoppingHook', monitor='mIoU'), dict(type='EMAHook')]\n"
        "val_evaluator = dict(iou_metrics=['mIoU', 'mDice'])\n"
    )
    cfg = Config.fromfile(str(pairs['segmentation'])).model
    write_pair(cfg.teacher, str(student), str(pair), cfg.teacher_ckpt, unlabeled=str(images), unlabeled_val=str(images))
    cfg = load_config(str(pair))
    assert cfg.default_hooks.checkpoint.save_best == ['against_teacher/mIoU', 'against_teacher/mDice']
    assert [hook.get('monitor') for hook in cfg.custom_hooks] == ['against_teacher/mIoU', None]
    assert cfg.val_evaluator.iou_metrics == ['mIoU', 'mDice']
    check_named(cfg)


def test_a_head_that_nothing_trains_is_named(pairs, digits, tmp_path):
    """By the command that writes the pair, and before the first iteration of one that was written by hand."""
    images, _ = folder_of(tmp_path, digits, 'detection')
    pair, _ = written(pairs, 'detection', tmp_path, images)
    options = {'model.frozen_parts': [], 'model.init_from_teacher': ['neck.fpn_convs']}
    with pytest.raises(SetupError, match="nothing else trains the student's bbox_head: give a student .* or label"):
        train(str(pair), work_dir=str(tmp_path / 'run'), cfg_options=options)
    with pytest.raises(SetupError, match="frozen_parts names 'bbox_head', which does not start from the teacher's"):
        train(str(pair), work_dir=str(tmp_path / 'run'), cfg_options={'model.init_from_teacher': ['neck.fpn_convs']})
    student = tmp_path / 'other.py'
    base = pairs['detection'].with_name('detection_student.py')
    student.write_text(f"_base_ = '{base}'\nmodel = dict(bbox_head=dict(stacked_convs=1))\n")
    cfg = Config.fromfile(str(pairs['detection'])).model
    with pytest.raises(SetupError, match="student's bbox_head does not fit the teacher's, and without labels nothing"):
        write_pair(cfg.teacher, str(student), str(tmp_path / 'no.py'), cfg.teacher_ckpt, unlabeled=str(images))


def test_the_logits_train_a_segmentors_head_that_does_not_fit(pairs, digits, tmp_path):
    images, _ = folder_of(tmp_path, digits, 'segmentation')
    student = tmp_path / 'other.py'
    base = pairs['segmentation'].with_name('segmentation_student.py')
    student.write_text(f"_base_ = '{base}'\nmodel = dict(decode_head=dict(channels=24))\n")
    cfg = Config.fromfile(str(pairs['segmentation'])).model
    said = write_pair(cfg.teacher, str(student), str(tmp_path / 'pair.py'), cfg.teacher_ckpt, unlabeled=str(images))
    assert "where images have no labels: the divergence of the logits from the teacher's trains the head" in said
    options = {'train_cfg.max_epochs': 1, 'train_cfg.val_begin': 9}
    runner = train(str(tmp_path / 'pair.py'), work_dir=str(tmp_path / 'run'), cfg_options=options)
    state = runner.optim_wrapper.optimizer.state
    assert all(state[parameter]['exp_avg'].any() for parameter in runner.model.decode_head.parameters())


RATING = ('dataloader', 'evaluator', 'cfg')


@pytest.fixture
def one_channel(pairs, tmp_path):
    """A teacher of two classes with a sigmoid, its weights, and a student whose head does not fit."""
    base = pairs['segmentation'].with_name('segmentation_student.py')
    head = dict(num_classes=2, out_channels=1, loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True))
    head['loss_decode']['_delete_'] = True
    teacher, student, weights = (tmp_path / name for name in ('one.py', 'other.py', 'one.pth'))
    teacher.write_text(f'_base_ = {str(base)!r}\nmodel = dict(decode_head={head})\n')
    student.write_text("_base_ = './one.py'\nmodel = dict(decode_head=dict(channels=24))\n")
    torch.save(dict(state_dict=build_model(load_config(str(teacher)).model, 'teacher').state_dict()), weights)
    return str(teacher), str(student), str(weights)


def test_logits_of_one_channel_tell_nothing_by_a_softmax(one_channel, pairs, digits, tmp_path):
    """By which they would be distilled to the end, and nothing be learnt."""
    images, _ = folder_of(tmp_path, digits, 'segmentation')
    teacher, student, weights = one_channel
    with pytest.raises(SetupError, match='decode_head does not fit .*its logits have a single channel'):
        write_pair(teacher, student, str(tmp_path / 'no.py'), weights, unlabeled=str(images))
    write_pair(teacher, teacher, str(tmp_path / 'pair.py'), weights, unlabeled=str(images), recommended=True)
    cfg = load_config(str(tmp_path / 'pair.py'))
    cfg.merge_from_dict(Config.fromfile(str(ROOT / 'configs/methods/kl-segmentation.py')).to_dict())
    cfg.merge_from_dict(dict.fromkeys([f'{split}_{key}' for split in ('val', 'test') for key in RATING]))
    cfg.train_dataloader.dataset.metainfo = dict(classes=('ground', 'digit'))
    cfg.dump(str(tmp_path / 'kl.py'))
    with pytest.raises(SetupError, match='is zero, as the softmax over a single channel is 1 everywhere'):
        check(str(tmp_path / 'kl.py'))


PIPELINE = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64)), dict(type='PackDetInputs')]


def images_in(folder, count=7):
    for number in range(count):
        path = folder / f'{number % 2}' / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((20, 30, 3), number, np.uint8))
    return sorted(map(str, folder.rglob('*.png')))


def dataset_of(images, **options):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return DATASETS.build(dict(type='UnlabeledImages', images=str(images), pipeline=PIPELINE, **options))


def test_images_are_named_by_folder_list_or_coco_file(tmp_path):
    paths = images_in(tmp_path / 'photos')
    (tmp_path / 'list.txt').write_text('\n'.join(paths))
    entries = [dict(id=i, file_name=path) for i, path in enumerate(paths)]
    (tmp_path / 'coco.json').write_text(json.dumps(dict(images=entries, annotations=[])))
    for source in ('photos', 'list.txt', 'coco.json'):
        dataset = dataset_of(tmp_path / source)
        assert isinstance(dataset, UnlabeledImages) and len(dataset) == 7
        assert sorted(dataset.get_data_info(number)['img_path'] for number in range(7)) == paths
        item = dataset[3]
        assert item['data_samples'].metainfo['unlabeled'] and item['inputs'].shape[1:] == (64, 64)
        assert (dataset.get_data_info(0)['width'], dataset.get_data_info(0)['height']) == (30, 20)


@pytest.mark.parametrize('length, expected', [(None, 1), (7, 1), (21, 3), (3, 0)])
def test_an_epoch_is_drawn_from_even_parts(tmp_path, length, expected):
    images_in(tmp_path)
    dataset = dataset_of(tmp_path, length=length)
    shown = [int(dataset[number]['inputs'][0, 0, 0]) for number in range(len(dataset))]
    assert len(shown) == (length or 7) and all(shown.count(number) >= expected for number in range(7))
    if length == 3:
        drawn = {tuple(int(dataset[number]['inputs'][0, 0, 0]) for number in range(3)) for _ in range(50)}
        assert len(drawn) > 5 and all(len(set(epoch)) == 3 for epoch in drawn)
        assert {number for epoch in drawn for number in epoch} == set(range(7))


def test_broken_and_tiny_images_are_named_and_left_out(tmp_path):
    images_in(tmp_path)
    (tmp_path / '0' / 'broken.png').write_bytes(b'no image')
    cv2.imwrite(str(tmp_path / '1' / 'tiny.png'), np.zeros((3, 90, 3), np.uint8))
    dataset, said = dataset_of(tmp_path), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('cankd_mm.engine.unlabeled.warn', said.append)
        for _ in range(2):
            shown = [dataset[number]['data_samples'].img_path for number in range(len(dataset))]
    assert len(dataset) == len(shown) == 9 and not {'broken', 'tiny'} & {Path(path).stem for path in shown}
    assert len(said) == 2 and all(
        re.search("The image '.*(broken|tiny).png' .*, and is left out", line) for line in said
    )


def test_a_folder_of_broken_images_is_one_sentence(tmp_path):
    for number in range(3):
        (tmp_path / f'{number}.png').write_bytes(b'no image')
    with pytest.raises(SetupError, match='None of 3 images of .* can be used: give whole images'):
        dataset_of(tmp_path)[0]


@pytest.mark.parametrize('source', ['nowhere', 'empty', 'list.txt'])
def test_nothing_there_is_one_sentence(tmp_path, source):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'list.txt').write_text('nowhere.png\n')
    with pytest.raises(SetupError, match='does not exist|There is no image'):
        dataset_of(tmp_path / source)


def test_a_million_names_are_there_in_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(
        'cankd_mm.engine.unlabeled.list_images', lambda source: (f'/data/photos/{n:07d}.jpg' for n in range(10**6))
    )
    tracemalloc.start()
    start = time.perf_counter()
    dataset = dataset_of(tmp_path)
    seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(dataset) == 10**6 and dataset._info(999999, 0)['img_path'] == '/data/photos/0999999.jpg'
    assert peak < 100 * 2**20, peak  # 24 bytes of name and 8 more
    assert seconds < 60


@pytest.mark.parametrize('ratio', [0, -1.0])
def test_a_ratio_is_positive(ratio):
    with pytest.raises(SetupError, match='LabeledAndUnlabeled got ratio='):
        LabeledAndUnlabeled(dict(), dict(), ratio=ratio)
