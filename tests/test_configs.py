"""The configs of the paper's experiments: the recipe, the teachers' addresses, and a true training step."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from mmengine.utils import get_installed_path
from mmrazor.registry import MODELS

from tests.conftest import ROOT
from tests.test_models.test_algorithms.test_feature_distill import batch

FOLDER = ROOT / 'configs'
DETECTION = sorted((FOLDER / 'detection').glob('*.py'))
SEGMENTATION = sorted((FOLDER / 'segmentation').glob('*.py'))


@pytest.mark.parametrize('path', DETECTION, ids=lambda path: path.stem)
def test_recipe_of_detection(path):
    cfg = Config.fromfile(str(path))
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ('SGD', 0.005, 0.9, 1e-4)
    assert cfg.optim_wrapper.clip_grad.max_norm == 35
    assert cfg.train_cfg.max_epochs == 24 and cfg.param_scheduler[1].milestones == [16, 22]
    assert cfg.param_scheduler[0].type == 'LinearLR' and cfg.param_scheduler[0].end == 500
    assert cfg.auto_scale_lr.base_batch_size == 4 and cfg.train_dataloader.batch_size == 2
    distiller = cfg.model.distiller
    assert (distiller.source, distiller.levels, distiller.loss.loss_weight) == ('neck', 4, 5.0)
    assert cfg.model.get('init_from_teacher') == (['neck', 'bbox_head'] if 'init' in path.stem else None)


@pytest.mark.parametrize('path', SEGMENTATION, ids=lambda path: path.stem)
def test_recipe_of_segmentation(path):
    cfg = Config.fromfile(str(path))
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ('SGD', 0.01, 0.9, 5e-4)
    assert cfg.train_cfg.max_iters == 80000 and cfg.param_scheduler[0].type == 'PolyLR'
    assert cfg.crop_size == (512, 1024) and cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr.base_batch_size == 4
    distiller = cfg.model.distiller
    assert (distiller.source, distiller.loss.loss_weight) == ('backbone.layer4', 5.0)


@pytest.mark.parametrize('path', DETECTION + SEGMENTATION, ids=lambda path: path.stem)
def test_teacher_is_the_model_zoos(path):
    model = Config.fromfile(str(path)).model
    assert model.teacher_ckpt == get_config(model.teacher, pretrained=True).model_path


@pytest.mark.parametrize('path', DETECTION + SEGMENTATION, ids=lambda path: path.stem)
def test_nothing_else_of_the_stock_student_changes(path):
    cfg = Config.fromfile(str(path))
    base = next(b for b in bases(path) if '::' in b)
    stock = get_config(base)
    assert without_scope(cfg.model.architecture) == without_scope(stock.model)
    for key in (
        'train_dataloader',
        'val_dataloader',
        'test_dataloader',
        'test_evaluator',
        'param_scheduler',
        'train_cfg',
    ):
        assert without_scope(cfg[key]) == without_scope(stock[key]), key


def bases(path):
    found = Config._get_base_files(str(path))
    return [b for base in found for b in ([base] if '::' in base else bases((path.parent / base).resolve()))]


def without_scope(value):
    if isinstance(value, dict):
        return {k: without_scope(v) for k, v in value.items() if k != '_scope_'}
    return [without_scope(v) for v in value] if isinstance(value, (list, tuple)) else value


def test_configs_are_short():
    for path in DETECTION + SEGMENTATION:
        assert len(path.read_text().splitlines()) <= 10, path


def test_readme_names_every_config():
    text = (FOLDER / 'README.md').read_text()
    for path in DETECTION + SEGMENTATION:
        assert str(path.relative_to(FOLDER)) in text


@pytest.mark.parametrize('path', DETECTION + SEGMENTATION, ids=lambda path: path.stem)
def test_one_training_step_at_full_architecture(path):
    cfg = Config.fromfile(str(path))
    cfg.model.teacher_ckpt = None  # needs no network
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    model.train()
    task = path.parent.name
    # 512 channels of ResNet-18 to 2048 of ResNet-101.
    assert bool(model.distiller.connectors) == (task == 'segmentation')
    if task == 'segmentation':
        model.data_preprocessor.size = (128, 128)
    data = batch(task, size=(128, 128))
    before = copy.deepcopy(model.teacher.state_dict())
    data = model.data_preprocessor(data, training=True)
    losses = model(**data, mode='loss')
    distill = [loss for key, loss in losses.items() if key.startswith('distill.')]
    assert len(distill) == (1 if task == 'segmentation' else 4)
    assert all(loss.isfinite() and loss > 0 for loss in distill)
    total, _ = model.parse_losses(losses)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.001)
    total.backward()
    optimizer.step()
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused and not any(p.grad is not None for p in model.teacher.parameters())
    torch.testing.assert_close(model.teacher.state_dict(), before, rtol=0, atol=0)


def test_zoo_figures_of_the_readme():
    """The baselines that the README shows are those of the installed model zoo, or differ as stated."""
    zoo = Path(get_installed_path('mmdet')) / '.mim' / 'configs' / 'retinanet' / 'metafile.yml'
    found = {m['Name']: m['Results'][0]['Metrics']['box AP'] for m in load(str(zoo))['Models']}
    assert found['retinanet_r50_fpn_2x_coco'] == 37.4 and found['retinanet_r101_fpn_2x_coco'] == 38.9
    assert found['retinanet_x101-64x4d_fpn_1x_coco'] == 41.0
