"""The files of a labelled data set: a line for each image while it grows, and what a training takes at the end."""

import copy
import json
import os.path as osp
from pathlib import Path
from typing import BinaryIO, Dict, Iterator, List, Optional, Set, Tuple

import cv2
import mmcv
import numpy as np
import pandas as pd
import torch
from mmengine.config import Config
from mmengine.fileio import dump
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from cankd_mm.apis.data import innermost
from cankd_mm.config.pair import own_imports
from cankd_mm.config.types import type_name
from cankd_mm.config.write import arguments, literal

LABELS, LINES, DATA, LOCK = 'labels.json', 'predictions.jsonl', 'data.py', '.lock'
_COCO, _NAMES, _MAPS = 'annotations.json', 'images.txt', 'label_maps'
_PATHS = ('ann_file', 'img', 'img_path', 'seg', 'seg_map_path')
UNSURE = 255  # the label that MMSegmentation ignores


def done_images(out: Path) -> Set[str]:
    """Read which images have their line, and cut off the last one where it was interrupted."""
    names, end = set(), 0
    with (out / LINES).open('ab+') as lines:
        lines.seek(0)
        for line in lines:
            if not line.endswith(b'\n'):
                break
            names.add(json.loads(line)['image'])
            end += len(line)
        lines.truncate(end)
    return names


def write_lines(lines: BinaryIO, entries: List[dict]) -> None:
    """Append what is known of some images, all at once."""
    lines.write(''.join(f'{json.dumps(entry)}\n' for entry in entries).encode())
    lines.flush()


def objects_of(found: InstanceData, scores: np.ndarray, size: Tuple[int, int], keep: np.ndarray) -> List[list]:
    """Give label, score, box, area and, where there are masks, polygons of what is kept of a detector's predictions."""
    height, width = size
    objects = []
    for index in np.flatnonzero(keep):
        left, top, right, bottom = np.clip(found.bboxes[index].tolist(), 0, [width, height, width, height]).round(2)
        box = [round(float(side), 2) for side in (left, top, right - left, bottom - top)]
        if min(box[2:]) < 1:  # which MMDetection leaves out
            continue
        entry = [int(found.labels[index]), round(float(scores[index]), 4), box]
        if 'masks' in found:
            mask = found.masks[index].numpy()
            polygons = _polygons(mask)
            if not polygons:
                continue
            objects.append([*entry, int(mask.sum()), polygons])
        else:
            objects.append([*entry, round(box[2] * box[3], 2)])
    return objects


def _polygons(mask: np.ndarray) -> List[List[float]]:
    """Outline a mask, without its holes. Those of COCO run between pixels: of twice the size, centres are there."""
    mask = mask.astype(np.uint8)
    x, y, width, height = cv2.boundingRect(mask)
    large = mask[y : y + height, x : x + width].repeat(2, 0).repeat(2, 1)
    outlines, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(2 * x, 2 * y))
    return [((outline.reshape(-1) + 0.5) / 2).tolist() for outline in outlines]


def write_map(out: Path, name: str, labels: np.ndarray) -> Dict[str, int]:
    """Write a label map, and count the pixels of each label."""
    mmcv.imwrite(labels, str(out / _MAPS / f'{name}.png'))
    present, counts = np.unique(labels, return_counts=True)
    return dict(zip(map(str, present.tolist()), counts.tolist()))


def _entries(out: Path, root: str) -> Iterator[dict]:
    """Read the lines of images that are labelled and still there."""
    with (out / LINES).open('rb') as lines:
        for entry in map(json.loads, lines):
            if 'skipped' not in entry and osp.isfile(osp.join(root, entry['image'])):
                yield entry


def finish(out: Path, labels: dict) -> dict:
    """Write what a training takes from the lines of all images, and count what there is."""
    classes, root = labels['classes'], labels['root']
    amounts, images = ({name: 0 for name in classes} for _ in range(2))
    count, unsure, pixels = 0, 0, 0
    for entry in _entries(out, root):
        count += 1
        found = {int(label): number for label, number in entry.get('pixels', {}).items()}
        pixels += sum(found.values())
        unsure += found.pop(UNSURE, 0)
        for label, *_ in entry.get('objects', ()):
            found[label] = found.get(label, 0) + 1
        for label, number in found.items():
            amounts[classes[label]] += number
            images[classes[label]] += 1
    if labels['scope'] == 'mmdet':
        _write_coco(out / _COCO, _entries(out, root), classes)
    else:
        part = (out / _NAMES).with_suffix('.part')
        with part.open('w', encoding='utf-8') as names:
            names.writelines(f'{entry["image"]}\n' for entry in _entries(out, root))
        part.replace(out / _NAMES)
        labels = dict(labels, unsure=unsure / max(pixels, 1))
    what = 'objects' if labels['scope'] == 'mmdet' else 'pixels'
    counts = {name: {what: amounts[name], 'images': images[name]} for name in classes}
    with (out / LINES).open('rb') as lines:
        skipped = [f'{entry["image"]}: {entry["skipped"]}' for entry in map(json.loads, lines) if 'skipped' in entry]
    labels = dict(labels, images=count, skipped=skipped, counts=counts)
    dump(labels, str(out / LABELS), indent=1)
    return labels


