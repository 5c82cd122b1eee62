"""Write a student's config for another data set: what it says of the data and of their classes is exchanged."""

import inspect
from contextlib import suppress
from typing import List, Optional, Tuple

from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import Image

from cankd_mm.apis.data import missing_data
from cankd_mm.config.pair import imports_of
from cankd_mm.config.read import read_config
from cankd_mm.config.types import class_of, type_name
from cankd_mm.config.write import arguments, literal
from cankd_mm.errors import SetupError
from cankd_mm.models.builders import build_model
from cankd_mm.models.utils import count_classes

_SPLITS = ('train', 'val', 'test')
# What a data set is, written also where the student's is alike. The student's pipeline stays.
_DATASET_KEYS = ('type', 'data_root', 'ann_file', 'data_prefix', 'metainfo')
_DATASET_KEYS += ('img_suffix', 'seg_map_suffix', 'reduce_zero_label', 'ignore_index')  # of label maps
_ORDER_KEYS = ('sampler', 'batch_sampler', 'collate_fn')  # of a data loader, which are the student's
# What enlarges or joins images has sizes of its own, which hang together.
_WHOLE_RECIPES = ('Mosaic', 'MixUp', 'Affine', 'Expand', 'CropPad', 'IoURandomCrop')


def data_text(student: str, base: str, data: str) -> str:
    """Write a student's config, which ``_base_`` calls ``base``, with the dataloaders and evaluators of ``data``."""
    ours, theirs = read_config(student).to_dict(), read_config(data).to_dict()
    scope = ours.get('default_scope')
    new, steps = {}, {}
    for split in _SPLITS:
        (dataset, _), (old, _) = _inner_dataset(theirs, split, data), _inner_dataset(ours, split, student)
        taken = [*_DATASET_KEYS, *(key for key in dataset if key not in _DATASET_KEYS and dataset[key] != old.get(key))]
        new[split] = {key: dataset[key] for key in taken if key != 'pipeline' and dataset.get(key) is not None}
        if old.get('indices') is not None:  # a part of other images
            new[split].setdefault('indices', None)
        steps[split] = dataset.get('pipeline') or []
    names = map(type_name, _parts(ours)[1])
    sized = any(map(_gives_size, steps['train'])) and not any(k in name for name in names for k in _WHOLE_RECIPES)
    shared = {key: value for key, value in new['train'].items() if all(new[s].get(key) == value for s in _SPLITS)}
    lines = [f'_base_ = {base!r}']
    imports = [name for name in imports_of(theirs) if name not in imports_of(ours)]
    if imports:  # of what registers the data set's type, or a step of its pipeline
        imports = [*imports_of(ours), *imports]
        lines.append(f'custom_imports = dict(imports={imports}, allow_failed_imports=False)')
    lines.append(f'data = dict(\n    {arguments(shared)})')
    for split in _SPLITS:
        before, loader = ours[f'{split}_dataloader'], theirs[f'{split}_dataloader']
        kept = ('dataset', *_ORDER_KEYS)
        loader = {key: value for key, value in loader.items() if key not in kept and value != before.get(key)}
        if loader.get('num_workers') == 0 and before.get('persistent_workers'):
            loader['persistent_workers'] = False
        if split == 'test' and theirs['test_dataloader'] == theirs['val_dataloader']:
            lines.append('test_dataloader = val_dataloader')
            continue
        old, wrappers = _inner_dataset(ours, split, student)
        own = {key: value for key, value in new[split].items() if key not in shared}
        pipeline = old.get('pipeline') or []
        pipeline = _with_sizes(pipeline, steps[split], split) if sized and steps[split] else pipeline
        own.update(_adapted(old, new[split], pipeline, scope))
        text = f'dict(**data, {arguments(own)})' if own else 'data'
        text = arguments(loader) + ', ' * bool(loader) + 'dataset=' + 'dict(dataset=' * wrappers + text + ')' * wrappers
        lines.append(f'{split}_dataloader = dict({text})')
    val, test = (_evaluator(ours.get(key), theirs.get(key)) for key in ('val_evaluator', 'test_evaluator'))
    lines += [f'val_evaluator = {literal(val)}'] if val else []
    lines += [f'test_evaluator = {"val_evaluator" if test == val else literal(test)}'] if test else []
    old, _ = _inner_dataset(ours, 'train', student)
    before = _class_count(old, scope) or count_classes(build_model(student, 'student'))
    after = _class_count({**old, **new['train']}, scope)
    changes = _with_classes(ours['model'], before, after) if after not in (0, before) else {}
    crop = next((step['crop_size'] for step in steps['train'] if step.get('crop_size')), None)
    if sized and crop:
        changes.update(_with_crop(ours['model'], (crop, crop) if isinstance(crop, int) else tuple(crop)))
    lines += [f'model = {literal(changes)}'] if changes else []
    return '\n'.join(lines) + '\n'


