"""Whether data sets hold what a config says, and what is wrong with a batch that could not be trained on."""

import copy
import mmap
import os.path as osp
import re
from contextlib import contextmanager
from functools import partial
from json import JSONDecoder
from time import monotonic
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple
from xml.etree import ElementTree

import numpy as np
from mmengine.config import Config
from mmengine.fileio import get_local_path
from mmengine.logging import print_log
from mmengine.runner import Runner
from PIL import Image
from torch import nn

from cankd_mm.errors import SetupError, explain, frames_of, reason_of, warn
from cankd_mm.models.utils import heads_of, untouched_generators, unwrap

_SECONDS = 3.0  # how long the labels of a split are looked through
_FILES = 1000  # how many XML files, or names of images, are


def check_data(cfg: Config, *splits: str) -> None:
    """Raise a SetupError where a folder or annotation file of ``'train'``, ``'val'`` or ``'test'`` does not exist."""
    for split, path in missing_data(cfg, *splits):
        raise SetupError(
            f'The {split} data set needs {path!r}, which does not exist: put the data there, or set '
            f'{split}_dataloader.dataset.data_root to where it is.'
        )


def missing_data(cfg: Config, *splits: str) -> Iterator[Tuple[str, str]]:
    """Yield split and path of folders and annotation files that do not exist, a folder before what it holds."""
    for split in splits:
        for path in _paths_of((cfg.get(f'{split}_dataloader') or {}).get('dataset', {})):
            # Paths with a scheme are fetched by a file backend.
            if '://' not in path and not osp.exists(path):
                yield split, path


def _paths_of(dataset: dict) -> Iterator[str]:
    """List the paths of a data set, and of those that it wraps."""
    for part in inner_datasets(dataset):
        if part.get('backend_args'):  # the files are in a store that only their backend can look into
            continue
        paths = {key: path for key, path in _path_entries(part).items() if isinstance(path, str) and path}
        root = paths.get('data_root', '')
        for path in paths.values():
            yield path if path == root else osp.join(root, path)


def inner_datasets(dataset: dict) -> Iterator[dict]:
    """List the configs of the data sets inside one that may repeat, join or mix them."""
    wrapped = [dataset[key] for key in ('dataset', 'labeled') if isinstance(dataset.get(key), dict)]
    parts = [*wrapped, *(dataset.get('datasets') or [])]
    for part in parts:
        yield from inner_datasets(part)
    if not parts:
        yield dataset


def innermost(loader: dict) -> dict:
    """Copy the config of a loader's data set, of several the first, without wrappers."""
    return copy.deepcopy(next(inner_datasets(loader['dataset'])))


def _path_entries(dataset: dict) -> Dict[str, object]:
    """Take the entries of a data set that should be a path each."""
    entries = {key: dataset.get(key) for key in ('data_root', 'ann_file')}
    prefix = dataset.get('data_prefix')
    return {**entries, **({f'data_prefix.{key}': path for key, path in prefix.items()} if prefix else {})}


def check_datasets(runner: Runner, *splits: str) -> None:
    """Build the data sets and evaluators of ``'train'``, ``'val'`` or ``'test'``, and check for seconds what they hold.

    Raises:
        SetupError: If annotations are of another format or of other classes, or without an image or an object, or if a
            data loader asks something of workers that it does not have.
    """
    cfg, model = runner.cfg, unwrap(runner.model)
    # FlexibleRunner has not built its model yet; the classes of a language model are words.
    heads = heads_of(model) if isinstance(model, nn.Module) and not hasattr(model, 'language_model') else {}
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        # The data of the test may come later than the training, and is mostly that of the validation.
        later = split == 'test' and len(splits) > 1
        if not loader or later and (loader == cfg.get('val_dataloader') or any(missing_data(cfg, split))):
            continue
        with _reading(loader, split):
            loop = getattr(runner, f'{split}_loop')
        parts = leaves(loop.dataloader.dataset)
        around = _steps_around(loop.dataloader.dataset)
        with untouched_generators():  # of which a user's own steps may draw
            found = [_check_dataset(dataset, split, heads, around) for dataset in parts]
        _check_classes([_classes_of(dataset) for dataset in parts], found, split, heads)
        for metric in getattr(getattr(loop, 'evaluator', None), 'metrics', ()):
            if type(metric).__name__ == 'CocoMetric' and metric._coco_api is not None:
                _check_metric(metric, split)
                if parts == [loop.dataloader.dataset]:  # of several, or a part of one, others may be rated elsewhere
                    _check_images(metric, parts[0], split)


