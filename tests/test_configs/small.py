"""The configs of the paper on four small images, with nothing left to fetch and, of Swin, two blocks a stage."""

import copy
import json

import cv2
import numpy as np
from mmengine.config import Config

from cankd_mm.config.read import load_model_cfg

SIDE = 96


def make_data(folder):
    """Images and annotations in the layouts of COCO, Objects365 and Cityscapes."""
    from mmdet.datasets import CocoDataset, Objects365V2Dataset

    rng = np.random.RandomState(0)
    images = [dict(id=i, file_name=f'{i}.jpg', height=SIDE, width=SIDE) for i in range(2)]
    (folder / 'images').mkdir(parents=True)
    for image in images:
        cv2.imwrite(str(folder / 'images' / image['file_name']), rng.randint(0, 255, (SIDE, SIDE, 3), np.uint8))
    box = dict(bbox=[20, 30, 60, 50], area=3000, iscrowd=0, segmentation=[[20, 30, 80, 30, 80, 80, 20, 80]])
    for dataset in (CocoDataset, Objects365V2Dataset):
        coco = dict(
            images=images,
            annotations=[dict(id=i + 1, image_id=i, category_id=3, **box) for i in range(2)],
            categories=[dict(id=i, name=name) for i, name in enumerate(dataset.METAINFO['classes'])],
        )
        (folder / f'{dataset.__name__}.json').write_text(json.dumps(coco))
    for kind in ('leftImg8bit', 'gtFine'):
        (folder / kind / 'town').mkdir(parents=True)
    for i in range(2):
        image, labels = rng.randint(0, 255, (SIDE, SIDE, 3), np.uint8), rng.randint(0, 19, (SIDE, SIDE), np.uint8)
        cv2.imwrite(str(folder / 'leftImg8bit' / 'town' / f'{i}_leftImg8bit.png'), image)
        cv2.imwrite(str(folder / 'gtFine' / 'town' / f'{i}_gtFine_labelTrainIds.png'), labels)


def shrink(path, data, bert=None) -> Config:
    """A config whose data sets are the small ones, which trains for one iteration and reads no weights."""
    cfg = Config.fromfile(str(path))
    if bert is not None:  # the teacher reads text, too
        cfg.model.teacher = load_model_cfg(cfg.model.teacher)
    cfg.model = offline(cfg.model.to_dict(), bert)
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=2 if split == 'train' else 1)
        dataset = loader.dataset
        while 'dataset' in dataset:
            dataset.pipeline = small_images(dataset.pipeline)
            dataset = dataset.dataset
        dataset.pipeline = small_images(dataset.pipeline)
        dataset.data_root = f'{data}/'
        if cfg.default_scope == 'mmseg':
            dataset.data_prefix = dict(img_path='leftImg8bit', seg_map_path='gtFine')
            # ADE20K's label maps count from one.
            from_one = any(step.get('reduce_zero_label') for step in dataset.pipeline)
            dataset.update(type='CityscapesDataset', reduce_zero_label=from_one)
        else:
            dataset.ann_file, dataset.data_prefix = f'{dataset.type}.json', dict(img='images/')
    for split in ('val', 'test'):
        evaluator = cfg[f'{split}_evaluator']
        if 'ann_file' in evaluator:
            evaluator.ann_file = f'{data}/{cfg.test_dataloader.dataset.type}.json'
    small_batches(cfg)
    cfg.train_cfg['max_iters' if 'max_iters' in cfg.train_cfg else 'max_epochs'] = 1
    cfg.train_cfg.val_begin = 9
    cfg.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=1)
    cfg.default_hooks.logger.interval = 1
    return cfg


def offline(model, bert=None):
    """A model's config with nothing left to fetch."""
    if isinstance(model, dict):
        model = {key: offline(value, bert) for key, value in model.items() if key != 'pretrained'}
        if (model.get('init_cfg') or {}).get('type') == 'Pretrained':
            model['init_cfg'] = None
        if 'language_model' in model:
            model['language_model']['name'] = bert
        if 'depths' in model:
            model['depths'] = [min(depth, 2) for depth in model['depths']]  # Swin's further blocks repeat these
        if 'num_queries' in model:
            model['num_queries'] = 100  # DINO chooses them among the pixels of all levels, which are few here
        for key in {'max_per_img', 'nms_pre', 'num_points'} & set(model):
            model[key] = min(model[key], 100)  # of thousands of proposals, or of points of a mask
    elif isinstance(model, (list, tuple)):
        model = type(model)(offline(value, bert) for value in model)
    return model


def narrow(model):
    """A model's config with a quarter of the channels in its backbone, where that is a ResNet or a Swin transformer.

    Pyramids, heads and connectors stay what they are, and take what the backbone gives, with fewer blocks and
    layers of those that repeat each other.
    """
    model = shallow(copy.deepcopy(model))
    backbone, kind = model['backbone'], model['backbone']['type'].split('.')[-1]
    if kind.startswith('ResNe'):
        backbone['depth'] = min(backbone['depth'], 50)
        first = 64 if backbone['depth'] < 50 else 256
        backbone['base_channels'] = 64 // 4
    elif kind == 'SwinTransformer':
        first = backbone['embed_dims']
        backbone['embed_dims'] = first // 4
    else:
        return model
    given = [first * 2**i for i in range(4)]
    heads = ('decode_head', 'auxiliary_head', 'panoptic_head')
    for part in [model['neck']] if model.get('neck') else map(model.get, heads):
        for module in part if isinstance(part, (list, tuple)) else [part]:
            if module:
                _take(module, given)
    return model


# Of layers that repeat each other, and of channels that only a head's own layers have.
MOST = dict(num_layers=2, num_cp=2, fc_out_channels=64, feedforward_channels=64)


def shallow(model):
    """A model's config with no more of what makes it large than ``MOST`` says."""
    if isinstance(model, dict):
        small = {key: _at_most(value, MOST[key]) if key in MOST else shallow(value) for key, value in model.items()}
        return type(model)(small)
    return type(model)(shallow(value) for value in model) if isinstance(model, (list, tuple)) else model


def _at_most(value, most):
    return [min(number, most) for number in value] if isinstance(value, (list, tuple)) else min(value, most)


def _take(module, given):
    """Have a neck or a head take what a narrower backbone gives."""
    channels = module.get('in_channels')
    if isinstance(channels, (list, tuple)) and set(channels) <= set(given):
        module['in_channels'] = [number // 4 for number in channels]
    elif channels in given:
        module['in_channels'] = channels // 4


def small_batches(cfg, side=SIDE):
    """Have the student's preprocessor pad to one small size, where it pads to a large one."""
    preprocessor = cfg.model.architecture.data_preprocessor
    for part in (preprocessor, *(preprocessor.get('batch_augments') or [])):
        if part.get('size'):
            part.size = (side, side)


def small_images(steps, side=SIDE):
    """A pipeline whose images are of one small size."""
    if isinstance(steps, dict):
        step = {key: small_images(value, side) for key, value in steps.items()}
        for key in ('scale', 'crop_size', 'img_scale', 'size'):
            if isinstance(step.get(key), (tuple, list)):
                of_one = isinstance(step[key][0], (int, float))
                step[key] = (side, side) if of_one else [(side, side)] * len(step[key])
        if 'scales' in step:
            step['scales'] = [(side, side)]
        return step
    return type(steps)(small_images(step, side) for step in steps) if isinstance(steps, (list, tuple)) else steps
