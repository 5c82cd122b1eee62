"""Algorithms, runners and configs that are not this package's own, through its tools."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from cankd_mm.apis import export_student, train
from cankd_mm.apis import test as evaluate
from cankd_mm.config.read import load_model_cfg
from cankd_mm.errors import SetupError
from cankd_mm.work_dir import read_scalars
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

SINGLE_TEACHER = """
_base_ = '{student}'
model = dict(
    _delete_=True,
    _scope_='mmrazor',
    type='SingleTeacherDistill',
    data_preprocessor=dict(
        type='mmdet.DetDataPreprocessor', mean=[100.0] * 3, std=[50.0] * 3, bgr_to_rgb=True, pad_size_divisor=32),
    architecture=_base_.model,
    teacher=_base_.model,
    distiller=dict(
        type='ConfigurableDistiller',
        student_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
        teacher_recorders=dict(fpn=dict(type='ModuleOutputs', source='neck')),
        distill_losses=dict(loss_fpn=dict(type='PKDLoss', loss_weight=6)),
        loss_forward_mappings=dict(
            loss_fpn=dict(
                preds_S=dict(from_student=True, recorder='fpn', data_idx=1),
                preds_T=dict(from_student=False, recorder='fpn', data_idx=1)))))
find_unused_parameters = True
val_cfg = dict(type='mmrazor.SingleTeacherDistillValLoop')
custom_hooks = [dict(type='mmrazor.StopDistillHook', stop_epoch=1)]
"""


def test_algorithm_of_mmrazor_goes_the_whole_way(pairs, tmp_path):
    pair = tmp_path / 'single.py'
    pair.write_text(SINGLE_TEACHER.format(student=pairs['detection'].with_name('detection_student.py')))
    options = {'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1}
    train(str(pair), work_dir=str(tmp_path), cfg_options=options)
    runner = train(str(pair), work_dir=str(tmp_path), resume='auto', cfg_options={**options, 'train_cfg.max_epochs': 2})
    assert runner.iter == 4
    config, checkpoint = export_student(str(pair), str(tmp_path / 'epoch_2.pth'))
    exported = Config.fromfile(config)
    assert 'mmrazor.' not in exported.pretty_text and exported.custom_hooks == []
    # MMRazor has the algorithm's preprocessor go first: what is exported is what was trained.
    assert exported.model.data_preprocessor.mean == [100.0] * 3
    assert 'coco/bbox_mAP' in evaluate(config, checkpoint, work_dir=str(tmp_path / 'test'))
    weights = torch.load(checkpoint)['state_dict']
    assert all(torch.equal(value, weights[key]) for key, value in runner.model.architecture.state_dict().items())


def test_flexible_runner_resumes_and_loads(pairs, tmp_path):
    options = {'runner_type': 'FlexibleRunner', 'train_cfg.max_epochs': 1, 'train_cfg.val_begin': 9}
    train(str(pairs['detection']), work_dir=str(tmp_path), cfg_options=options)
    longer = {**options, 'train_cfg.max_epochs': 2}
    runner = train(str(pairs['detection']), work_dir=str(tmp_path), cfg_options=longer, resume='auto')
    assert runner.iter == 4 and (tmp_path / 'epoch_2.pth').exists()
    started = {**options, 'load_from': str(tmp_path / 'epoch_2.pth'), 'optim_wrapper.optimizer.lr': 0.0}
    runner = train(str(pairs['detection']), work_dir=str(tmp_path / 'other'), cfg_options=started)
    saved = torch.load(tmp_path / 'epoch_2.pth')['state_dict']
    for name, parameter in runner.model.named_parameters():
        torch.testing.assert_close(parameter.detach(), saved[name], rtol=0, atol=0, msg=name)


def test_plain_students_weights_are_a_start_of_the_pair(pairs, tmp_path):
    """The student is the model: what a plain training wrote fits as it is."""
    options = {'train_cfg.max_epochs': 1, 'train_cfg.val_begin': 9}
    student = pairs['detection'].with_name('detection_student.py')
    train(str(student), work_dir=str(tmp_path / 'plain'), cfg_options=options)
    start = str(tmp_path / 'plain' / 'epoch_1.pth')
    options.update({'load_from': start, 'optim_wrapper.optimizer.lr': 0.0})
    runner = train(str(pairs['detection']), work_dir=str(tmp_path / 'pair'), cfg_options=options)
    saved = torch.load(start)['state_dict']
    for name, parameter in runner.model.named_parameters():
        assert name.startswith('distiller.') or torch.equal(parameter.detach(), saved[name])


def test_checkpoint_of_a_pair_is_one_of_the_plain_student(pairs, tmp_path):
    options = {'train_cfg.max_epochs': 1, 'train_cfg.val_begin': 9}
    trained = train(str(pairs['detection']), work_dir=str(tmp_path), cfg_options=options).model
    cfg = Config.fromfile(str(pairs['detection'].with_name('detection_student.py')))
    cfg.update(work_dir=str(tmp_path / 'plain'), load_from=str(tmp_path / 'epoch_1.pth'))
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, trained.state_dict()[name]), name


@pytest.mark.parametrize('student', ['mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py'])
def test_student_whose_config_imports_something_is_a_base_beside_ours(tmp_path, student):
    pair = tmp_path / 'pair.py'
    pair.write_text(
        f"_base_ = ['{student}', '{ROOT}/configs/_base_/cankd_fpn.py']\n"
        "model = dict(_delete_=True, _scope_='mmrazor', type='FeatureDistill', architecture=_base_.model,\n"
        f"             teacher='{student}', distiller=_base_.distiller)\n"
    )
    cfg = Config.fromfile(str(pair))
    assert cfg.custom_imports.imports and cfg.runner_type == 'DistillRunner' and cfg.distiller.source == 'neck'


def test_grey_student_of_a_teacher_for_colour(pairs, tmp_path):
    """Trained, validated beside its teacher, which is evaluated by itself as well."""
    pair = pairs['detection'].with_name('grey_pair.py')
    pair.write_text(
        f"_base_ = '{pairs['detection'].name}'\n"
        "load = dict(type='LoadImageFromFile', color_type='grayscale')\n"
        'train_dataloader = dict(dataset=dict(pipeline=[load, *_base_.train_pipeline[1:]]))\n'
        'val_dataloader = dict(dataset=dict(pipeline=[load, *_base_.test_pipeline[1:]]))\n'
        'test_dataloader = val_dataloader\n'
        'preprocessor = dict(mean=[127.0], std=[60.0], bgr_to_rgb=False)\n'
        'model = dict(architecture=dict(data_preprocessor=preprocessor, backbone=dict(in_channels=1)))\n'
        'train_cfg = dict(max_epochs=1, val_interval=1)\n'
    )
    train(str(pair), work_dir=str(tmp_path))
    validated = next(entry for entry in read_scalars(tmp_path) if 'teacher/coco/bbox_mAP' in entry)
    alone = evaluate(str(pair), teacher=True, work_dir=str(tmp_path / 'test'))
    assert alone['coco/bbox_mAP_50'] == pytest.approx(validated['teacher/coco/bbox_mAP_50'], abs=1e-6)


@pytest.mark.parametrize('name', ['pair', 'student'])
def test_label_that_was_not_looked_at_is_found_when_it_ends_the_training(pairs, tmp_path, monkeypatch, name):
    """A data set may have more label maps than there is time for."""
    monkeypatch.setattr('cankd_mm.apis.data._SECONDS', -1.0)
    root = Path(Config.fromfile(str(pairs['segmentation'])).train_dataloader.dataset.data_root)
    shutil.copytree(root, tmp_path / 'data')
    path = tmp_path / 'data' / 'gtFine' / 'train' / 'scenes' / '0006_gtFine_labelTrainIds.png'
    labels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    labels[:4] = 77
    cv2.imwrite(str(path), labels)
    config = pairs['segmentation'] if name == 'pair' else pairs['segmentation'].with_name('segmentation_student.py')
    options = {'train_dataloader.dataset.data_root': f'{tmp_path}/data/', 'train_dataloader.batch_size': 2}
    with pytest.raises(SetupError, match='0006_gtFine_labelTrainIds.png.* holds the label 77'):
        train(str(config), work_dir=str(tmp_path / 'run'), cfg_options=options)


@pytest.mark.parametrize(
    'path', ['mmdet::gn+ws/faster-rcnn_r50_fpn_gn-ws-all_1x_coco.py', 'mmdet::legacy_1.x/ssd300_coco_v1.py']
)
def test_zoo_configs_in_folders_of_any_name(path):
    assert load_model_cfg(path)['type']


@pytest.mark.skipif(find_spec('mmpretrain') is not None, reason='mmpretrain is installed')
def test_teacher_that_wants_another_package():
    with pytest.raises(SetupError, match='imports what is not found .*mmpretrain'):
        load_model_cfg('mmdet::convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py')


def test_evaluations_of_one_second_have_a_scope_each(pairs, tmp_path, monkeypatch):
    """MMEngine gives runs of one name in one second the scope of the first, and looks into that which was made last."""
    setup = Runner.setup_env
    monkeypatch.setattr(Runner, 'setup_env', lambda self, *args: [setup(self, *args), setattr(self, '_timestamp', 'x')])
    for task in ('segmentation', 'detection', 'segmentation'):
        evaluate(str(pairs[task]), teacher=True, work_dir=str(tmp_path / task))