def explain_batch(batch: Optional[dict], model: nn.Module) -> None:
    """Raise a SetupError with the file where the labels of a batch are wrong, after an error that may come of them."""
    heads, batch = heads_of(model), batch or {}
    for image, sample in zip(batch.get('inputs', ()), batch.get('data_samples', ())):
        if hasattr(sample, 'gt_sem_seg'):
            labels = sample.gt_sem_seg.data
            labels = labels[0] if len(labels) == 1 else labels
            _check_label_map(labels.numpy(), image.shape[-2:], sample.metainfo.get('seg_map_path'), 'train', heads)
    padding = getattr(getattr(model, 'data_preprocessor', None), 'seg_pad_val', None)
    for name, head in heads.items():
        ignored = getattr(head, 'ignore_index', padding)
        if padding is not None and padding != ignored and not 0 <= padding < head.num_classes:
            raise SetupError(
                f'data_preprocessor.seg_pad_val={padding} fills the label maps where images are padded, and {name} '
                f'ignores {ignored} (its ignore_index): set one to the other.'
            )


def leaves(dataset: object) -> List[object]:
    """List the data sets inside one that may repeat, join, mix or slice them."""
    return [leaf for part in _inside(dataset) for leaf in leaves(part)] or [dataset]


def _inside(dataset: object) -> List[object]:
    inner = [getattr(dataset, 'dataset', None), getattr(dataset, '_dataset', None), *getattr(dataset, 'datasets', ())]
    return [part for part in inner if hasattr(part, '__getitem__')]


def _steps_around(dataset: object) -> list:
    """List the steps of wrappers, which an image goes through after those of its data set."""
    own = getattr(dataset, 'pipeline', None)
    return [step for part in _inside(dataset) for step in _steps_around(part)] + (own if isinstance(own, list) else [])


def _classes_of(dataset: object) -> Optional[Sequence[str]]:
    return (getattr(dataset, 'metainfo', None) or {}).get('classes')


class _Found(NamedTuple):
    """The labels that were found in some images of a data set; of label maps, whether zero was taken out of them."""

    labels: Set[int]
    looked: int
    images: int
    reduced: Optional[bool]


def _check_dataset(dataset: object, split: str, heads: Dict[str, nn.Module], around: list) -> Optional[_Found]:
    classes = _classes_of(dataset)
    where = f'The {split} annotations {_name(vars(dataset))!r}'
    if len(dataset) == 0:
        raise SetupError(_empty(split, type(dataset).__name__, vars(dataset)))
    if isinstance(classes, str):
        raise SetupError(
            f'metainfo.classes of the {split} data set is the string {classes!r}: write ({classes!r},) with a comma, '
            'or the path of a file with a name in each line.'
        )
    if classes is not None:
        _check_heads(len(classes), split, heads)
        load = getattr(dataset, 'load_data_list', None)
        names = getattr(load, '__module__', None), getattr(load, '__qualname__', None)
        if names == ('mmdet.datasets.coco', 'CocoDataset.load_data_list'):
            _check_categories(dataset, classes, where)
        elif hasattr(dataset, 'ann_subdir'):
            _check_xml(dataset, classes, split, where)
    return _check_labels(dataset, split, heads, where, around)