def _write_coco(path: Path, entries: Iterator[dict], classes: List[str]) -> None:
    """Write images and objects one by one, as there may be more than memory holds."""
    part, objects = path.with_suffix('.objects'), 0
    with path.with_suffix('.part').open('w') as out, part.open('w+') as annotations:
        out.write('{"images": [')
        for number, entry in enumerate(entries):
            width, height = entry['size']
            image = dict(id=number, file_name=entry['image'], width=width, height=height)
            out.write(f'{"," if number else ""}\n{json.dumps(image)}')
            for label, score, box, area, *polygons in entry['objects']:
                objects += 1
                said = dict(id=objects, image_id=number, category_id=label + 1, bbox=box, area=area, iscrowd=0)
                said.update(score=score, **({'segmentation': polygons[0]} if polygons else {}))
                annotations.write(f'{"," if objects > 1 else ""}\n{json.dumps(said)}')
        out.write('],\n"annotations": [')
        annotations.seek(0)
        out.writelines(annotations)
        categories = [dict(id=label + 1, name=name) for label, name in enumerate(classes)]
        out.write(f'],\n"categories": {json.dumps(categories)}}}\n')
    part.unlink()
    path.with_suffix('.part').replace(path)


def write_data(out: Path, labels: dict, cfg: Config, val: Optional[Config], masks: bool) -> None:
    """Write the config of the data: how the teacher was trained and validated, on what it has labelled.

    ``val`` is a config with validation data, in place of which there are the labels themselves.
    """
    imports = [*dict.fromkeys([*own_imports(cfg), *own_imports(val or {})])]  # of the types that follow
    cfg, root = cfg.to_dict(), str(out.resolve())
    metainfo = dict(classes=tuple(labels['classes']), palette=[tuple(colour) for colour in labels['palette']])
    if labels['scope'] == 'mmdet':
        data = dict(type='CocoDataset', data_root=root, ann_file=_COCO, data_prefix=dict(img=labels['root']))
        evaluator = dict(type='CocoMetric', ann_file=osp.join(root, _COCO), metric='bbox')
    else:
        prefix = dict(img_path=labels['root'], seg_map_path=_MAPS)
        data = dict(type='BaseSegDataset', data_root=root, ann_file=_NAMES, data_prefix=prefix)
        data.update(img_suffix='', seg_map_suffix='.png', reduce_zero_label=False)
        evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
    train, test = cfg.get('train_dataloader') or {}, cfg.get('test_dataloader') or cfg['val_dataloader']
    own, tested = train.get('dataset') or {}, innermost(test)['pipeline']
    augmented = None if {'dataset', 'datasets'} & set(own) else own.get('pipeline')
    augmented = augmented or _train_pipeline(tested, labels['scope'])
    default = dict(batch_size=2, num_workers=2, sampler=dict(type='DefaultSampler', shuffle=True))
    lines = [
        f'# Images with labels of {labels["settings"]["teacher"]}.',
        *([f'custom_imports = {literal(dict(imports=imports, allow_failed_imports=False))}'] if imports else []),
        f'metainfo = {literal(metainfo)}',
        f'data = dict({arguments(data)}, metainfo=metainfo)',
        f'train_pipeline = {literal(_adapted(augmented, masks))}',
        f'train_dataloader = {_loader(train or default, "pipeline=train_pipeline, **data")}',
    ]
    if val is None:
        lines.append('# There is no validation data with labels of its own: the labels themselves.')
        lines.append(f'test_pipeline = {literal(_adapted(tested, masks))}')
        lines.append(f'val_dataloader = {_loader(test, "pipeline=test_pipeline, test_mode=True, **data")}')
        lines.append(f'val_evaluator = {literal(evaluator)}')
    else:
        lines += [f'{key} = {literal(_absolute(val.to_dict()[key]))}' for key in ('val_dataloader', 'val_evaluator')]
    lines += ['test_dataloader = val_dataloader', 'test_evaluator = val_evaluator', '']
    (out / DATA).write_text('\n'.join(lines), encoding='utf-8')


