"""Mistakes that users make, each through `train` as `tools/train.py` calls it: one sentence, and nothing is lost."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import save_checkpoint

from cankd_mm.apis import train
from cankd_mm.config.read import load_model_cfg
from cankd_mm.errors import one_sentence_errors
from cankd_mm.models.builders import build_model


class Mistake:
    """What a mistake may need: the pair's config, a folder of its own, and a copy of the data to spoil."""

    def __init__(self, pairs, folder):
        self.pairs, self.folder = pairs, folder

    def data(self, spoil=None, annotations=None, task='detection', split='train', rename=False):
        """A copy of the data set with something wrong in it; with another name, in the test set alone."""
        root = Config.fromfile(str(self.pairs[task])).train_dataloader.dataset.data_root
        copy = self.folder / 'data'
        shutil.copytree(root, copy)
        if spoil is not None:
            spoil(copy)
        path = copy / 'annotations' / dict(train='train_small.json', val='val.json', test='val.json')[split]
        if annotations is not None:
            found = annotations(json.loads(path.read_text()))
            path.write_text(found if isinstance(found, str) else json.dumps(found))
        options = {f'{split}_dataloader.dataset.data_root': f'{copy}/'}
        if split != 'train' and task == 'detection':
            options[f'{split}_evaluator.ann_file'] = str(path)
        return options

    def voc(self):
        """The training images with XML files that call two classes otherwise, repeated and joined."""
        root = self.folder / 'voc' / 'VOC2007'
        for folder in ('Annotations', 'JPEGImages'):
            (root / folder).mkdir(parents=True)
        for name in ('a', 'b'):
            cv2.imwrite(str(root / 'JPEGImages' / f'{name}.jpg'), np.zeros((128, 128, 3), np.uint8))
            (root / 'Annotations' / f'{name}.xml').write_text(
                '<annotation><size><width>128</width><height>128</height></size><object><name>zero</name><difficult>0'
                '</difficult><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>90</xmax><ymax>90</ymax></bndbox></object>'
                '</annotation>'
            )
        (root / 'train.txt').write_text('a\nb\n')
        part = dict(
            type='VOCDataset',
            data_root=f'{root.parent}/',
            ann_file='VOC2007/train.txt',
            data_prefix=dict(sub_data_root='VOC2007/'),
            metainfo=dict(classes=tuple('0123456789')),
            pipeline=Config.fromfile(str(self.pairs['detection'])).train_pipeline,
        )
        joined = dict(type='ConcatDataset', datasets=[part, part], ignore_keys=['dataset_type'])
        return {'train_dataloader.dataset': dict(_delete_=True, type='RepeatDataset', times=2, dataset=joined)}

    def wrapped(self, **changes):
        """The validation set inside others, with something changed."""
        inner = {**Config.fromfile(str(self.pairs['detection'])).val_dataloader.dataset.to_dict(), **changes}
        repeated = dict(type='RepeatDataset', times=1, dataset=dict(type='ConcatDataset', datasets=[inner]))
        return {'val_dataloader.dataset': dict(_delete_=True, **repeated)}

    def with_step(self, task, kind, load=None):
        """A pipeline with a further transform at its end."""
        pipeline = Config.fromfile(str(self.pairs[task])).train_dataloader.dataset.pipeline
        pipeline[1] = load or pipeline[1]
        return {'train_dataloader.dataset.pipeline': [*pipeline[:-1], kind, pipeline[-1]]}

    def joined(self, **changes):
        """The training set twice, with something changed in the second."""
        part = Config.fromfile(str(self.pairs['segmentation'])).train_dataloader.dataset.to_dict()
        joined = dict(type='ConcatDataset', datasets=[part, {**part, **changes}])
        return {'train_dataloader.dataset': dict(_delete_=True, **joined)}

    def zero(self):
        part = Config.fromfile(str(self.pairs['segmentation'])).val_dataloader.dataset.to_dict()
        part.update(reduce_zero_label=True)
        part['pipeline'][1] = dict(type='LoadAnnotations', reduce_zero_label=False)
        return {'val_dataloader.dataset': dict(_delete_=True, **part)}

    def checkpoint(self, content):
        path = self.folder / 'teacher.pth'
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            save_checkpoint(content, str(path))
        return {'model.teacher_ckpt': str(path)}

    def teacher(self, task):
        return build_model(load_model_cfg(Config.fromfile(str(self.pairs[task])).model.teacher), 'teacher').state_dict()

    def student(self):
        return build_model(Config.fromfile(str(self.pairs['detection'])).model.architecture, 'student').state_dict()

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


