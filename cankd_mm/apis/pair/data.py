"""Write a student's config for another data set: what it says of the data and of their classes is exchanged."""

import inspect
from typing import Optional, Tuple

from mmengine.registry import DATASETS

from cankd_mm.config.read import read_config
from cankd_mm.config.types import class_of, type_name
from cankd_mm.config.write import arguments, literal
from cankd_mm.errors import SetupError
from cankd_mm.models.builders import build_model
from cankd_mm.models.utils import count_classes

_SPLITS = ('train', 'val', 'test')
# These entries of a data set are taken from the other config. The student's say how images are loaded and augmented.
_DATASET_KEYS = ('type', 'data_root', 'ann_file', 'data_prefix', 'metainfo')
_DATASET_KEYS += ('img_suffix', 'seg_map_suffix', 'reduce_zero_label', 'ignore_index')  # of label maps


def data_text(student: str, base: str, data: str) -> str:
    """Write a student's config, which ``_base_`` calls ``base``, with the dataloaders and evaluators of ``data``."""
    ours, theirs = read_config(student).to_dict(), read_config(data).to_dict()
    scope = ours.get('default_scope')
    new = {}
    for split in _SPLITS:
        dataset, _ = _inner_dataset(theirs, split, data)
        new[split] = {key: dataset[key] for key in _DATASET_KEYS if dataset.get(key) is not None}
    shared = {key: value for key, value in new['train'].items() if all(new[s].get(key) == value for s in _SPLITS)}
    lines = [f'_base_ = {base!r}', f'data = dict(\n    {arguments(shared)})']
    for split in _SPLITS:
        if split == 'test' and new['test'] == new['val']:
            lines.append('test_dataloader = val_dataloader')
            continue
        old, wrappers = _inner_dataset(ours, split, student)
        own = {key: value for key, value in new[split].items() if key not in shared}
        own.update(_adapted(old, new[split], scope))
        text = f'dict(**data, {arguments(own)})' if own else 'data'
        lines.append(f'{split}_dataloader = {"dict(dataset=" * (wrappers + 1)}{text}{")" * (wrappers + 1)}')
    evaluator = _evaluator(ours.get('val_evaluator'), theirs.get('val_evaluator'))
    lines += [f'val_evaluator = {literal(evaluator)}', 'test_evaluator = val_evaluator'] if evaluator else []
    old, _ = _inner_dataset(ours, 'train', student)
    before = _class_count(old, scope) or count_classes(build_model(student, 'student'))
    after = _class_count({**old, **new['train']}, scope)
    if after not in (0, before):
        changes = _with_classes(ours['model'], before, after)
        lines += [f'model = {literal(changes)}'] if changes else []
    return '\n'.join(lines) + '\n'


def _inner_dataset(cfg: dict, split: str, path: str) -> Tuple[dict, int]:
    """Find the data set of a split that reads files, and count the wrappers around it."""
    dataset, wrappers = (cfg.get(f'{split}_dataloader') or {}).get('dataset'), 0
    while dataset and 'dataset' in dataset:
        dataset, wrappers = dataset['dataset'], wrappers + 1
    if not dataset or 'datasets' in dataset:
        what = f'The config {path!r} ' + ('joins several data sets in' if dataset else 'has no data set in its')
        raise SetupError(f'{what} {split}_dataloader: give one with a single data set for each split.')
    return dataset, wrappers


def _adapted(old: dict, new: dict, scope: Optional[str]) -> dict:
    """Give what else changes in the student's data set: its pipeline, or all of it where the new type takes less."""
    parameters = {}
    for base in reversed(_dataset_class(new.get('type', old['type']), scope).__mro__):
        parameters.update(inspect.signature(base.__init__).parameters)
    # Both the data set and its pipeline say whether label maps count from one.
    from_one = parameters.get('reduce_zero_label')
    from_one = new.get('reduce_zero_label', from_one.default if from_one else False)
    before = old.get('pipeline') or []
    loads = [type_name(step) == 'LoadAnnotations' and 'reduce_zero_label' in step for step in before]
    pipeline = [dict(step, reduce_zero_label=from_one) if load else step for step, load in zip(before, loads)]
    if all(key in parameters for key in old if key != 'type'):
        return {} if pipeline == before else dict(pipeline=pipeline)
    kept = {key: value for key, value in old.items() if key in parameters and key not in _DATASET_KEYS}
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
    return {key: new[key] for key in ('ann_file', 'iou_metrics') if key in new and new[key] != old.get(key)}


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
