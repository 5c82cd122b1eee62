"""Mistakes that users make, each through `train` as `tools/train.py` calls it: one sentence, and nothing is lost."""

import json
import shutil

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import save_checkpoint

from cankd_mm.apis import train
from cankd_mm.apis.cli import one_sentence_errors
from cankd_mm.models.builders import build_model, load_model_cfg


class Mistake:
    """What a mistake may need: the pair's config, a folder of its own, and a copy of the data to spoil."""

    def __init__(self, pairs, folder):
        self.pairs, self.folder = pairs, folder

    def data(self, spoil=None, annotations=None, task='detection'):
        """A copy of the data set with something wrong in it."""
        root = Config.fromfile(str(self.pairs[task])).train_dataloader.dataset.data_root
        copy = self.folder / 'data'
        shutil.copytree(root, copy)
        if spoil is not None:
            spoil(copy)
        if annotations is not None:
            path = copy / 'annotations' / 'train_small.json'
            found = annotations(json.loads(path.read_text()))
            path.write_text(found if isinstance(found, str) else json.dumps(found))
        return {'train_dataloader.dataset.data_root': f'{copy}/'}

    def checkpoint(self, content):
        path = self.folder / 'teacher.pth'
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            save_checkpoint(content, str(path))
        return {'model.teacher_ckpt': str(path)}

    def teacher(self, task):
        return build_model(load_model_cfg(Config.fromfile(str(self.pairs[task])).model.teacher), 'teacher').state_dict()

    def config(self, text):
        path = self.folder / 'config.py'
        path.write_text(text)
        return dict(config=str(path))

    def old(self, name, content):
        (self.folder / 'old').mkdir(exist_ok=True)
        path = self.folder / 'old' / name
        path.write_bytes(content) if isinstance(content, bytes) else save_checkpoint(content, str(path))
        return str(path)


def drop(key):
    return lambda coco: {k: v for k, v in coco.items() if k != key}


def first_image(change):
    def spoil(root):
        change(root / 'train' / '0000.png')

    return spoil


def too_large_label(root):
    for path in root.glob('gtFine/train/scenes/*.png'):
        label = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        label[:4] = 77
        cv2.imwrite(str(path), label)


SCALE = dict(auto_scale_lr=True)