def data_note(cfg: Config, data: str, size: Optional[Tuple[int, int]]) -> str:
    """Say what of ``data`` is not in a student's config on it, and what of that is to be looked at.

    ``size`` is that of its images in the training.
    """
    theirs, (wrappers, steps), (wrapped, taken) = read_config(data), *map(_parts, (read_config(data), cfg))
    named = [*wrappers, *(type_name(step) for step in steps if not _gives_size(step))]
    named += [type_name(theirs.train_dataloader.get(key)) for key in _ORDER_KEYS]
    known = [*wrapped, *map(type_name, [*taken, *map(cfg.train_dataloader.get, _ORDER_KEYS)]), 'None']
    left = [name for name in named if name not in known and not name.startswith(('Load', 'Pack'))]
    if any(map(_gives_size, steps)) and not any(step in taken for step in steps if _gives_size(step)):
        left.append("image sizes, as those of the student's augmentation hang together")
    others = ('data_preprocessor', 'train_cfg', 'optim_wrapper', 'param_scheduler', 'custom_hooks')
    left += [key for key in others if key in theirs]
    length, batch = cfg.train_cfg, cfg.train_dataloader.get('batch_size', 1)
    epochs, iterations = length.get('max_epochs', 0), length.get('max_iters')
    known = f'{iterations} iterations of {batch} images' if iterations else f'{epochs} epochs'
    found = _images(cfg)
    if found is not None:
        count, (height, width) = found
        passes = f'{iterations * batch // count} epochs' if iterations else f'{epochs * count // batch} iterations'
        known += f', which are {passes} of these {count} images'
        if size is not None and sorted(size) != sorted((height, width)):
            known += f', and {size[0]}x{size[1]} pixels for images of {height}x{width}'
    return f"not taken from {data}: {', '.join(left) or 'nothing'}; see whether the student's recipe suits: {known}"


def _images(cfg: Config) -> Optional[Tuple[int, Tuple[int, int]]]:
    """Count the training images, and read height and width of the first; None where they are not there."""
    if any(missing_data(cfg, 'train')):
        return None
    dataset, _ = _inner_dataset(cfg, 'train', '')
    with suppress(Exception):  # what is wrong with the data is said before the training
        dataset = DATASETS.build(dict(dataset, pipeline=[], _scope_=cfg.get('default_scope')))
        with Image.open(dataset.get_data_info(0)['img_path']) as image:
            return len(dataset), image.size[::-1]
    return None


def _parts(cfg: dict) -> Tuple[List[str], List[dict]]:
    """List what is around the training data, and the steps that its images go through, there as well."""
    dataset, wrappers, steps = cfg['train_dataloader']['dataset'], [], []
    while 'dataset' in dataset:
        wrappers.append(type_name(dataset))
        steps += dataset.get('pipeline') or []
        dataset = dataset['dataset']
    return wrappers, [*(dataset.get('pipeline') or []), *steps]


def _gives_size(step: dict) -> bool:
    """Tell whether a step of a pipeline scales, crops or pads images."""
    kind = type_name(step)
    if kind == 'RandomChoice':
        return all(_gives_size(inner) for branch in step['transforms'] for inner in branch)
    return 'Resize' in kind or kind == 'Pad' or 'crop_size' in step


def _with_sizes(pipeline: List[dict], other: List[dict], split: str) -> List[dict]:
    """Exchange what gives sizes in a pipeline, as a whole, for that of another."""
    places = [place for place, step in enumerate(pipeline) if _gives_size(step)]
    loads = [place + 1 for place, step in enumerate(pipeline) if type_name(step).startswith('Load')] or [0]
    # What is evaluated is loaded as it is, and so before label maps are.
    place = places[0] if places else loads[-1] if split == 'train' else loads[0]
    rest = [step for step in pipeline if not _gives_size(step)]
    return [*rest[:place], *filter(_gives_size, other), *rest[place:]]


