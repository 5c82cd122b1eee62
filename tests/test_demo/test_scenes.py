import cv2
import numpy as np
from mmengine.fileio import load

from cankd_mm.demo.dataset import prepare
from cankd_mm.demo.scenes import SceneComposer


def test_scene_is_the_same_whenever_it_is_made():
    compose = SceneComposer('train')
    first = compose(3)
    compose(4)
    assert np.array_equal(first.image, compose(3).image) and first.boxes == compose(3).boxes
    assert not np.array_equal(first.image, SceneComposer('val')(3).image)


def test_validation_uses_other_digits():
    train, val = SceneComposer('train'), SceneComposer('val')
    assert len(train.digits) == 1200 and len(val.digits) == 597


def test_annotations_lie_on_the_image():
    for cards in (False, True):
        compose = SceneComposer('train', cards)
        for index in range(10):
            scene = compose(index)
            assert scene.image.shape == (128, 128, 3) and scene.image.dtype == np.uint8
            assert scene.boxes and len(scene.boxes) == len(scene.labels)
            for x, y, width, height in scene.boxes:
                assert x >= 0 and y >= 0 and x + width <= 128 and y + height <= 128
            assert cards == bool(scene.label_map.any())


def test_data_sets_on_disk(digits):
    coco = load(str(digits / 'detection' / 'annotations' / 'train.json'))
    assert len(coco['images']) == 12 and len({a['id'] for a in coco['annotations']}) == len(coco['annotations'])
    small = load(str(digits / 'detection' / 'annotations' / 'train_small.json'))
    assert {a['image_id'] for a in small['annotations']} <= {image['id'] for image in small['images']}
    assert (digits / 'detection' / 'train' / coco['images'][-1]['file_name']).exists()
    labels = sorted((digits / 'segmentation' / 'gtFine').rglob('*_labelTrainIds.png'))
    assert len(labels) == 16
    assert cv2.imread(str(labels[0]), cv2.IMREAD_UNCHANGED).max() <= 10
    assert len((digits / 'segmentation' / 'train_small.txt').read_text().split()) == 8


def test_half_a_data_set_is_written_again(tmp_path):
    (tmp_path / 'detection.part').mkdir()
    prepare(tmp_path, 2, 1, 1)
    assert not (tmp_path / 'detection.part').exists() and (tmp_path / 'detection').exists()
