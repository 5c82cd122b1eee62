"""Whether each class has something in a data set, in every wrapper."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmcv.transforms import TRANSFORMS, BaseTransform
from mmengine.config import Config
from mmengine.runner import Runner

from cankd_mm.apis import check, data
from cankd_mm.errors import SetupError

PACK = dict(detection='PackDetInputs', segmentation='PackSegInputs')
# Data sets that hold another one; MMSegmentation's tell no classes that could be balanced.
WRAPPERS = {
    'none': lambda part, task: part,
    'RepeatDataset': lambda part, task: dict(type='RepeatDataset', times=2, dataset=part),
    'ConcatDataset': lambda part, task: dict(type='ConcatDataset', datasets=[part, part]),
    'ClassBalancedDataset': lambda part, task: dict(type='ClassBalancedDataset', oversample_thr=0.1, dataset=part),
    'MultiImageMixDataset': lambda part, task: dict(
        type='MultiImageMixDataset',
        dataset=dict(part, pipeline=part['pipeline'][:-1]),
        pipeline=[dict(type=PACK[task])],
    ),
    'both': lambda part, task: dict(
        type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[part, part])
    ),
}
BOTH = [(task, name) for task in PACK for name in WRAPPERS if (task, name) != ('segmentation', 'ClassBalancedDataset')]


@pytest.fixture
def said(pairs, tmp_path, monkeypatch):
    """What is logged of a task's data in a wrapper, with its labels changed."""

    def check(task, wrap, change=lambda label: label, split='train', ignored=255, **changes):
        cfg = Config.fromfile(str(pairs[task].with_name(f'{task}_student.py')))
        if task == 'segmentation':
            cfg.model.decode_head.ignore_index = ignored
        cfg.work_dir = str(tmp_path / 'work')
        part = cfg[f'{split}_dataloader'].dataset.to_dict()
        root = tmp_path / 'data'
        shutil.copytree(part['data_root'], root, dirs_exist_ok=True)
        if task == 'detection':
            path = root / part['ann_file']
            coco = json.loads(path.read_text())
            for number, each in enumerate(coco['annotations']):
                each['category_id'] = change(number % 10)
            path.write_text(json.dumps(coco))
        else:
            for path in (root / part['data_prefix']['seg_map_path']).rglob('*.png'):
                labels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
                for column in range(128):
                    labels[:, column] = change(column % 11)
                cv2.imwrite(str(path), labels)
        cfg[f'{split}_dataloader'].dataset = wrap({**part, 'data_root': f'{root}/', **changes}, task)
        lines = []
        monkeypatch.setattr(data, 'warn', lambda line: lines.append((30, line)))
        monkeypatch.setattr(data, 'print_log', lambda line, logger: lines.append((20, line)))
        data.check_datasets(Runner.from_cfg(cfg), split)
        return lines

    return check


@pytest.mark.parametrize('task, name', BOTH)
def test_classes_without_an_object_or_pixel_are_named(said, task, name):
    assert said(task, WRAPPERS[name]) == []
    last = max(range(10 + (task == 'segmentation')))
    ((level, line),) = said(task, WRAPPERS[name], lambda label: min(label, last - 2))
    assert level == 30 and f"No {'object' if task == 'detection' else 'pixel'} of '8', '9' is in " in line
    assert f'in {8 * (1 + (name in ("ConcatDataset", "both")))} images of the train data set' in line


@pytest.mark.parametrize('split', ['train', 'val'])
def test_label_zero_that_is_taken_out_leaves_the_last_class_without_a_pixel(said, split):
    ((_, line),) = said('segmentation', WRAPPERS['none'], split=split, reduce_zero_label=True)
    assert "No pixel of '9' is in" in line and 'switch reduce_zero_label off if 0 is a class' in line
    assert said('segmentation', WRAPPERS['none'], lambda label: label + 1, split=split, reduce_zero_label=True) == []


def test_a_class_that_the_head_ignores_needs_no_pixel(said):
    assert len(said('segmentation', WRAPPERS['none'], lambda label: max(label, 1))) == 1
    assert said('segmentation', WRAPPERS['none'], ignored=0) == []


def test_what_one_part_lacks_another_may_have(said):
    def joined(part, task):
        few = dict(part, ann_file='annotations/train.json', filter_cfg=None, indices=[0])
        return dict(type='ConcatDataset', datasets=[few, part])

    assert said('detection', joined) == []


def test_classes_may_be_rare_where_not_all_was_looked_at(said, monkeypatch):
    monkeypatch.setattr(data, '_SECONDS', -1.0)
    for task in PACK:
        ((level, line),) = said(task, WRAPPERS['none'])
        assert level == 20 and '0 of 8 images' in line