def label_maps(change, last=False):
    """Change every label map of the training, or that of the last image alone."""

    def spoil(root):
        paths = sorted(root.glob('gtFine/train/scenes/*.png'))
        for path in paths[7:8] if last else paths:  # the small training set is of eight
            cv2.imwrite(str(path), change(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)))

    return spoil


def halved(root):
    path = root / 'gtFine' / 'train' / 'scenes' / '0007_gtFine_labelTrainIds.png'
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def border(label):
    def change(labels):
        labels[:4] = label
        return labels

    return change


def each(**changes):
    return lambda coco: {**coco, 'annotations': [{**a, **changes} for a in coco['annotations']]}


def without(field):
    return lambda coco: {
        **coco,
        'annotations': [{k: v for k, v in a.items() if k != field} for a in coco['annotations']],
    }


def reverse(coco):
    return {**coco, 'categories': coco['categories'][::-1]}


def nine(coco):
    return {
        **coco,
        'categories': coco['categories'][:9],
        'annotations': [a for a in coco['annotations'] if a['category_id'] < 9],
    }


LOAD_MASKS = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
HEAD = 'model.architecture.decode_head'
FCN = dict(
    type='FCNHead', in_channels=64, in_index=0, channels=8, num_convs=1, concat_input=False, num_classes=2,
    loss_decode=dict(type='CrossEntropyLoss'),
)  # fmt: skip
SPLITS = ('train', 'val', 'test')
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
    'several annotation files': (
        lambda m: {'train_dataloader.dataset.ann_file': ['annotations/train.json', 'annotations/train_small.json']},
        'ann_file of the train CocoDataset is a list, and it takes one path: give a ConcatDataset',
    ),
    'several image folders inside other data sets': (
        lambda m: m.wrapped(data_prefix=dict(img=['train/', 'val/'])),
        'data_prefix.img of the val CocoDataset is a list',
    ),
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
        "10 classes and the model's bbox_head predicts 4: set num_classes of bbox_head to 10",
    ),
    'no such teacher config': (lambda m: {'model.teacher': 'nowhere.py'}, "config 'nowhere.py' does not exist"),
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
    'misspelt entry of the schedule': (lambda m: {'train_cfg.val_intervall': 1}, "entry 'val_intervall' that"),
    'misspelt entry of a data loader': (lambda m: {'val_dataloader.batch_sise': 1}, "entry 'batch_sise' that"),
    'misspelt entry of a data set': (lambda m: {'train_dataloader.dataset.ann_fil': 'a'}, "entry 'ann_fil' that"),
    'logging with what is not installed': (
        lambda m: {'visualizer.vis_backends': [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]},
        'TensorboardVisBackend needs tensorboard, which is not installed: pip install tensorboard, or take',
    ),
    'mixed precision on a processor': (
        lambda m: {'optim_wrapper.type': 'AmpOptimWrapper'},
        "optim_wrapper.type='AmpOptimWrapper' needs an accelerator, .* set it to 'OptimWrapper'",
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
    'weights under a prefix to load': (
        lambda m: {'load_from': m.old('a.pth', dict(state_dict={f'net.{k}': v for k, v in m.student().items()}))},
        'no parameter of it fits the RetinaNet, which wants backbone.conv1.weight, and has net.backbone.conv1.weight '
        "in its place: save it without the 'net.' before every name",
    ),
    'weights under another key to load': (
        lambda m: {'load_from': m.old('a.pth', dict(net=m.student()))},
        'whose weights stand not under state_dict',
    ),
    'when to evaluate the teacher': (
        lambda m: {'val_cfg': dict(type='DistillValLoop', teacher='sometimes')},
        "teacher is 'sometimes'",
    ),
    'classes in another order': (
        lambda m: m.data(annotations=reverse),
        "train annotations .*train_small.json' list their categories in the order '9', '8'",
    ),
    'classes of the validation in another order': (
        lambda m: m.data(annotations=reverse, split='val'),
        "val annotations .*val.json' list their categories in the order '9', '8'",
    ),
    'classes of the test in another order': (
        lambda m: m.data(annotations=reverse, split='test'),
        "test annotations .*val.json' list their categories in the order '9', '8'",
    ),
    'validation without a class': (
        lambda m: m.data(annotations=nine, split='val'),
        "val annotations .* have no category '9': write metainfo.classes",
    ),
    'other class names inside other data sets': (
        lambda m: m.wrapped(metainfo=dict(classes=('zero', *'123456789'))),
        "val annotations .* have no category 'zero'",
    ),
    'other class names in XML files': (lambda m: m.voc(), "name no object '0', .* but 'zero', which metainfo.classes"),
    'class name without a comma': (
        lambda m: {'train_dataloader.dataset.metainfo': dict(_delete_=True, classes='digit')},
        r"metainfo.classes of the train data set is the string 'digit': write \('digit',\)",
    ),
    'validation without iscrowd': (
        lambda m: m.data(annotations=without('iscrowd'), split='val'),
        "val_evaluator compares with have no 'iscrowd' in .* write iscrowd=0",
    ),
    'validation without area': (lambda m: m.data(annotations=without('area'), split='val'), 'val data set .*area'),
    'everything a crowd': (lambda m: m.data(annotations=each(iscrowd=1)), 'hold nothing to learn from'),
    'masks that are not there': (
        lambda m: {'train_dataloader.dataset.pipeline.1': LOAD_MASKS},
        r'have an object without a mask in .*\.png',
    ),
    'evaluation of other annotations': (
        lambda m: {'val_evaluator.ann_file': m.data(annotations=nine, split='val')['val_evaluator.ann_file']},
        'val_evaluator compares with have the categories .* set val_evaluator.ann_file to the file of the data set',
    ),
    'mosaic without what hands it images': (
        lambda m: m.with_step('detection', dict(type='Mosaic', img_scale=(64, 64))),
        'mixes several images .* put a MultiImageMixDataset around the data set',
    ),
    'mosaic without what hands it images, in workers': (
        lambda m: {
            **m.with_step('detection', dict(type='MixUp', img_scale=(64, 64))),
            'train_dataloader.num_workers': 1,
        },
        'mixes several images .* put a MultiImageMixDataset around the data set',
    ),
    'affine transform of masks': (
        lambda m: {
            **m.data(annotations=each(segmentation=[[9, 9, 60, 9, 60, 60, 9, 60]])),
            **m.with_step('detection', dict(type='RandomAffine'), LOAD_MASKS),
        },
        'RandomAffine moves boxes and no masks, and the pipeline loads masks: leave RandomAffine out',
    ),
    'sampler of classes that the data set does not tell': (
        lambda m: {
            'train_dataloader.sampler': dict(_delete_=True, type='ClassAwareSampler', num_sample_class=1),
            'train_dataloader.dataset': dict(
                _delete_=True,
                type='RepeatDataset',
                times=1,
                dataset=Config.fromfile(str(m.pairs['detection'])).train_dataloader.dataset.to_dict(),
            ),
        },
        'RepeatDataset does not tell which classes an image has',
    ),
    'value that a transform does not take': (
        lambda m: m.with_step('detection', dict(type='RandomShift', prob=2)),
        r'RandomShift does not take what the config gives it \(assert 0 <= prob <= 1\): correct that',
    ),
    'workers that stay and are not': (
        lambda m: {'val_dataloader.persistent_workers': True},
        'val_dataloader sets persistent_workers=True and num_workers=0',
    ),
    'workers of the test that stay and are not': (
        lambda m: {'test_dataloader.persistent_workers': True},
        'test_dataloader sets persistent_workers=True and num_workers=0',
    ),
    'batches to fetch by no worker': (
        lambda m: {'train_dataloader.prefetch_factor': 4},
        'train_dataloader sets prefetch_factor=4 and num_workers=0',
    ),
    'no base batch': (
        lambda m: {**m.config(f"_base_ = '{m.pairs['detection']}'\nauto_scale_lr = dict(_delete_=True)\n"), **SCALE},
        '--auto-scale-lr needs',
    ),
}
SEGMENTATION = {
    'label of no class': (lambda m: m.data(label_maps(border(77)), task='segmentation'), 'holds the label 77'),
    'label of no class in the last image': (
        lambda m: m.data(label_maps(border(77), last=True), task='segmentation'),
        r'train label map .*0007_gtFine.* holds the label 77, and decode_head predicts 11 classes, 0 to 10',
    ),
    'label maps of half the size': (
        lambda m: m.data(label_maps(lambda labels: labels[::2, ::2], last=True), task='segmentation'),
        '0007_gtFine.* is of 64x64 pixels, and its image of 128x128',
    ),
    'label maps of three channels': (
        lambda m: m.data(label_maps(lambda labels: np.repeat(labels[..., None], 3, 2)), task='segmentation'),
        r'_gtFine.* has the shape \(128, 128, 3\): write one number for each pixel',
    ),
    'several folders of label maps': (
        lambda m: {'train_dataloader.dataset.data_prefix.seg_map_path': ['gtFine/train', 'gtFine/val']},
        'data_prefix.seg_map_path of the train BaseSegDataset is a list',
    ),
    'no such constructor of the optimizer': (
        lambda m: {'optim_wrapper.constructor': 'Nowhere'},
        "type 'Nowhere', not registered as '(mmseg|mmengine)::optimizer wrapper constructor'",
    ),
    'label map that is half a file': (
        lambda m: m.data(halved, task='segmentation'),
        r'train label map .*0007_gtFine.* cannot be decoded \(\w+\): put a whole file there',
    ),
    'label map that is half a file, for OpenCV': (
        lambda m: {
            **m.data(halved, task='segmentation'),
            'train_dataloader.dataset.pipeline.1.imdecode_backend': 'cv2',
        },
        'train label map .*0007_gtFine.* cannot be decoded',
    ),
    'zero taken out in the pipeline alone': (
        lambda m: {'train_dataloader.dataset.pipeline.1.reduce_zero_label': True},
        'train data set has reduce_zero_label=False, and LoadAnnotations of its pipeline True: leave',
    ),
    'zero taken out in the data set of the validation alone': (
        lambda m: m.zero(),
        'val data set has reduce_zero_label=True, and LoadAnnotations of its pipeline False: leave',
    ),
    'one label and what is ignored': (
        lambda m: m.data(label_maps(lambda labels: np.where(labels > 0, 255, 0).astype(np.uint8)), task='segmentation'),
        'train label maps hold no label but 0 beside those that are ignored',
    ),
    'parts of other classes in the training': (
        lambda m: m.joined(metainfo=dict(classes=tuple('abcdefghijk'))),
        r'parts of a ConcatDataset differ in their metainfo \(part 2\)',
    ),
    'Dice loss beside a sampler of pixels in the class head': (
        lambda m: {
            f'{HEAD}.sampler': dict(type='OHEMPixelSampler', thresh=0.7, min_kept=1000),
            f'{HEAD}.loss_decode': [dict(type='CrossEntropyLoss'), dict(type='DiceLoss')],
        },
        'DiceLoss takes no weight for each pixel, as the sampler of its head gives',
    ),
    'mosaic of label maps without what hands it images': (
        lambda m: m.with_step('segmentation', dict(type='RandomMosaic', prob=1.0, img_scale=(64, 64))),
        'mixes several images .* put a MultiImageMixDataset around the data set',
    ),
    'nothing but what is ignored': (
        lambda m: m.data(label_maps(lambda labels: np.full_like(labels, 255)), task='segmentation'),
        'hold nothing to learn from',
    ),
    '255 where another number is ignored': (
        lambda m: {**m.data(label_maps(border(255)), task='segmentation'), f'{HEAD}.ignore_index': 254},
        'holds the label 255, and decode_head predicts 11 classes, 0 to 10, and ignores 254',
    ),
    '255 of the padding where another number is ignored': (
        lambda m: {f'{HEAD}.ignore_index': 254, 'model.architecture.data_preprocessor.size': (160, 160)},
        r'data_preprocessor.seg_pad_val=255 fills .* and decode_head ignores 254 \(its ignore_index\)',
    ),
    'auxiliary head of fewer classes': (
        lambda m: {'model.architecture.auxiliary_head': FCN},
        "has 11 classes and the model's auxiliary_head predicts 2: set num_classes of auxiliary_head to 11",
    ),
    'one class under a softmax': (
        lambda m: {
            **{f'{split}_dataloader.dataset.metainfo': dict(_delete_=True, classes=('a',)) for split in SPLITS},
            f'{HEAD}.num_classes': 1,
            f'{HEAD}.loss_decode.class_weight': None,
        },
        'predicts a single class with a softmax',
    ),
    'suffix of no image': (lambda m: {'train_dataloader.dataset.img_suffix': '.jpg'}, '0000.jpg.* does not exist'),
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


# What is wrong with data, heads or loaders, and is said of a plain config as well.
PLAIN_WORDS = ('class', 'label map', '255', 'crowd', 'ignored', 'masks', 'validation', 'worker', 'mosaic', 'zero')
PLAIN = [(task, name, mistake) for task, name, mistake in MISTAKES if any(word in name for word in PLAIN_WORDS)]


@pytest.mark.parametrize('task, name, mistake', PLAIN, ids=[name.replace(' ', '-') for _, name, _ in PLAIN])
def test_mistake_in_a_plain_config(pairs, tmp_path, task, name, mistake):
    do, words = mistake
    options = {key.replace('.architecture', ''): value for key, value in do(Mistake(pairs, tmp_path)).items()}
    student = pairs[task].with_name(f'{task}_student.py')
    with pytest.raises(SystemExit, match=words), one_sentence_errors():
        train(str(student), work_dir=str(tmp_path / 'work'), cfg_options=options)


def test_where_it_came_from_stands_in_the_log(pairs, tmp_path):
    with pytest.raises(SystemExit), one_sentence_errors():
        train(str(pairs['detection']), work_dir=str(tmp_path), cfg_options={'load_from': 'none.pth'})
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'Traceback' in log and "'none.pth' does not exist" in log.splitlines()[-2]


def test_ignored_labels_weigh_nothing_where_classes_have_weights(pairs, tmp_path):
    """The README promises 255 for 'ignore', and the demo's loss has class weights."""
    options = Mistake(pairs, tmp_path).data(label_maps(border(255)), task='segmentation')
    options['train_cfg.max_epochs'] = 1
    runner = train(str(pairs['segmentation']), work_dir=str(tmp_path / 'work'), cfg_options=options)
    assert runner.iter == 2


def test_binary_segmentation_by_a_sigmoid_passes(pairs, tmp_path):
    options = Mistake(pairs, tmp_path).data(
        label_maps(lambda labels: (labels > 0).astype(np.uint8)), task='segmentation'
    )
    metainfo = dict(_delete_=True, classes=('background', 'digit'), palette=[[0] * 3, [255] * 3])
    options.update({f'{split}_dataloader.dataset.metainfo': metainfo for split in SPLITS})
    options.update(
        {f'{split}_dataloader.dataset.data_root': options['train_dataloader.dataset.data_root'] for split in SPLITS}
    )
    options.update(
        {
            f'{split}_dataloader.dataset.data_prefix': dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train')
            for split in SPLITS
        }
    )
    loss = dict(_delete_=True, type='CrossEntropyLoss', use_sigmoid=True)
    options.update(
        {HEAD: dict(num_classes=2, out_channels=1, threshold=0.5, loss_decode=loss), 'train_cfg.max_epochs': 1}
    )
    assert train(str(pairs['segmentation']), work_dir=str(tmp_path / 'work'), cfg_options=options).iter == 2


def test_there_are_many():
    assert len(MISTAKES) >= 30