def _loader(loader: dict, dataset: str) -> str:
    """Write a data loader with another data set."""
    others = {key: value for key, value in loader.items() if key != 'dataset'}
    return f'dict({arguments(others)}, dataset=dict({dataset}))'


def _train_pipeline(test: List[dict], scope: str) -> List[dict]:
    """A plain pipeline for what a wrapper has augmented, at the size that the teacher tests at."""
    resize = [step for step in test if type_name(step) == 'Resize']
    pack = dict(type='PackDetInputs' if scope == 'mmdet' else 'PackSegInputs')
    load = dict(type='LoadAnnotations', **(dict(with_bbox=True) if scope == 'mmdet' else {}))
    return [test[0], load, *resize, dict(type='RandomFlip', prob=0.5), pack]


def _adapted(pipeline: List[dict], masks: bool) -> List[dict]:
    """Have a pipeline load what the labels have."""
    pipeline = copy.deepcopy(pipeline)
    for step in pipeline:
        if type_name(step) == 'LoadAnnotations':
            step.pop('reduce_zero_label', None)
            for key in {'with_seg', *(() if masks else ('with_mask',))} & set(step):
                step[key] = False
    return pipeline


def _absolute(value: object, rooted: bool = False) -> object:
    """Make the paths of data and evaluators absolute, but for those below a ``data_root``."""
    if isinstance(value, (list, tuple)):
        return type(value)(_absolute(each, rooted) for each in value)
    if not isinstance(value, dict):
        return value
    rooted = rooted or bool(value.get('data_root'))
    paths = ('data_root',) if rooted else _PATHS
    found = {}
    for key, entry in value.items():
        is_path = key in paths and isinstance(entry, str) and entry and '://' not in entry
        found[key] = osp.abspath(entry) if is_path else _absolute(entry, rooted)
    return found


def read_samples(out: Path, labels: dict, count: int) -> Iterator[Tuple[str, BaseDataElement]]:
    """Take images, evenly spaced over all, with their labels as ground truth."""
    wanted = {index * labels['images'] // count for index in range(count)}
    for number, entry in enumerate(_entries(out, labels['root'])):
        if number not in wanted:
            continue
        if labels['scope'] == 'mmdet':
            from mmdet.structures import DetDataSample
            from mmdet.structures.mask import PolygonMasks

            objects, (width, height) = entry['objects'], entry['size']
            boxes = torch.tensor([box for _, _, box, *_ in objects]).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            truth = InstanceData(bboxes=boxes, labels=torch.tensor([o[0] for o in objects], dtype=torch.long))
            if objects and len(objects[0]) > 4:
                truth.masks = PolygonMasks([list(map(np.array, o[4])) for o in objects], height, width)
            sample = DetDataSample(gt_instances=truth)
        else:
            from mmseg.structures import SegDataSample

            label_map = mmcv.imread(str(out / _MAPS / f'{entry["image"]}.png'), 'unchanged')
            sample = SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(label_map[None]).long()))
        yield osp.join(labels['root'], entry['image']), sample


def is_empty(labels: dict) -> bool:
    """Tell whether nothing at all is labelled."""
    return not any(sum(counts.values()) for counts in labels['counts'].values())


def table(labels: dict) -> str:
    """Lay out thresholds and counts of the classes, and name what was skipped."""
    rows = []
    for name, counts in labels['counts'].items():
        score, *rest = labels['thresholds'][name]
        figures = ['-' if figure is None else f'{100 * figure:.1f}' for figure in rest]
        rows.append([name, f'{score:.3f}', *figures, *map(str, counts.values())])
    heads = ['class', 'threshold', 'precision', 'recall', *next(iter(labels['counts'].values()))]
    lines = [pd.DataFrame(rows, columns=heads).to_markdown(index=False, tablefmt='github', disable_numparse=True), '']
    lines += [f'thresholds: {labels["thresholds_of"]}', f'{labels["images"]} images labelled']
    if 'unsure' in labels:
        lines[-1] += f', {100 * labels["unsure"]:.1f} % of their pixels unsure ({UNSURE})'
    if is_empty(labels):
        lines.append('warning: the teacher finds nothing that it is sure of: are the images and --threshold right?')
    skipped = labels['skipped']
    if skipped:
        more = f', and {len(skipped) - 3} more in {LABELS}' if len(skipped) > 3 else ''
        lines.append(f'{len(skipped)} images skipped: {"; ".join(skipped[:3])}{more}')
    return '\n'.join(lines)