# name: (what is done, the sentence). What is done gives options of the config, or arguments of `train`.
DETECTION = {
    'no such config': (lambda m: dict(config='nowhere.py'), "config 'nowhere.py' does not exist"),
    'config that is no Python': (lambda m: m.config('model = dict(\n'), 'config.py.* cannot be read .SyntaxError'),
    'base config that is not there': (lambda m: m.config("_base_ = 'nowhere.py'\n"), r'nowhere.py'),
    'part of a config': (lambda m: m.config('lr = 1\n'), 'config.py.* has no model'),
    'no such data': (lambda m: {'train_dataloader.dataset.data_root': 'none/'}, "train data set needs 'none/'"),
    'no such annotations': (lambda m: {'val_dataloader.dataset.ann_file': 'no.json'}, 'val data set needs .*no.json'),
    'annotations that are no JSON': (lambda m: m.data(annotations=lambda c: 'a,b\n1,2\n'), 'cannot read .*JSONDecode'),
    'annotations that are a list': (lambda m: m.data(annotations=lambda c: c['images']), 'cannot read .*train_small'),
    'annotations without images': (lambda m: m.data(annotations=drop('images')), 'no image with'),
    'empty annotations': (
        lambda m: m.data(annotations=lambda c: {**c, 'images': [], 'annotations': []}),
        'no image with',
    ),
    'other class names': (
        lambda m: {'train_dataloader.dataset.metainfo.classes': ('zero', *'123456789')},
        "have no category 'zero': write metainfo.classes",
    ),
    'image that is not there': (lambda m: m.data(first_image(lambda p: p.unlink())), '0000.png.* does not exist'),
    'image that does not decode': (lambda m: m.data(first_image(lambda p: p.write_bytes(b'x'))), '0000.png.*decoded'),
    'more classes than the head': (
        lambda m: {'model.architecture.bbox_head.num_classes': 4},
        '10 classes .* predicts 4',
    ),
    'no such teacher config': (lambda m: {'model.teacher': 'nowhere.py'}, "no model config 'nowhere.py'"),
    'no such package': (lambda m: {'model.teacher': 'mmdett::a.py'}, "package 'mmdett', which is not installed"),
    'teacher without weights': (lambda m: {'model.teacher_ckpt': None}, 'no trained weights: set model.teacher_ckpt'),
    'no such checkpoint': (lambda m: {'model.teacher_ckpt': 'none.pth'}, "checkpoint 'none.pth' does not exist"),
    'truncated checkpoint': (lambda m: m.checkpoint(b'PK\x03\x04half'), 'teacher.pth.* truncated or no checkpoint'),
    'checkpoint of another model': (lambda m: m.checkpoint(dict(state_dict=m.teacher('segmentation'))), 'teacher.pth'),
    'no key that matches': (lambda m: m.checkpoint(dict(state_dict={'a': torch.ones(1)})), 'lacks .* of the'),
    'distillation as teacher': (
        lambda m: m.checkpoint(dict(state_dict={'architecture.a': torch.ones(1)})),
        'holds a distillation run',
    ),
    'no such module': (lambda m: {'model.distiller.source': 'nek'}, "no module 'nek'; did you mean 'neck'"),
    'no such level': (lambda m: {'model.distiller.levels': 9}, "'neck' has no level 3: it gives 3 levels"),
    'sizes that differ': (
        lambda m: {'model.distiller.levels': [0], 'model.distiller.teacher_levels': [1]},
        'differ in height and width',
    ),
    'negative weight': (lambda m: {'model.distiller.loss.loss_weight': -5}, 'loss_weight=-5'),
    'no such mode': (lambda m: {'model.distiller.loss.mode': 'dot'}, "no mode 'dot'"),
    'no such loss': (lambda m: {'model.distiller.loss.type': 'CanKD'}, "'CanKD' is not registered; did you mean"),
    'no such option of the loss': (lambda m: {'model.distiller.loss.mu': 5}, "entry 'mu' that (CanKDLoss|is not)"),
    'misspelt entry of the model': (
        lambda m: {'model.teacher_checkpoint': 'a'},
        "entry 'teacher_checkpoint' that (FeatureDistill|is not)",
    ),
    'no such optimizer': (
        lambda m: {'optim_wrapper.optimizer.type': 'Adamm'},
        'names an optimizer that neither torch nor MMEngine has',
    ),
    'no such part to start from': (lambda m: {'model.init_from_teacher': ['head']}, "no module 'head'"),
    'part that differs': (lambda m: {'model.init_from_teacher': ['backbone']}, "cannot fill the student's backbone"),
    'no such checkpoint to resume': (lambda m: dict(resume='none.pth'), "'none.pth' to resume from does not exist"),
    'truncated checkpoint to resume': (
        lambda m: dict(resume=m.old('epoch_1.pth', b'PK\x03\x04')),
        'epoch_1.pth.*truncated',
    ),
    'weights alone to resume': (
        lambda m: dict(resume=m.old('a.pth', dict(state_dict={'a': torch.ones(1)}))),
        'no state of an optimizer',
    ),
    'training of another config to resume': (
        lambda m: dict(resume=m.old('epoch_1.pth', dict(state_dict={'a': torch.ones(1)}, optimizer={}, meta={}))),
        'is of another training',
    ),
    'nothing to load': (lambda m: {'load_from': 'none.pth'}, "checkpoint 'none.pth' does not exist"),
    'nothing that fits to load': (
        lambda m: {'load_from': m.old('a.pth', dict(state_dict={'backbone.a': torch.ones(1)}))},
        'load_from .* no parameter of it fits',
    ),
    'when to evaluate the teacher': (
        lambda m: {'val_cfg': dict(type='DistillValLoop', teacher='sometimes')},
        "teacher is 'sometimes'",
    ),
    'no base batch': (
        lambda m: {**m.config(f"_base_ = '{m.pairs['detection']}'\nauto_scale_lr = dict(_delete_=True)\n"), **SCALE},
        '--auto-scale-lr needs',
    ),
}
SEGMENTATION = {
    'suffix of no image': (lambda m: {'train_dataloader.dataset.img_suffix': '.jpg'}, '0000.jpg.* does not exist'),
    'label of no class': (
        lambda m: m.data(too_large_label, task='segmentation'),
        '_gtFine.* holds the label 77, and decode_head predicts 11',
    ),
    'teacher of the other library': (lambda m: {'model.teacher': str(m.pairs['detection'])}, 'teacher'),
}
MISTAKES = [('detection', *item) for item in DETECTION.items()] + [('segmentation', *i) for i in SEGMENTATION.items()]
ARGUMENTS = ('config', 'resume', 'auto_scale_lr')


@pytest.mark.parametrize('task, name, mistake', MISTAKES, ids=[name.replace(' ', '-') for _, name, _ in MISTAKES])
def test_mistake_ends_with_one_sentence(pairs, tmp_path, task, name, mistake):
    do, words = mistake
    made = do(Mistake(pairs, tmp_path))
    arguments = {key: made.pop(key) for key in list(made) if key in ARGUMENTS}
    arguments = {'config': str(pairs[task]), **arguments}
    before = {path: path.read_bytes() for path in tmp_path.rglob('*.pth')}
    with pytest.raises(SystemExit) as end, one_sentence_errors():
        train(work_dir=str(tmp_path / 'work'), cfg_options=made, **arguments)
    sentence = str(end.value)
    assert sentence.startswith('error: ') and '\n' not in sentence and len(sentence) < 500, sentence
    with pytest.raises(AssertionError, match=words):  # pytest shows the sentence where the words are not in it
        raise AssertionError(sentence)
    assert {path: path.read_bytes() for path in before} == before
    assert not list((tmp_path / 'work').glob('*.pth'))


def test_there_are_many():
    assert len(MISTAKES) >= 30
