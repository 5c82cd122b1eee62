"""What a row lacks, on a machine that has every package, and a network that is asked in vain for nothing."""

import io
import sys
import urllib.request
from importlib.machinery import ModuleSpec
from types import ModuleType
from urllib.error import URLError
from urllib.response import addinfourl

import pytest
import torch

from cankd_mm.config.read import load_config
from cankd_mm.experiments.reproduce import missing
from cankd_mm.experiments.rows import find_row, load_rows
from tests.conftest import ROOT

ROWS = load_rows(ROOT / 'configs')
TEACHER = 'retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth'
STUDENT = 'resnet50-0676ba61.pth'  # as torchvision has it


def lacks(key, gpus=0, **options):
    row = find_row(ROWS, key)
    return missing(row, load_config(str(row.config), options), gpus)


class Network(urllib.request.HTTPSHandler):
    """Answers every request, unless it is down."""

    def __init__(self):
        super().__init__()
        self.asked, self.down = [], False

    def https_open(self, request):
        if self.down:
            raise URLError('no route')
        self.asked.append((request.get_method(), request.full_url.split('/')[-1]))
        answer = addinfourl(io.BytesIO(), {}, request.full_url, 200)
        answer.msg = 'OK'
        return answer


@pytest.fixture(autouse=True)
def network(monkeypatch, tmp_path):
    """A machine with every package, a network, and nothing fetched yet."""
    for name in ('torchvision', 'transformers', 'fairscale'):
        module = ModuleType(name)
        module.__spec__, module.__version__, module.models = ModuleSpec(name, None), '0.13.0', ModuleType('models')
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    network = Network()
    urllib.request.install_opener(urllib.request.build_opener(network))
    yield network
    urllib.request.install_opener(None)


@pytest.fixture()
def coco(tmp_path):
    """Options that lead a COCO config to a folder with everything in it."""
    for path in ('annotations', 'train2017', 'val2017'):
        (tmp_path / path).mkdir()
    for split in ('train', 'val'):
        (tmp_path / 'annotations' / f'instances_{split}2017.json').touch()
    return {f'{split}_dataloader.dataset.data_root': f'{tmp_path}/' for split in ('train', 'val', 'test')}


def test_nothing_is_missing(coco, network):
    assert lacks('2', **coco) == []
    # What is fetched is asked for, not fetched.
    assert network.asked == [('HEAD', TEACHER), ('HEAD', STUDENT)]


def test_data(coco, tmp_path):
    (sentence,) = lacks('2')
    assert "COCO lacks 'data/coco/'" in sentence and 'cocodataset.org' in sentence
    (tmp_path / 'val2017').rmdir()
    (sentence,) = lacks('2', **coco)
    assert f"COCO lacks '{tmp_path}/val2017/'" in sentence and 'train2017' not in sentence


def test_teacher_without_public_weights(coco, tmp_path):
    (sentence,) = lacks('8', **coco)
    assert 'no public weights: train it with `cankd train ' in sentence
    assert 'cankd_mm::models/dino-4scale_r101_8xb2-12e_coco.py' in sentence and '--teacher-ckpt' in sentence
    (sentence,) = lacks('8', **coco, **{'model.teacher_ckpt': 'nowhere.pth'})
    assert "'nowhere.pth' do not exist: train it with `cankd train " in sentence and ', or give the file' in sentence
    (tmp_path / 'teacher.pth').touch()
    assert lacks('8', **coco, **{'model.teacher_ckpt': str(tmp_path / 'teacher.pth')}) == []


def test_teacher_file_that_is_not_there(coco):
    (sentence,) = lacks('2', **coco, **{'model.teacher_ckpt': 'nowhere.pth'})
    assert "'nowhere.pth' do not exist: give the file with --teacher-ckpt" in sentence


def test_no_network(coco, tmp_path, network):
    network.down = True
    teacher, student = lacks('2', **coco)
    fetched = tmp_path / 'hub' / 'checkpoints'
    assert 'cannot be fetched (no route): put https://' in teacher and f'at {fetched / TEACHER}, or give the' in teacher
    assert f'{fetched / STUDENT}, or set its init_cfg' in student
    fetched.mkdir(parents=True)
    for file in (TEACHER, STUDENT):
        (fetched / file).touch()
    assert lacks('2', **coco) == []


def test_initial_weights_of_every_kind(coco):
    known, flag = 'model.architecture.backbone.init_cfg.checkpoint', 'model.architecture.backbone.pretrained'
    assert lacks('2', **coco, **{known: 'open-mmlab://detectron/resnet50_caffe'}) == []
    (sentence,) = lacks('2', **coco, **{known: 'open-mmlab://resnet51'})
    assert "'open-mmlab://resnet51', which MMEngine does not know" in sentence
    (sentence,) = lacks('2', **coco, **{known: 'nowhere/resnet50.pth'})
    assert "'nowhere/resnet50.pth' do not exist" in sentence
    assert lacks('2', **coco, **{known: 'open-mmlab://detectron/resnet50_caffe', flag: True}) == []


@pytest.mark.parametrize(
    'key, package', [('2', 'torchvision'), ('9', 'torchvision'), ('9', 'transformers'), ('9', 'fairscale')]
)
def test_packages(coco, monkeypatch, key, package):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    (sentence,) = lacks(key, **coco, **{'model.teacher_ckpt': __file__})
    assert package in sentence and 'not installed' in sentence


@pytest.mark.parametrize(
    'there, asked, words',
    [(0, None, 'torch sees no GPU'), (2, 8, '8 GPUs are asked for and torch sees 2'), (8, None, ''), (0, 0, '')],
)
def test_gpus(coco, monkeypatch, there, asked, words):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: there)
    sentences = lacks('2', asked, **coco)
    assert [words in sentence for sentence in sentences] == ([True] if words else [])
