"""Labels of a teacher: any training takes them, an interruption changes nothing, thresholds are the best there are."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import mmcv
import numpy as np
import pytest
import torch
from filelock import FileLock
from mmcv.transforms import TRANSFORMS
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from cankd_mm.apis import label_files, predictor, thresholds
from cankd_mm.apis import test as evaluate
from cankd_mm.apis.label import label
from cankd_mm.apis.pair import write_pair
from cankd_mm.config import differences
from cankd_mm.config.images import list_images
from cankd_mm.config.read import load_config
from cankd_mm.errors import SetupError
from cankd_mm.models.builders import build_model
from cankd_mm.show.sheet import write_sheet

FOLDERS = dict(detection='detection/train', segmentation='segmentation/leftImg8bit/train')
TASKS = list(FOLDERS)
# Scores of a teacher of random weights lie on both sides of these.
LOW = dict(detection=0.72, segmentation=0.12)


@pytest.fixture
def photos(digits, tmp_path):
    """Scenes of both suffixes and of two sizes in two folders, and a few that are none."""

    def make(task):
        root = tmp_path / 'photos'
        for number, path in enumerate(sorted((digits / FOLDERS[task]).rglob('*.png'))[:8]):
            image = mmcv.imread(str(path))
            name = root / f'{"ab"[number % 2]}' / f'{number // 2}{".jpg" if number < 4 else ".png"}'
            mmcv.imwrite(image[:96] if number in (2, 5) else image, str(name))
        (root / 'a' / 'broken.jpg').write_bytes((root / 'a' / '0.jpg').read_bytes()[:300])
        (root / 'a' / 'empty.png').touch()
        mmcv.imwrite(np.zeros((3, 40, 3), np.uint8), str(root / 'b' / 'tiny.png'))
        (root / 'notes.txt').write_text('not an image')
        return root

    return make


def plain(out, scope):
    """The data set as the plain library builds it from the config that was written."""
    cfg = Config.fromfile(str(out / 'data.py'))
    with DefaultScope.overwrite_default_scope(scope):
        return DATASETS.build(cfg.train_dataloader.dataset)


@pytest.mark.parametrize('task', TASKS)
def test_labels_are_a_data_set(pairs, photos, tmp_path, task):
    root, out = photos(task), tmp_path / 'out'
    said = label(str(pairs[task]), str(root), str(out), threshold=LOW[task])
    assert said['images'] == 8 and len(said['skipped']) == 3
    assert {each.split(':')[0] for each in said['skipped']} == {'a/broken.jpg', 'a/empty.png', 'b/tiny.png'}
    scope = dict(detection='mmdet', segmentation='mmseg')[task]
    dataset = plain(out, scope)
    assert len(dataset) == 8
    assert {dataset.get_data_info(i)['img_path'] for i in range(8)} <= set(list_images(str(root)))
    if task == 'detection':
        coco = json.loads((out / 'annotations.json').read_text())
        objects = [len(dataset.get_data_info(i)['instances']) for i in range(8)]
        assert sum(objects) == len(coco['annotations']) == sum(c['objects'] for c in said['counts'].values()) > 8
        assert all(
            a['score'] >= LOW[task] and not a['iscrowd'] and min(a['bbox'][2:]) >= 1 for a in coco['annotations']
        )
        assert dataset[0]['data_samples'].gt_instances.bboxes.shape[0] == objects[0]
    else:
        for index in range(8):
            sample = dataset[index]['data_samples']
            assert tuple(sample.gt_sem_seg.shape) == mmcv.imread(sample.img_path).shape[:2]
        maps = [mmcv.imread(str(path), 'unchanged') for path in (out / 'label_maps').rglob('*.png')]
        assert len(maps) == 8 and {np.dtype('uint8')} == {each.dtype for each in maps}
        unsure = sum((each == 255).sum() for each in maps) / sum(each.size for each in maps)
        assert 0 < unsure < 1 and said['unsure'] == pytest.approx(unsure)
        pixels = sum(c['pixels'] for c in said['counts'].values())
        assert pixels == sum((each != 255).sum() for each in maps)
    written = label_files.table(said)
    assert '8 images labelled' in written and '3 images skipped: a/broken.jpg: cannot be read; a/empty.png: ' in written
    assert 'b/tiny.png: only 40x3 pixels' in written and 'warning' not in written
    assert cv2.imread(str(write_sheet(out, said))).shape[1] > 1000


def test_nothing_to_be_sure_of_is_a_warning(pairs, photos, tmp_path):
    said = label(str(pairs['detection']), str(photos('detection')), str(tmp_path / 'out'), threshold=1.0)
    assert 'warning: the teacher finds nothing that it is sure of' in label_files.table(said)


def test_batches_change_nothing(pairs, photos, tmp_path):
    """Where images of several sizes are in one, too."""
    root, found = photos('detection'), []
    for size in (1, 4):
        label(
            str(pairs['detection']), str(root), str(tmp_path / f'{size}'), threshold=LOW['detection'], batch_size=size
        )
        coco = json.loads((tmp_path / f'{size}' / 'annotations.json').read_text())
        found.append(np.array([[a['image_id'], a['category_id'], a['score'], *a['bbox']] for a in coco['annotations']]))
    assert np.abs(found[0] - found[1]).max() < 0.02


@pytest.mark.parametrize('task', TASKS)
def test_a_pair_trains_on_the_labels(pairs, photos, tmp_path, task):
    student, out = pairs[task].with_name(f'{task}_student.py'), tmp_path / 'out'
    said = label(str(pairs[task]), str(photos(task)), str(out), threshold=LOW[task])
    teacher = Config.fromfile(str(pairs[task])).model
    pair = tmp_path / 'pair.py'
    write_pair(teacher.teacher, str(student), str(pair), teacher.teacher_ckpt, data=str(out / 'data.py'))
    cfg = Config.fromfile(str(pair))
    with DefaultScope.overwrite_default_scope(said['scope']):
        assert len(DATASETS.build(cfg.train_dataloader.dataset)) == 8
        assert len(DATASETS.build(cfg.val_dataloader.dataset)) == 4


@pytest.mark.slow
@pytest.mark.parametrize('task', TASKS)
def test_killed_and_gone_on_with(pairs, photos, tmp_path, task):
    root = photos(task)
    words = [sys.executable, '-W', 'ignore', '-m', 'cankd_mm', 'label', str(pairs[task]), str(root)]
    words += ['--threshold', str(LOW[task]), '--batch-size', '1']
    killed, whole = tmp_path / 'killed', tmp_path / 'whole'
    process = subprocess.Popen([*words, '--out', str(killed)], stdout=subprocess.PIPE)
    lines = killed / label_files.LINES
    while process.poll() is None and not (lines.exists() and lines.stat().st_size):
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done = lines.read_bytes().splitlines(keepends=True)
    assert 0 < len(done) < 11
    lines.write_bytes(b''.join(done) + b'{"image": "a/1')  # as of a disk that was full
    said = subprocess.run([*words, '--out', str(killed)], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert f'{len(done)} of 11 images have labels already' in said and 'The sheet: ' in said
    label(str(pairs[task]), str(root), str(whole), threshold=LOW[task], batch_size=1)
    for path in whole.rglob('*'):
        if path.is_file() and path.suffix in ('.json', '.jsonl', '.txt', '.png') and path.name != 'labels.json':
            assert path.read_bytes() == (killed / path.relative_to(whole)).read_bytes(), path.name


SETTINGS = {
    'threshold': dict(threshold=0.7),
    'tta': dict(tta=True),
    'weights': dict(teacher_ckpt='other.pth'),
    'images': dict(images='list.txt'),
}


@pytest.mark.parametrize('what', SETTINGS)
def test_other_settings_are_a_sentence(pairs, photos, tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    root = photos('segmentation')
    (tmp_path / 'list.txt').write_text('photos/a/0.jpg\n')
    pair = Config.fromfile(str(pairs['segmentation'])).model
    shutil.copy(pair.teacher_ckpt, 'own.pth')
    model = torch.load(pair.teacher_ckpt)
    model['state_dict'] = {key: 2 * value for key, value in model['state_dict'].items()}
    torch.save(model, 'other.pth')
    options = dict(teacher=str(pairs['segmentation']), images=str(root), out='out', teacher_ckpt='own.pth')
    label(**options, threshold=0.1)
    before = {path: path.stat().st_mtime for path in Path('out').rglob('*')}
    with pytest.raises(SetupError, match='were begun with .* give the same again to go on'):
        label(**{**options, 'threshold': 0.1, **SETTINGS[what]})
    assert all(path.stat().st_mtime == before[path] for path in Path('out').rglob('*') if path.name != '.lock')


def test_classes_are_those_that_the_teacher_predicts(pairs, photos, tmp_path):
    """And not those of a student's data; the checkpoint names them as well."""
    config, pair, root = tmp_path / 'teacher.py', Config.fromfile(str(pairs['detection'])).model, photos('detection')
    config.write_text(
        f"_base_ = '{pair.teacher}'\n"
        "val_dataloader = dict(dataset=dict(metainfo=dict(classes=('0', '1', '2'))))\n"
        'test_dataloader = val_dataloader\n'
    )
    with pytest.raises(SetupError, match='predicts 10 classes, and its data names 3: give the config'):
        label(str(config), str(root), str(tmp_path / 'out'), pair.teacher_ckpt)
    names = [f'digit {i}' for i in range(10)]
    weights = torch.load(pair.teacher_ckpt)['state_dict']
    torch.save(dict(state_dict=weights, meta=dict(dataset_meta=dict(classes=names))), tmp_path / 'teacher.pth')
    said = label(str(config), str(root), str(tmp_path / 'out'), str(tmp_path / 'teacher.pth'))
    assert said['classes'] == names and len(said['palette']) == 10
    assert said['thresholds_of'] == '0.5, without validation data (it has other classes than the teacher)'


