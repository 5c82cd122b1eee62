from urllib.error import URLError

import pytest
import torch

from cankd_mm.config.read import load_config
from cankd_mm.experiments import requirements
from cankd_mm.experiments.rows import find_row, load_rows
from tests.conftest import ROOT

ROWS = load_rows(ROOT / 'configs')


def missing(key, gpus=0, **options):
    row = find_row(ROWS, key)
    return requirements.missing(row, load_config(str(row.config), options), gpus)


@pytest.fixture(autouse=True)
def _machine(monkeypatch, tmp_path):
    """A machine with every package, a network, and nothing fetched yet."""
    asked = []

    class Answer:
        def close(self):
            pass

    def urlopen(request, timeout):
        asked.append((request.get_method(), request.full_url))
        return Answer()

    monkeypatch.setattr(requirements, 'urlopen', urlopen)
    monkeypatch.setattr(requirements, 'find_spec', lambda name: True)
    models = {'resnet50': 'https://example.org/resnet50.pth'}
    monkeypatch.setattr(requirements, 'get_torchvision_models', lambda: models)
    monkeypatch.setitem(requirements._ZOOS, 'torchvision', requirements.get_torchvision_models)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    return asked


@pytest.fixture()
def coco(tmp_path):
    """Options that lead a COCO config to a folder with everything in it."""
    for path in ('annotations', 'train2017', 'val2017'):
        (tmp_path / path).mkdir()
    for split in ('train', 'val'):
        (tmp_path / 'annotations' / f'instances_{split}2017.json').touch()
    return {f'{split}_dataloader.dataset.data_root': f'{tmp_path}/' for split in ('train', 'val', 'test')}


def test_nothing_is_missing(coco, _machine):
    assert missing('2', **coco) == []
    # What is fetched is asked for, not fetched.
    assert {method for method, _ in _machine} == {'HEAD'} and len(_machine) == 2


def test_data(coco, tmp_path):
    (sentence,) = missing('2')
    assert "COCO lacks 'data/coco/'" in sentence and 'cocodataset.org' in sentence
    (tmp_path / 'val2017').rmdir()
    (sentence,) = missing('2', **coco)
    assert f"COCO lacks '{tmp_path}/val2017/'" in sentence and 'train2017' not in sentence


def test_teacher_without_public_weights(coco, tmp_path):
    (sentence,) = missing('8', **coco)
    assert 'no public weights: train it with `cankd train ' in sentence
    assert 'cankd_mm::models/dino-4scale_r101_8xb2-12e_coco.py' in sentence and '--teacher-ckpt' in sentence
    (tmp_path / 'teacher.pth').touch()
    assert missing('8', **coco, **{'model.teacher_ckpt': str(tmp_path / 'teacher.pth')}) == []


def test_teacher_file_that_is_not_there(coco):
    (sentence,) = missing('2', **coco, **{'model.teacher_ckpt': 'nowhere.pth'})
    assert "'nowhere.pth' do not exist: give the file with --teacher-ckpt" in sentence


def test_no_network(coco, tmp_path, monkeypatch):
    def urlopen(request, timeout):
        raise URLError('no route')

    monkeypatch.setattr(requirements, 'urlopen', urlopen)
    teacher, student = missing('2', **coco)
    name = 'retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth'
    assert 'no route' in teacher and f'{tmp_path}/checkpoints/{name}' in teacher and 'resnet50.pth' in student
    (tmp_path / 'checkpoints').mkdir()
    for file in (name, 'resnet50.pth'):
        (tmp_path / 'checkpoints' / file).touch()
    assert missing('2', **coco) == []


def test_initial_weights_of_every_kind(coco):
    known, flag = 'model.architecture.backbone.init_cfg.checkpoint', 'model.architecture.backbone.pretrained'
    assert missing('2', **coco, **{known: 'open-mmlab://detectron/resnet50_caffe'}) == []
    (sentence,) = missing('2', **coco, **{known: 'open-mmlab://resnet51'})
    assert "'open-mmlab://resnet51', which MMEngine does not know" in sentence
    (sentence,) = missing('2', **coco, **{known: 'nowhere/resnet50.pth'})
    assert "'nowhere/resnet50.pth' do not exist" in sentence
    assert missing('2', **coco, **{known: 'open-mmlab://detectron/resnet50_caffe', flag: True}) == []


@pytest.mark.parametrize(
    'key, package', [('2', 'torchvision'), ('9', 'torchvision'), ('9', 'transformers'), ('9', 'fairscale')]
)
def test_packages(coco, monkeypatch, key, package):
    monkeypatch.setattr(requirements, 'find_spec', lambda name: None if name == package else True)
    options = {'model.teacher_ckpt': __file__}
    (sentence,) = missing(key, **coco, **options)
    assert package in sentence and 'not installed' in sentence


@pytest.mark.parametrize(
    'there, asked, words',
    [(0, None, 'torch sees no GPU'), (2, 8, '8 GPUs are asked for and torch sees 2'), (8, None, ''), (0, 0, '')],
)
def test_gpus(coco, monkeypatch, there, asked, words):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: there)
    sentences = missing('2', asked, **coco)
    assert [words in sentence for sentence in sentences] == ([True] if words else [])