def _name(dataset: dict) -> Optional[str]:
    """Name a data set, by its config or its attributes."""
    labels = (dataset.get('data_prefix') or {}).get('seg_map_path')
    return dataset.get('ann_file') or labels or dataset.get('data_root')


def _empty(split: str, kind: str, dataset: dict) -> str:
    return (
        f'The {split} data set {kind} finds no image with annotations in {_name(dataset)!r}: check ann_file, '
        'data_prefix, img_suffix and the names in metainfo.classes.'
    )


@contextmanager
def _reading(loader: dict, split: str) -> Iterator[None]:
    """Turn what a data loader or its data set raises, as on annotations of another format, into a sentence."""
    try:
        yield
    except (ValueError, KeyError, AssertionError, TypeError, IndexError, AttributeError) as e:
        if explain(e) is not None:
            raise
        option = str(e).partition(' ')[0]
        if option in ('persistent_workers', 'prefetch_factor'):
            raise SetupError(
                f'{split}_dataloader sets {option}={loader[option]} and num_workers=0, which has no workers: set '
                f'num_workers to 1 or more, or leave {option} out.'
            ) from e
        readers = [frame.f_locals.get('self') for frame in frames_of(e)]
        reader = next((each for each in reversed(readers) if hasattr(each, 'ann_file')), None)
        if reader is None:
            raise
        kind, entries = type(reader).__name__, vars(reader)
        if 'need at least one array' in str(e):  # what MMEngine makes of an empty list
            raise SetupError(_empty(split, kind, entries)) from e
        for key, value in _path_entries(entries).items():
            if isinstance(value, (list, tuple)):
                one = 'a ConcatDataset with a data set for each'
                raise SetupError(f'{key} of the {split} {kind} is a list, and it takes one path: give {one}.') from e
        if isinstance(e, AttributeError):
            raise
        raise SetupError(
            f'The {split} data set cannot read {_name(entries)!r} ({type(e).__name__}: {reason_of(e)}): give '
            f'annotations in the format that a {kind} reads.'
        ) from e


def _check_heads(classes: int, split: str, heads: Dict[str, nn.Module]) -> None:
    for name, head in heads.items():
        if head.num_classes < classes:
            raise SetupError(
                f"The {split} data set has {classes} classes and the model's {name} predicts {head.num_classes}: set "
                f'num_classes of {name} to {classes}.'
            )
        loss = getattr(head, 'loss_decode', None)
        if getattr(head, 'out_channels', None) == 1 and getattr(loss, 'use_sigmoid', True) is False:
            raise SetupError(
                f"The model's {name} predicts a single class with a softmax, which is 1 everywhere, so that its loss "
                'is zero: set num_classes=2, or num_classes=2, out_channels=1 and use_sigmoid=True in loss_decode.'
            )


def _check_categories(dataset: object, classes: Tuple[str, ...], where: str) -> None:
    """Check names and order of the categories, by which MMDetection numbers labels."""
    with get_local_path(dataset.ann_file, backend_args=dataset.backend_args) as path:
        names = _read_categories(path)
    lacking = [known for known in classes if known not in names]
    if names and lacking:
        raise SetupError(
            f'{where} have no category {_some(lacking)}: write metainfo.classes as the file does ({_some(names)}).'
        )
    order = [known for known in names if known in classes]
    if names and order != list(classes):
        raise SetupError(
            f'{where} list their categories in the order {_some(order)}, by which MMDetection numbers the labels, and '
            f'metainfo.classes is {_some(classes)}: give both the same order, in all data sets.'
        )


def _read_categories(path: str) -> List[str]:
    """Read the names of the categories and nothing else of a file, which may be half a gigabyte."""
    with open(path, 'rb') as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as text:
        for found in re.finditer(rb'"categories"\s*:\s*(?=\[)', text):
            tail = text[found.end() : found.end() + 2**22].decode('utf-8', errors='ignore')
            try:
                return [category['name'] for category in JSONDecoder().raw_decode(tail)[0]]
            except (ValueError, KeyError, TypeError):  # something else of that name
                continue
    return []