def _with_crop(model: dict, crop: Tuple[int, int]) -> dict:
    """Give what changes in a segmentor for crops of another size: what its batches are padded to, and its windows."""
    preprocessor, windows, changes = model.get('data_preprocessor') or {}, model.get('test_cfg') or {}, {}
    if preprocessor.get('size'):
        changes['data_preprocessor'] = dict(size=crop)
    if windows.get('mode') == 'slide':
        sides = zip(windows['stride'], crop, windows['crop_size'])
        changes['test_cfg'] = dict(crop_size=crop, stride=tuple(max(step * new // old, 1) for step, new, old in sides))
    return changes


def _inner_dataset(cfg: dict, split: str, path: str) -> Tuple[dict, int]:
    """Find the data set of a split that reads files, and count the wrappers around it."""
    dataset, wrappers = (cfg.get(f'{split}_dataloader') or {}).get('dataset'), 0
    while dataset and 'dataset' in dataset:
        dataset, wrappers = dataset['dataset'], wrappers + 1
    if not dataset or 'datasets' in dataset:
        what = f'The config {path!r} ' + ('joins several data sets in' if dataset else 'has no data set in its')
        raise SetupError(f'{what} {split}_dataloader: give one with a single data set for each split.')
    return dataset, wrappers


def _adapted(old: dict, new: dict, before: List[dict], scope: Optional[str]) -> dict:
    """Give what else changes in the student's data set: its pipeline, or all of it where the new type takes less."""
    parameters = {}
    for base in reversed(_dataset_class(new.get('type', old['type']), scope).__mro__):
        parameters.update(inspect.signature(base.__init__).parameters)
    # Both the data set and its pipeline say whether label maps count from one.
    from_one = parameters.get('reduce_zero_label')
    from_one = new.get('reduce_zero_label', from_one.default if from_one else False)
    loads = [type_name(step) == 'LoadAnnotations' and 'reduce_zero_label' in step for step in before]
    pipeline = [dict(step, reduce_zero_label=from_one) if load else step for step, load in zip(before, loads)]
    if all(key in parameters for key in old if key != 'type'):
        return {} if pipeline == (old.get('pipeline') or []) else dict(pipeline=pipeline)
    kept = {key: value for key, value in old.items() if key in parameters and key not in (*_DATASET_KEYS, *new)}
    return dict(_delete_=True, **{**kept, 'pipeline': pipeline})


def _dataset_class(kind: str, scope: Optional[str]) -> type:
    found = class_of(DATASETS, kind, scope)
    if found is None:
        problem = f"The data set type {kind!r} is not registered among those of the student's library"
        raise SetupError(f'{problem}: correct it, or import what registers it with custom_imports.')
    return found


def _evaluator(old: object, new: object) -> object:
    """Give what changes in the evaluator, which keeps the student's other settings if it is of the same type."""
    if isinstance(new, list) or new is None:
        return new
    if not isinstance(old, dict) or type_name(old) != type_name(new):
        return dict(_delete_=True, **new)
    # Whether boxes are rated or masks, too, is for what the student predicts.
    return {key: value for key, value in new.items() if key != 'metric' and value != old.get(key)}


def _class_count(dataset: dict, scope: Optional[str]) -> int:
    """Count the classes of a data set, 0 where its type reads their names from a file."""
    metainfo = {**getattr(_dataset_class(dataset['type'], scope), 'METAINFO', {}), **(dataset.get('metainfo') or {})}
    classes = metainfo.get('classes') or []
    return 1 if isinstance(classes, str) else len(classes)


def _with_classes(cfg: object, old: int, new: int, whole: bool = False) -> object:
    """Change a part of a model's config to another number of classes: all of it, or the entries that differ.

    Lists are whole, as a list in a config replaces the one that it inherits.
    """
    if isinstance(cfg, (list, tuple)):
        return type(cfg)(_with_classes(part, old, new, whole=True) for part in cfg)
    if not isinstance(cfg, dict):
        return cfg
    changed = {key: _with_classes(value, old, new, whole) for key, value in cfg.items()}
    changed.update({key: new for key in ('num_classes', 'num_things_classes') if cfg.get(key) == old})
    weights = cfg.get('class_weight')
    if isinstance(weights, (list, tuple)) and len(weights) in (old, old + 1):  # the last is the background's
        changed['class_weight'] = [weights[0]] * new + list(weights[old:])
    return changed if whole else {key: value for key, value in changed.items() if value not in (cfg[key], {})}