def test_one_process_at_a_time_and_its_progress(pairs, photos, tmp_path, monkeypatch):
    lines, words = [], (str(pairs['segmentation']), str(photos('segmentation')), str(tmp_path / 'out'))
    (tmp_path / 'out').mkdir()
    with FileLock(str(tmp_path / 'out' / '.lock')), pytest.raises(SetupError, match='Another process labels into'):
        label(*words)
    monkeypatch.setattr(predictor, '_SECONDS', 0)
    monkeypatch.setattr(predictor, 'print_log', lambda line, logger: lines.append(line))
    label(*words, threshold=0.1)
    assert re.fullmatch(r'images: 2 of 11, [0-9.]+ per second, 0:00:[0-9]+ left', lines[0])
    assert lines[-1].startswith('images: 11 of 11') and lines[-1].endswith(' 0:00:00 left')


def naive_f1(scores, right, total, threshold):
    kept = scores >= threshold
    return 2 * right[kept].sum() / (kept.sum() + total)


@pytest.mark.parametrize('seed', range(5))
def test_threshold_of_boxes_is_the_best_of_all(seed):
    """Boxes stand in a grid, so that what is right is plain."""
    generator = np.random.default_rng(seed)
    images, flat = [], {0: ([], []), 1: ([], [])}
    total = [0, 0]
    for _ in range(20):
        places = generator.permutation(9)
        corners = 10 * np.stack([places % 3, places // 3], 1)
        boxes = np.concatenate([corners, corners + 8], 1).astype(np.float32)
        true, ignored = generator.random(9) < 0.5, generator.random(9) < 0.2
        labels, wrong = generator.integers(0, 2, 9), generator.random(9) < 0.2
        found = generator.random(9) < 0.8
        scores = np.round(generator.random(9) * 0.5 + 0.5 * true, 1).astype(np.float32)
        said = np.where(wrong, 1 - labels, labels)
        images.append(((boxes[found], said[found], scores[found]), (boxes[true], labels[true], ignored[true])))
        for index in np.flatnonzero(true & ~ignored):
            total[labels[index]] += 1
        for index in np.flatnonzero(found):
            hit = true[index] and said[index] == labels[index]
            if not (hit and ignored[index]):
                flat[said[index]][0].append(scores[index])
                flat[said[index]][1].append(hit)
    for name, best in enumerate(thresholds.of_boxes(images, 2)):
        scores, right = np.array(flat[name][0]), np.array(flat[name][1])
        every = [naive_f1(scores, right, total[name], t) for t in np.unique(scores)]
        assert naive_f1(scores, right, total[name], best.score) == pytest.approx(max(every))
        kept = scores >= best.score
        assert best.precision == pytest.approx(right[kept].mean())
        assert best.recall == pytest.approx(right[kept].sum() / total[name])


def test_threshold_of_pixels_is_the_best_of_all():
    generator = np.random.default_rng(0)
    images = []
    for _ in range(3):
        truth = generator.integers(0, 3, (20, 30))
        labels = np.where(generator.random((20, 30)) < 0.6, truth, generator.integers(0, 3, (20, 30))).astype(np.uint8)
        probabilities = (generator.random((20, 30)) * 0.5 + 0.5 * (labels == truth)).astype(np.float32)
        truth[generator.random((20, 30)) < 0.1] = 255
        images.append((labels, probabilities, truth))
    labels, probabilities, truth = (np.stack(each) for each in zip(*images))
    for name, best in enumerate(thresholds.of_pixels(images, 4, 255)[:3]):
        mine = (labels == name) & (truth != 255)
        right, total = truth[mine] == name, (truth == name).sum()
        every = [naive_f1(probabilities[mine], right, total, t / 1000) for t in range(1001)]
        assert naive_f1(probabilities[mine], right, total, best.score) == pytest.approx(max(every), abs=1e-4)
    assert thresholds.of_pixels(images, 4, 255)[3] is None


@pytest.mark.parametrize('task', TASKS)
def test_thresholds_are_those_of_the_validation_data(pairs, photos, tmp_path, task):
    """Of data whose labels are the teacher's own above a threshold, that threshold makes no mistake."""
    root, first, out = photos(task), tmp_path / 'first', tmp_path / 'out'
    label(str(pairs[task]), str(root), str(first), threshold=LOW[task])
    cfg = Config.fromfile(str(first / 'data.py'))
    dataset = dict(cfg.train_dataloader.dataset, pipeline=cfg.val_dataloader.dataset.pipeline)
    val = dict(val_dataloader=dict(cfg.val_dataloader, dataset=dataset), val_evaluator=cfg.val_evaluator)
    Config(val).dump(str(tmp_path / 'val.py'))
    said = label(str(pairs[task]), str(root), str(out), val=str(tmp_path / 'val.py'))
    assert 'greatest F1 of each class on 8 validation images' in said['thresholds_of']
    known = {name: each for name, each in said['thresholds'].items() if each[1] is not None}
    # Boxes that are cut off at the image's edge may cover each other there.
    least = dict(detection=0.9, segmentation=1)[task]
    assert known and all(min(rest) >= least and score >= LOW[task] for score, *rest in known.values())
    assert '| 100.0       |' in label_files.table(said)
    for name, counts in said['counts'].items() if task == 'segmentation' else ():
        assert counts == json.loads((first / 'labels.json').read_text())['counts'][name]


@pytest.mark.parametrize('task', TASKS)
def test_without_files_of_the_validation_data(pairs, photos, tmp_path, task):
    config = tmp_path / 'pair.py'
    config.write_text(f"_base_ = '{pairs[task]}'\nval_dataloader = dict(dataset=dict(data_root='nowhere/'))\n")
    said = label(str(config), str(photos(task)), str(tmp_path / 'out'))
    assert said['thresholds_of'] == "0.5, without validation data ('nowhere/' does not exist)"
    cfg = Config.fromfile(str(tmp_path / 'out' / 'data.py'))
    with DefaultScope.overwrite_default_scope(said['scope']):
        assert len(DATASETS.build(cfg.val_dataloader.dataset)) == 8


MISTAKES = {
    'none': ({}, 'none', 'does not exist'),
    'empty': ({'notes.txt': ''}, '', 'There is no image in'),
    'list': ({'list.txt': 'a.jpg\n'}, 'list.txt', "names the image '.*a.jpg', which does not exist"),
    'json': ({'list.json': '{"a": []}'}, 'list.json', 'lists no images as the COCO format does'),
    'half a json': (
        {'a.json': '{"images": [{"file_name": "a.jpg"'},
        'a.json',
        'lists no images as the COCO format does',
    ),
    'broken': ({'a.jpg': 'no'}, '', 'None of the images can be read, such as .*a.jpg.: cannot be read'),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_mistakes_in_the_images_are_a_sentence(pairs, tmp_path, mistake):
    contents, source, sentence = MISTAKES[mistake]
    root = tmp_path / 'photos'
    root.mkdir()
    for name, text in contents.items():
        (root / name).write_text(text)
    with pytest.raises(SetupError, match=sentence):
        label(str(pairs['detection']), str(root / source), str(tmp_path / 'out'))
    assert not (tmp_path / 'out').exists()


def test_images_of_other_channels_are_a_sentence(pairs, photos, tmp_path):
    config = tmp_path / 'teacher.py'
    pair = Config.fromfile(str(pairs['segmentation'])).model
    config.write_text(
        f"_base_ = '{pair.teacher}'\n"
        "pipeline = [dict(type='LoadImageFromFile', color_type='unchanged'), dict(type='PackSegInputs')]\n"
        'test_dataloader = dict(dataset=dict(pipeline=pipeline))\n'
    )
    root = tmp_path / 'photos'
    mmcv.imwrite(np.zeros((64, 64, 4), np.uint8), str(root / '0.png'))
    with pytest.raises(SetupError, match='gives 4 channels and 64x64 pixels'):
        label(str(config), str(root), str(tmp_path / 'out'), pair.teacher_ckpt)
    assert not (tmp_path / 'out').exists()
    mmcv.imwrite(np.full((64, 64), 9, np.uint8), str(root / '0.png'))
    assert label(str(config), str(root), str(tmp_path / 'out'), pair.teacher_ckpt, threshold=0.0)['images'] == 1


def test_images_of_a_list_and_of_coco(tmp_path, digits):
    folder = str(digits / 'detection')
    expected = [os.path.join(folder, 'train', f'{i:04d}.png') for i in range(12)]
    assert list(list_images(os.path.join(folder, 'train'))) == expected
    assert list(list_images(os.path.join(folder, 'annotations/train.json'))) == expected
    assert list(list_images(os.path.join(folder, 'annotations/train_small.json'))) == expected[:8]
    (tmp_path / 'list.txt').write_text(''.join(f'{path}\n' for path in expected[:3]))
    assert list(list_images(str(tmp_path / 'list.txt'))) == expected[:3]
    for folder, count in (('x', 3), ('y', 2)):
        for number in range(count):
            mmcv.imwrite(np.zeros((9, 9), np.uint8), str(tmp_path / folder / f'{number}.png'))
    (tmp_path / 'annotations').mkdir()
    coco = tmp_path / 'annotations' / 'all.json'
    coco.write_text(json.dumps(dict(images=[dict(file_name='0.png', note='[]' * 50000), dict(file_name='2.png')])))
    with pytest.raises(SetupError, match='give a text file with the paths that are meant'):
        list(list_images(str(coco)))
    (tmp_path / 'y' / '0.png').unlink()
    assert [os.path.relpath(path, tmp_path) for path in list_images(str(coco))] == ['x/0.png', 'x/2.png']


@pytest.mark.parametrize('task', TASKS)
def test_test_time_augmentation(pairs, photos, tmp_path, task):
    root = photos(task)
    once, several = (
        label(str(pairs[task]), str(root), str(tmp_path / f'{tta}'), threshold=LOW[task], tta=tta) for tta in (0, 1)
    )
    assert once['counts'] != several['counts'] and several['images'] == 8


def test_masks_come_back_as_they_are():
    from mmdet.datasets.transforms import LoadAnnotations

    generator, masks = np.random.default_rng(0), []
    for _ in range(6):
        mask = np.zeros((60, 80), np.uint8)
        axes = tuple(map(int, generator.integers(3, 25, 2)))
        cv2.ellipse(mask, (40, 30), axes, 180 * generator.random(), 0, 360, 1, -1)
        y, x = generator.integers(0, 50, 2)
        mask[y : y + 7, x : x + 2] = 1
        masks.append(mask.astype(bool))
    found = InstanceData(
        masks=torch.from_numpy(np.stack(masks)),
        labels=torch.zeros(6, dtype=torch.long),
        bboxes=torch.tensor([[0.0, 0.0, 80.0, 60.0]]).repeat(6, 1),
    )
    objects = label_files.objects_of(found, np.ones(6), (60, 80), np.ones(6, bool))
    instances = [dict(mask=o[4], bbox=[0, 0, 9, 9], bbox_label=0, ignore_flag=0) for o in objects]
    for poly2mask in (True, False):
        load = LoadAnnotations(with_mask=True, poly2mask=poly2mask)
        loaded = load(dict(instances=instances, ori_shape=(60, 80)))['gt_masks'].to_ndarray()
        assert (np.stack(masks) == loaded).all()
    assert [o[3] for o in objects] == [int(mask.sum()) for mask in masks]
    (outline,) = label_files._polygons(np.pad(np.ones((4, 6)), 3))
    assert min(outline[::2]) + max(outline[::2]) == 3 + 9 and min(outline[1::2]) + max(outline[1::2]) == 3 + 7


def test_pixels_of_a_head_with_one_channel_and_of_one_with_masks():
    def found(data, **head):
        model = SimpleNamespace(decode_head=SimpleNamespace(**head))
        return predictor._with_probabilities((BaseDataElement(seg_logits=PixelData(data=torch.tensor(data))),), model)

    one = found([[[0.1, 0.35, 0.9]]], threshold=0.3)
    assert one['labels'].tolist() == [[0, 1, 1]] and one['probabilities'] == pytest.approx(np.array([[0.9, 0.35, 0.9]]))
    masks = found([[[0.7]], [[0.2]]], num_queries=100)
    assert masks['labels'].tolist() == [[0]] and masks['probabilities'].item() == pytest.approx(0.7)
    logits = found([[[2.0]], [[0.0]]])
    assert logits['probabilities'].item() == pytest.approx(1 / (1 + np.exp(-2)))


def test_pipelines_load_what_the_labels_have():
    step = dict(type='LoadAnnotations', with_bbox=True, with_mask=True, with_seg=True, reduce_zero_label=True)
    without = dict(type='LoadAnnotations', with_bbox=True, with_mask=False, with_seg=False)
    assert label_files._adapted([step], masks=False) == [without]
    assert label_files._adapted([step], masks=True) == [dict(without, with_mask=True)]
    assert step['with_seg']


PLAIN = "[dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]"
OWN_STEPS = """
from mmcv.transforms import TRANSFORMS, BaseTransform

@TRANSFORMS.register_module(force=True)
class TakesOut(BaseTransform):
    def transform(self, results):
        results['gt_seg_map'][results['gt_seg_map'] == 2] = 255
        return results

@TRANSFORMS.register_module(force=True)
class Fails(BaseTransform):
    def transform(self, results):
        raise ValueError('for another reason')
"""


@pytest.fixture
def own_steps(pairs, tmp_path, monkeypatch):
    """Write a teacher's config with steps of the user's own at the end of its pipelines."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'own_steps_of_data.py').write_text(OWN_STEPS)

    def write(kind):
        model, config = load_config(str(pairs['segmentation'])).model, tmp_path / 'own_teacher.py'
        split = 'dataset=dict(pipeline=[*_base_.{0}_dataloader.dataset.pipeline[:-1], own, dict(type="PackSegInputs")])'
        tta = (
            '[_base_.val_dataloader.dataset.pipeline[0], dict(type="TestTimeAug", transforms=[[dict(type="RandomFlip", '
            'prob=p) for p in (0.0, 1.0)], [dict(type="LoadAnnotations")], [own], [dict(type="PackSegInputs")]])]'
        )
        config.write_text(
            f"_base_ = '{model.teacher}'\ncustom_imports = dict(imports=['own_steps_of_data', 'cankd_mm'])\n"
            f"own = dict(type='{kind}')\n"
            f'train_dataloader = dict({split.format("train")})\nval_dataloader = dict({split.format("val")})\n'
            f'test_dataloader = val_dataloader\ntta_pipeline = {tta}\n'
        )
        return str(config), model.teacher_ckpt

    yield write
    sys.modules.pop('own_steps_of_data', None)


@pytest.mark.parametrize('tta', [False, True])
def test_own_steps_that_need_labels(own_steps, photos, tmp_path, tta):
    """Images without labels do without them, and the config of the data imports them."""
    teacher, weights = own_steps('TakesOut')
    said = label(teacher, str(photos('segmentation')), str(tmp_path / 'out'), weights, threshold=0.1, tta=tta)
    assert said['images'] == 8 and len(said['skipped']) == 3
    for name in ('TakesOut', 'Fails'):
        TRANSFORMS._module_dict.pop(name)
    sys.modules.pop('own_steps_of_data')
    assert Config.fromfile(str(tmp_path / 'out' / 'data.py')).custom_imports.imports == ['own_steps_of_data']
    assert len(plain(tmp_path / 'out', 'mmseg')[0]['inputs']) == 3


def test_a_pair_without_validation_data_has_that_of_its_teacher(own_steps, pairs, photos, tmp_path):
    (teacher, weights), pair = own_steps('TakesOut'), tmp_path / 'pair.py'
    nothing = '\n'.join(f'{split}_{key} = None' for split in ('val', 'test') for key in ('evaluator', 'cfg'))
    known = f'metainfo=_base_.train_dataloader.dataset.metainfo, pipeline={PLAIN}'
    images = f"dict(dataset=dict(_delete_=True, type='UnlabeledImages', images='.', {known}))"
    pair.write_text(
        f"_base_ = '{pairs['segmentation']}'\nmodel = dict(teacher='{teacher}')\n{nothing}\n"
        f'val_dataloader = {images}\ntest_dataloader = {images}\n'
    )
    found = []
    for name, config in dict(pair=str(pair), teacher=teacher).items():
        found.append(label(config, str(photos('segmentation')), str(tmp_path / name), weights))
        assert 'greatest F1 of each class on 4 validation images' in found[-1]['thresholds_of']
        assert Config.fromfile(str(tmp_path / name / 'data.py')).custom_imports.imports == ['own_steps_of_data']
    assert found[0]['thresholds'] == found[1]['thresholds']


def test_pixels_of_one_channel_are_sure_of_what_the_head_decides(pairs, photos, tmp_path):
    model, config = load_config(str(pairs['segmentation'])).model, tmp_path / 'two.py'
    two = "dict(classes=('a', 'b'), palette=[[0, 0, 0], [9, 9, 9]])"
    head = "num_classes=2, out_channels=1, loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True)"
    config.write_text(
        f"_base_ = '{model.teacher}'\nmodel = dict(decode_head=dict({head}))\n"
        f'val_dataloader = dict(dataset=dict(metainfo={two}))\ntest_dataloader = val_dataloader\nval_evaluator = None\n'
    )
    state = torch.load(model.teacher_ckpt)
    for key in ('weight', 'bias'):
        state['state_dict'][f'decode_head.conv_seg.{key}'] = state['state_dict'][f'decode_head.conv_seg.{key}'][:1]
    state['state_dict']['decode_head.conv_seg.bias'] -= 0.5  # most probabilities are below a half
    torch.save(state, tmp_path / 'two.pth')
    said = label(str(config), str(photos('segmentation')), str(tmp_path / 'out'), str(tmp_path / 'two.pth'))
    assert said['thresholds_of'].startswith('0.3, without validation data')
    assert said['unsure'] == 0 and min(each['pixels'] for each in said['counts'].values()) > 0


def test_own_steps_that_fail_for_another_reason(own_steps, photos, tmp_path):
    teacher, weights = own_steps('Fails')
    with pytest.raises(SetupError, match=r'its pipeline fails on it \(for another reason'):
        label(teacher, str(photos('segmentation')), str(tmp_path / 'out'), weights, threshold=0.1)


@pytest.mark.parametrize('task', ['segmentation', pytest.param('detection', marks=pytest.mark.full)])
def test_a_student_is_rated_by_its_teacher_where_there_are_no_labels(pairs, digits, task, tmp_path, monkeypatch):
    """The teacher's own weights agree with it in all that it is sure of, and others do not."""
    cfg = load_config(str(pairs[task]))
    same = tmp_path / 'same.py'
    model = f"model = dict(architecture=dict(_delete_=True, cfg_path='{cfg.model.teacher}'))"
    same.write_text(f"_base_ = '{pairs[task]}'\n{model}\n")
    images = str(digits / dict(detection='detection/val', segmentation='segmentation/leftImg8bit/val')[task])
    options, found, told = {'model.init_from_teacher': None}, {}, []
    monkeypatch.setattr(differences, 'warn', told.append)
    for name, config in dict(same=same, other=pairs[task]).items():
        weights = cfg.model.teacher_ckpt
        if name == 'other':
            weights = str(tmp_path / 'other.pth')
            state = build_model(cfg.model.architecture, 'student').state_dict()
            torch.save(dict(state_dict=state, meta=dict(cfg=cfg.pretty_text)), weights)
        found[name] = evaluate(
            str(config), weights, work_dir=str(tmp_path / name), against_teacher=images, cfg_options=options
        )
    key = dict(detection='against_teacher/bbox_mAP', segmentation='against_teacher/aAcc')[task]
    assert found['same'][key] >= (0.99 if task == 'detection' else 99.9) > found['other'].get(key, 0)
    assert len(list((tmp_path / 'same').glob('teacher_labels_*/labels.json'))) == 1
    assert told == [], 'the run had the test that the config has'
    with pytest.raises(SetupError, match='--against-teacher rates the student of a pair'):
        evaluate(cfg.model.teacher, cfg.model.teacher_ckpt, work_dir=str(tmp_path / 'no'), against_teacher=images)