def _some(names: Sequence[str]) -> str:
    """List names, of many the first."""
    return ', '.join(map(repr, names[:12])) + (', ...' if len(names) > 12 else '')


def _check_xml(dataset: object, classes: Tuple[str, ...], split: str, where: str) -> None:
    """Check that classes occur, where MMDetection leaves out objects of other names without a word."""
    count, found, indices = len(dataset), set(), _spread(dataset)
    for info in map(dataset.get_data_info, indices):
        if 'xml_path' in info:
            with get_local_path(info['xml_path'], backend_args=dataset.backend_args) as path:
                found |= {element.text for element in ElementTree.parse(path).iterfind('object/name')}
    lacking, unknown = [known for known in classes if known not in found], sorted(found - set(classes))
    if not (lacking and unknown):
        return
    sentence = (
        f'{where} name no object {_some(lacking)}, but {_some(unknown)}, which metainfo.classes does not: write the '
        'names as the XML files do.'
    )
    # A class may be rare, and a few images to evaluate without it.
    if len(indices) == count and (split == 'train' or not found & set(classes)):
        raise SetupError(sentence)
    warn(f'{sentence} {len(indices)} of {count} files were read.')


def _spread(dataset: object) -> List[int]:
    """List the indices of images, of many some that are evenly spaced."""
    return np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), _FILES)).astype(int)).tolist()


def _check_metric(metric: object, split: str) -> None:
    """Check the annotation file that the predictions are compared with."""
    content, where = metric._coco_api.dataset, f'The annotations that {split}_evaluator compares with'
    objects = content.get('annotations', [])
    for field, value in dict(iscrowd='0', area='width * height').items():
        without = [a.get('id') for a in objects if field not in a]
        if without:
            raise SetupError(
                f'{where} have no {field!r} in {len(without)} of {len(objects)} objects, such as id {without[0]}, '
                f"which COCO's evaluation needs: write {field}={value} there."
            )
    classes = (metric.dataset_meta or {}).get('classes')
    names = [category['name'] for category in content.get('categories', [])]
    if isinstance(classes, (list, tuple)) and [known for known in names if known in classes] != list(classes):
        raise SetupError(
            f'{where} have the categories {_some(names)}, and metainfo.classes is {_some(classes)}: set '
            f'{split}_evaluator.ann_file to the file of the data set.'
        )


def _check_images(metric: object, dataset: object, split: str) -> None:
    """Check that the images of a data set are those of the annotation file that the predictions are compared with."""
    read = [getattr(type(dataset), name, None) for name in ('load_data_list', 'parse_data_info', 'get_data_info')]
    if None in read or _is_own(read):  # whose names of images may be others
        return
    for info in map(dataset.get_data_info, _spread(dataset)):
        if 'img_id' not in info:
            return
        name, theirs = osp.basename(info['img_path']), metric._coco_api.imgs.get(info['img_id'])
        other = None if theirs is None else osp.basename(theirs.get('file_name') or name)
        if other is None or osp.splitext(name)[0] != osp.splitext(other)[0]:
            has = 'no image of that id' if other is None else f'{other!r} by that'
            raise SetupError(
                f'The annotations that {split}_evaluator compares with are of other images than the data set: this has '
                f'{name!r} by the id {info["img_id"]!r}, and they have {has}: set {split}_evaluator.ann_file to the '
                'file of the data set.'
            )


