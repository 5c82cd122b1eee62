"""Write the digit scenes as data sets: COCO format for detection, Cityscapes layout for segmentation."""

import shutil
from pathlib import Path

import mmcv
from mmengine.fileio import dump

from cankd_mm.demo.scenes import CLASSES, SIZE, SceneComposer


def prepare(root: Path, num_train: int = 2000, num_small: int = 300, num_val: int = 200) -> None:
    """Write both data sets under ``root/detection`` and ``root/segmentation``, where they are not there yet.

    The numbers are those of scenes. The small set is the first part of the training set.
    """
    for task, write in (('detection', _write_detection), ('segmentation', _write_segmentation)):
        part = root / f'{task}.part'
        if not (root / task).exists():
            shutil.rmtree(part, ignore_errors=True)
            write(part, num_train, num_small, num_val)
            part.rename(root / task)  # when it is complete: an interrupted run leaves no half data set behind


def _write_detection(root: Path, num_train: int, num_small: int, num_val: int) -> None:
    """Write images into ``train`` and ``val``, and ``train``, ``train_small`` and ``val.json`` into ``annotations``."""
    for split, subsets in (('train', dict(train=num_train, train_small=num_small)), ('val', dict(val=num_val))):
        compose = SceneComposer(split)
        images, annotations = [], []
        for index in range(subsets[split]):
            scene, name = compose(index), f'{index:04d}.png'
            mmcv.imwrite(scene.image, str(root / split / name))
            images.append(dict(id=index, file_name=name, height=SIZE, width=SIZE))
            for box, label in zip(scene.boxes, scene.labels):
                annotation = dict(image_id=index, category_id=label, bbox=box, area=box[2] * box[3], iscrowd=0)
                annotations.append(dict(id=len(annotations) + 1, **annotation))  # pycocotools takes 0 for no match
        categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES)]
        for subset, size in subsets.items():
            inside = [annotation for annotation in annotations if annotation['image_id'] < size]
            coco = dict(images=images[:size], annotations=inside, categories=categories)
            dump(coco, str(root / 'annotations' / f'{subset}.json'))


def _write_segmentation(root: Path, num_train: int, num_small: int, num_val: int) -> None:
    """Write images and label maps, and two lists of the small set, by scenes and by images."""
    for split, number in (('train', num_train), ('val', num_val)):
        compose = SceneComposer(split, cards=True)
        for index in range(number):
            scene, name = compose(index), f'{split}/scenes/{index:04d}'
            mmcv.imwrite(scene.image, str(root / 'leftImg8bit' / f'{name}_leftImg8bit.png'))
            mmcv.imwrite(scene.label_map, str(root / 'gtFine' / f'{name}_gtFine_labelTrainIds.png'))
    small = [f'scenes/{i:04d}' for i in range(num_small)]
    images = [f'leftImg8bit/train/{name}_leftImg8bit.png' for name in small]
    for name, lines in {'train_small.txt': small, 'train_small_images.txt': images}.items():
        (root / name).write_text('\n'.join([*lines, '']))
