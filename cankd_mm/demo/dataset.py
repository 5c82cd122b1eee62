"""Write the digit scenes as data sets: COCO format for detection, Cityscapes layout for segmentation."""

import shutil
from pathlib import Path

import cv2
from mmengine.fileio import dump

from cankd_mm.demo.scenes import CLASSES, SIZE, SceneComposer


def write_detection(root: Path, num_train: int, num_small: int, num_val: int) -> None:
    """Write scenes in COCO format.

    ``annotations/train.json`` names every training image, ``train_small.json`` the first ``num_small`` of them and
    ``val.json`` the validation images.

    Args:
        root (Path): The folder to write.
        num_train (int): Number of training scenes.
        num_small (int): Number of training scenes in the small set.
        num_val (int): Number of validation scenes.
    """
    for split, number in (('train', num_train), ('val', num_val)):
        compose = SceneComposer(split)
        (root / split).mkdir(parents=True)
        images, annotations = [], []
        for index in range(number):
            scene = compose(index)
            name = f'{index:04d}.png'
            cv2.imwrite(str(root / split / name), scene.image)
            images.append(dict(id=index, file_name=name, height=SIZE, width=SIZE))
            annotations += [
                dict(
                    id=len(annotations) + i + 1,  # pycocotools takes 0 for no match
                    image_id=index,
                    category_id=label,
                    bbox=box,
                    area=box[2] * box[3],
                    iscrowd=0,
                )
                for i, (box, label) in enumerate(zip(scene.boxes, scene.labels))
            ]
        subsets = {split: number, 'train_small': num_small} if split == 'train' else {split: number}
        for subset, size in subsets.items():
            coco = dict(
                images=images[:size],
                annotations=[a for a in annotations if a['image_id'] < size],
                categories=[dict(id=i, name=name) for i, name in enumerate(CLASSES)],
            )
            (root / 'annotations').mkdir(exist_ok=True)
            dump(coco, str(root / 'annotations' / f'{subset}.json'))


def write_segmentation(root: Path, num_train: int, num_small: int, num_val: int) -> None:
    """Write scenes in the layout of Cityscapes.

    Images are ``leftImg8bit/<split>/scenes/<number>_leftImg8bit.png``, label maps
    ``gtFine/<split>/scenes/<number>_gtFine_labelTrainIds.png``; ``train_small.txt`` lists the first ``num_small``
    training scenes.

    Args:
        root (Path): The folder to write.
        num_train (int): Number of training scenes.
        num_small (int): Number of training scenes in the small set.
        num_val (int): Number of validation scenes.
    """
    for split, number in (('train', num_train), ('val', num_val)):
        compose = SceneComposer(split, cards=True)
        images, labels = (root / kind / split / 'scenes' for kind in ('leftImg8bit', 'gtFine'))
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for index in range(number):
            scene = compose(index)
            cv2.imwrite(str(images / f'{index:04d}_leftImg8bit.png'), scene.image)
            cv2.imwrite(str(labels / f'{index:04d}_gtFine_labelTrainIds.png'), scene.label_map)
    (root / 'train_small.txt').write_text(''.join(f'scenes/{i:04d}\n' for i in range(num_small)))


def prepare(root: Path, num_train: int = 2000, num_small: int = 300, num_val: int = 200) -> None:
    """Write both data sets under ``root/detection`` and ``root/segmentation``, where they are not there yet.

    Args:
        root (Path): The folder of both data sets.
        num_train (int): Number of training scenes. Defaults to 2000.
        num_small (int): Number of training scenes in the small set. Defaults to 300.
        num_val (int): Number of validation scenes. Defaults to 200.
    """
    for task, write in (('detection', write_detection), ('segmentation', write_segmentation)):
        if (root / task).exists():
            continue
        # Renamed when complete: an interrupted run leaves no half data set behind.
        part = root / f'{task}.part'
        shutil.rmtree(part, ignore_errors=True)
        write(part, num_train, num_small, num_val)
        part.rename(root / task)