def _check_labels(
    dataset: object, split: str, heads: Dict[str, nn.Module], where: str, around: list
) -> Optional[_Found]:
    """Look through objects or label maps, in random order, as far as the time goes; None where there are none.

    They are what steps of the user's own make of them; where that cannot be told, there are none either.
    """
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', [])
    load = next((step for step in steps if type(step).__name__ == 'LoadAnnotations'), None)
    gives = [getattr(type(dataset), name, None) for name in ('__getitem__', 'prepare_data')]
    if load is None or not hasattr(dataset, 'get_data_info') or _is_own(gives):
        return None
    # What resizes images and label maps gives both one size; what evaluates takes the label maps as they are.
    resized = split == 'train' and any('Resize' in type(step).__name__ for step in steps)
    own = [step for step in [*steps, *around] if _is_own(step)]
    loading = [step for step in [*steps, *around] if step in own or type(step).__name__.startswith('Load')]
    loading = copy.deepcopy(loading) if own else [load]
    start, labels, looked, reduced = monotonic(), set(), 0, None
    for index in np.random.RandomState(0).permutation(len(dataset)).tolist():
        if monotonic() - start > _SECONDS:
            break
        info, looked = dataset.get_data_info(index), looked + 1
        given = _loaded(loading, info, split) if own or info.get('seg_map_path') else info
        if given is None:
            return None
        if 'instances' in info:
            objects = [each for each in info['instances'] if not each.get('ignore_flag')]
            if load.with_mask and not own and any('mask' not in each for each in objects):
                found = f'an object without a mask in {info.get("img_path")!r}, and the pipeline loads masks'
                raise SetupError(f'{where} have {found}: add its segmentation, or take the object out.')
            if own:
                labels |= {*given['gt_bboxes_labels'][~given['gt_ignore_flags']].tolist()}
            else:
                labels |= {each.get('bbox_label') for each in objects}
            if labels and not load.with_mask and (not heads or len(labels) >= len(_classes_of(dataset) or ())):
                break
        elif info.get('seg_map_path'):
            size = None if resized else given['img'].shape[:2] if own else _image_size(info['img_path'])
            present = _check_label_map(given['gt_seg_map'], size, info['seg_map_path'], split, heads)
            labels |= {*present.tolist()} - _ignored(heads)
            reduced = bool(getattr(load, 'reduce_zero_label', False))
        else:
            return None
    if split == 'train' and not labels and looked == len(dataset):
        causes = 'there is no object or label, or all are marked iscrowd, difficult or to be ignored'
        raise SetupError(f'{where} hold nothing to learn from: {causes}.')
    return _Found(labels, looked, len(dataset), reduced)


_KNOWN = ('mmcv', 'mmengine', 'mmdet', 'mmseg', 'cankd_mm')  # whose steps leave the numbers of labels alone


def _is_own(step: object) -> bool:
    """Tell whether a step of a pipeline, a step inside it or a method is the user's own, which may change labels."""
    if isinstance(step, (list, tuple)):
        return any(map(_is_own, step))
    if isinstance(step, dict):  # what Albu makes its own steps of
        return False
    made_by = step if hasattr(step, '__qualname__') else type(step)
    return made_by.__module__.split('.')[0] not in _KNOWN or _is_own(getattr(step, 'transforms', ()))


def _loaded(steps: list, info: dict, split: str) -> Optional[dict]:
    """Load an image with its labels by some steps of its pipeline; None where they do not run without the others."""
    try:
        for step in steps:
            is_map = type(step).__name__ == 'LoadAnnotations' and info.get('seg_map_path')
            info = _load_label_map(step, info, split) if is_map else step(info)
        return info if {'gt_seg_map', 'gt_bboxes_labels'} & info.keys() else None
    except (SetupError, FileNotFoundError):
        raise
    except Exception:  # whatever a step makes of what it lacks
        return None


def _ignored(heads: Dict[str, nn.Module]) -> Set[int]:
    """List the labels that mean no class."""
    return {getattr(head, 'ignore_index', 255) for head in heads.values()} or {255}