def test_parts_of_other_classes(said):
    def joined(part, task):
        classes = part['metainfo']['classes']
        other = dict(part, metainfo=dict(part['metainfo'], classes=(*classes[1:], classes[0])))
        return dict(type='ConcatDataset', datasets=[part, other], ignore_keys=['classes'])

    with pytest.raises(SetupError, match="train data set number their classes differently, 'background', .* and '0', "):
        said('segmentation', joined)


def test_parts_that_differ_in_nothing_but_colours_are_trained_on(pairs, tmp_path):
    """MMDetection's ConcatDataset then has a list as its metainfo."""
    part = Config.fromfile(str(pairs['detection'])).train_dataloader.dataset.to_dict()
    other = dict(part, metainfo=dict(part['metainfo'], palette=[(0, 0, 0)] * 10))
    joined = dict(_delete_=True, type='ConcatDataset', datasets=[part, other])
    lines = check(str(pairs['detection']), cfg_options={'train_dataloader.dataset': joined})
    assert '  classes: data 10, student 10, teacher 10' in lines


class _Relabel(BaseTransform):
    """Takes out ten, which is no class."""

    def transform(self, results):
        key = 'gt_seg_map' if 'gt_seg_map' in results else 'gt_bboxes_labels'
        results[key][results[key] == 9] = 8
        assert results['img'].ndim == 3 and np.random.rand() < 1
        results[key][results[key] == 11] = 255
        return results


class _AfterResize(BaseTransform):
    """Needs what a step of the library gives."""

    def transform(self, results):
        results['gt_seg_map'][results['gt_seg_map'] == 11] = 255
        return dict(results, scale=results['scale'])


for _step in (_Relabel, _AfterResize):
    TRANSFORMS.register_module(module=_step, force=True)


def _with(step, outside):
    """Wrap a data set, whose pipeline or wrapper has one more step."""

    def wrap(part, task):
        *steps, pack = part['pipeline']
        if not outside:
            return dict(part, pipeline=[*steps, step, pack])
        return dict(type='MultiImageMixDataset', dataset=dict(part, pipeline=steps), pipeline=[step, pack])

    return wrap


@pytest.mark.parametrize('outside', [False, True])
@pytest.mark.parametrize('kind', [dict(type='_Relabel'), dict(type='RandomApply', transforms=[dict(type='_Relabel')])])
def test_labels_are_what_own_steps_make_of_them(said, kind, outside):
    if 'transforms' in kind:
        kind = dict(kind, prob=1.0)
    step = _with(kind, outside)
    ((_, line),) = said('segmentation', step, lambda label: label + (label == 10))
    assert "No pixel of '8', '9' is in 8 images" in line
    ((_, line),) = said('detection', step)
    assert "No object of '9' is in 8 images" in line
    with pytest.raises(SetupError, match='holds the label 12, and decode_head predicts 11 classes'):
        said('segmentation', step, lambda label: label + 2 * (label == 10))


def test_labels_of_own_steps_that_do_not_run_alone_are_not_judged(said):
    assert said('segmentation', _with(dict(type='_AfterResize'), False), lambda label: 11) == []


def _rated_by(pairs, tmp_path, change):
    """Look at the validation data with an evaluator whose file has other images."""
    cfg = Config.fromfile(str(pairs['detection'].with_name('detection_student.py')))
    cfg.work_dir, coco = str(tmp_path / 'work'), json.loads(Path(cfg.val_evaluator.ann_file).read_text())
    change(coco['images'], cfg.val_dataloader)
    cfg.val_evaluator.ann_file = str(tmp_path / 'other.json')
    (tmp_path / 'other.json').write_text(json.dumps(coco))
    data.check_datasets(Runner.from_cfg(cfg), 'val')


def test_an_evaluator_of_another_split(pairs, tmp_path):
    def renamed(images, loader):
        images[0]['file_name'] = 'train/none.jpg'

    with pytest.raises(SetupError, match="by the id 0, and they have 'none.jpg' by that: set val_evaluator.ann_file"):
        _rated_by(pairs, tmp_path, renamed)
    with pytest.raises(SetupError, match='by the id 0, and they have no image of that id: set val_evaluator.ann_file'):
        _rated_by(pairs, tmp_path, lambda images, loader: images.pop(0))


def test_an_evaluator_of_the_same_images_elsewhere(pairs, tmp_path):
    def moved(images, loader):
        for image in images:
            image['file_name'] = f'elsewhere/{Path(image["file_name"]).stem}.png'
        images.append(dict(images[0], id=len(images)))

    def joined(images, loader):
        images.pop(0)
        loader.dataset = dict(type='ConcatDataset', datasets=[loader.dataset.to_dict()])

    _rated_by(pairs, tmp_path, moved)
    _rated_by(pairs, tmp_path, joined)