def _load_label_map(load: object, info: dict, split: str) -> dict:
    both = getattr(load, 'reduce_zero_label', None), info.get('reduce_zero_label')
    if None not in both and both[0] != both[1]:
        raise SetupError(
            f'The {split} data set has reduce_zero_label={both[1]}, and LoadAnnotations of its pipeline {both[0]}: '
            'leave it out of the pipeline, and set it in the data set as the label maps are.'
        )
    try:
        return load(dict(info))
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, AttributeError) as e:  # of Pillow, and of OpenCV, which gives None
        problem = f'cannot be decoded ({type(e).__name__})'
        raise SetupError(
            f'The {split} label map {info["seg_map_path"]!r} {problem}: put a whole file there, or take its image out.'
        ) from e


def _check_classes(
    classes: List[Optional[Sequence[str]]], found: List[Optional[_Found]], split: str, heads: Dict[str, nn.Module]
) -> None:
    """Check that the parts of a data set number their classes alike, and that there is something of each class."""
    if not heads or None in classes:
        return
    names = list(classes[0])
    for other in classes[1:]:
        if list(other) != names:
            raise SetupError(
                f'The parts of the {split} data set number their classes differently, {_some(names)} and '
                f'{_some(other)}: give all the same metainfo.classes, in one order.'
            )
    if None in found:
        return
    labels = set().union(*(part.labels for part in found))
    looked, images = (sum(numbers) for numbers in zip(*((part.looked, part.images) for part in found)))
    reduced, of_maps = any(part.reduced for part in found), found[0].reduced is not None
    zero = ', and switch reduce_zero_label off if 0 is a class, which it ignores' if reduced else ''
    if split == 'train' and of_maps and looked == images and len(labels) == 1 < len(names):
        raise SetupError(
            f'The {split} label maps hold no label but {labels.pop()} beside those that are ignored, so that there is '
            f'nothing to tell apart: write the number of its class, 0 to {len(names) - 1}, for every pixel{zero}.'
        )
    lacking = [name for label, name in enumerate(names) if label not in labels | _ignored(heads)]
    if lacking:
        what, where = 'pixel' if of_maps else 'object', f'{looked} of {images}' if looked < images else f'{images}'
        tell = warn if looked == images else partial(print_log, logger='current')  # else they may just be rare
        tell(
            f'No {what} of {_some(lacking)} is in {where} images of the {split} data set: if that is a mistake, '
            f'correct its labels or metainfo.classes{zero if names[-1] in lacking else ""}.'
        )


def _image_size(path: str) -> Optional[Tuple[int, int]]:
    """Read height and width in the head of an image; None where they are not known."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) > 4  # as OpenCV turns it when it decodes
            return image.size if turned else image.size[::-1]
    except OSError:  # in a store, of another format, or not there, which is said elsewhere
        return None


def _check_label_map(
    labels: np.ndarray, image: Optional[Tuple[int, int]], path: str, split: str, heads: Dict[str, nn.Module]
) -> np.ndarray:
    """Check the shape and the classes of one label map, and list these."""
    where = f'The {split} label map {path!r}'
    if labels.ndim != 2:
        raise SetupError(f'{where} has the shape {labels.shape}: write one number for each pixel, as a grey image.')
    if image is not None and labels.shape != tuple(image):
        sizes = ['x'.join(map(str, size)) for size in (labels.shape, image)]
        raise SetupError(f'{where} is of {sizes[0]} pixels, and its image of {sizes[1]}: give both one size.')
    present = np.unique(labels)
    for name, head in heads.items():
        ignored = getattr(head, 'ignore_index', 255)
        wrong = [label for label in present if label != ignored and not 0 <= label < head.num_classes]
        if wrong:
            takes = f'{name} predicts {head.num_classes} classes, 0 to {head.num_classes - 1}, and ignores {ignored}'
            raise SetupError(
                f'{where} holds the label {wrong[-1]}, and {takes}: correct label maps, num_classes or ignore_index.'
            )
    return present
