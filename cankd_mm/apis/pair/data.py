"""A student of the zoo on another data set: what of its config has to change."""

import inspect
from typing import Dict, Iterator, Optional, Tuple

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from cankd_mm.config.paths import config_file
from cankd_mm.config.read import read_config
from cankd_mm.config.write import arguments, literal
from cankd_mm.errors import SetupError

# What says where a data set lies and what it holds; how it is augmented and loaded stays the student's.
_KEPT = ('type', 'data_root', 'ann_file', 'data_prefix', 'metainfo')
_KEPT += ('img_suffix', 'seg_map_suffix', 'reduce_zero_label', 'ignore_index')  # of label maps
_SPLITS = ('train', 'val', 'test')
_CLASSES = ('num_classes', 'num_things_classes')


def data_text(student: str, base: str, data: str) -> str:
    """Write a student's config on a data set of another config.

    Args:
        student (str): The student's config: a file, or ``package::path``.
        base (str): What it is called in ``_base_``.
        data (str): A config with the dataloaders and evaluators of the data set.

    Returns:
        str: The config.

    Raises:
        SetupError: If a config lacks data sets, or has them in a form that cannot be exchanged.
    """
    cfg, given = read_config(config_file(student)), read_config(config_file(data))
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    splits = {split: _split(given, split, data) for split in _SPLITS}
    before = _inner(cfg, 'train', student)[1]
    common = {key: value for key, value in splits['train'].items() if all(s.get(key) == value for s in splits.values())}
    lines = [f'_base_ = {base!r}', _wrapped(f'data = dict({arguments(common)})')]
    for split, found in splits.items():
        if split == 'test' and found == splits['val']:
            lines.append('test_dataloader = val_dataloader')
            continue
        own = {key: value for key, value in found.items() if key not in common}
        depth, stock = _inner(cfg, split, student)
        own.update(_rest(stock, found))
        dataset = f'dict(**data, {arguments(own)})' if own else 'data'
        for _ in range(depth):
            dataset = f'dict(dataset={dataset})'
        lines.append(f'{split}_dataloader = dict(dataset={dataset})')
    lines += _evaluators(cfg, given)
    # Some kinds of data set read the names of their classes from a file.
    old, new = _count(before) or max(_class_counts(cfg.model), default=None), _count(splits['train'])
    if None not in (old, new) and old != new:
        model = _with_classes(cfg.model.to_dict(), old, new)
        if model:
            lines.append(f'model = {literal(model)}')
    return '\n'.join(lines) + '\n'


def _split(cfg: Config, split: str, path: str) -> dict:
    _, dataset = _inner(cfg, split, path)
    return {key: _plain(dataset[key]) for key in _KEPT if dataset.get(key) is not None}


def _inner(cfg: Config, split: str, path: str) -> Tuple[int, dict]:
    """The data set that reads files, and how many others are around it."""
    dataset, depth = (cfg.get(f'{split}_dataloader') or {}).get('dataset'), 0
    while dataset and 'dataset' in dataset:
        dataset, depth = dataset['dataset'], depth + 1
    if not dataset or 'datasets' in dataset:
        what = 'joins several data sets in' if dataset else 'has no data set in its'
        raise SetupError(
            f'The config {path!r} {what} {split}_dataloader: give one with a single data set for each split.'
        )
    return depth, dataset


def _rest(stock: dict, given: dict) -> dict:
    """What else of the student's data set has to change: its pipeline, or all where the other kind takes less."""
    wanted, pipeline = given.get('reduce_zero_label', False), []
    for step in _plain(stock.get('pipeline') or []):
        # A pipeline for label maps that count from one, on such that do not, or the other way round.
        if str(step.get('type')).endswith('LoadAnnotations') and step.get('reduce_zero_label', wanted) != wanted:
            step = dict(step, reduce_zero_label=wanted)
        pipeline.append(step)
    taken = {
        name
        for cls in _kind(given.get('type', stock['type'])).__mro__
        for name in inspect.signature(cls.__init__).parameters
    }
    if all(key in taken or key == 'type' for key in stock):
        return {} if pipeline == _plain(stock.get('pipeline') or []) else dict(pipeline=pipeline)
    kept = {key: _plain(value) for key, value in stock.items() if key in taken and key not in _KEPT}
    return dict(_delete_=True, **{**kept, 'pipeline': pipeline})


def _kind(name: str) -> type:
    with DATASETS.switch_scope_and_registry(None) as registry:  # the default scope's
        kind = registry.get(name)
    if kind is None:
        raise SetupError(
            f"The data set type {name!r} is not registered among those of the student's library: correct it, or import "
            'what registers it with custom_imports.'
        )
    return kind


def _evaluators(cfg: Config, given: Config) -> Iterator[str]:
    if given.get('val_evaluator') is None:
        return
    ours, theirs = cfg.get('val_evaluator'), given.val_evaluator
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.get('type') == theirs.get('type'):
        new = {
            key: value for key, value in theirs.items() if key in ('ann_file', 'iou_metrics') and value != ours.get(key)
        }
        text = literal(_plain(new)) if new else None
    else:
        text = (
            f'dict(_delete_=True, {arguments(_plain(theirs))})' if isinstance(theirs, dict) else repr(_plain(theirs))
        )
    if text is not None:
        yield f'val_evaluator = {text}'
        yield 'test_evaluator = val_evaluator'


def _count(dataset: dict) -> Optional[int]:
    """How many classes a data set has: its own, or those of its type."""
    classes = (dataset.get('metainfo') or {}).get('classes')
    if classes is None:
        classes = getattr(_kind(dataset['type']), 'METAINFO', {}).get('classes')
    return None if classes is None else 1 if isinstance(classes, str) else len(classes)


def _class_counts(cfg: object) -> Iterator[int]:
    """The numbers of classes that the parts of a model are configured for."""
    if isinstance(cfg, dict):
        yield from (value for key, value in cfg.items() if key in _CLASSES and isinstance(value, int))
    for part in cfg.values() if isinstance(cfg, dict) else cfg if isinstance(cfg, (list, tuple)) else ():
        yield from _class_counts(part)


def _with_classes(cfg: dict, old: int, new: int) -> dict:
    """What has to change in a model's config for another number of classes."""
    changes: Dict[str, object] = {}
    for key, value in cfg.items():
        if key in _CLASSES and value == old:
            changes[key] = new
        elif key == 'class_weight' and isinstance(value, (list, tuple)) and len(value) in (old, old + 1):
            changes[key] = [value[0]] * new + list(value[old:])
        elif isinstance(value, dict):
            inside = _with_classes(value, old, new)
            changes.update({key: inside} if inside else {})
        elif isinstance(value, (list, tuple)) and any(
            isinstance(v, dict) and _with_classes(v, old, new) for v in value
        ):
            # A list in a config replaces the one that it is based on.
            changes[key] = [_merged(v, _with_classes(v, old, new)) for v in value]
    return changes


def _merged(cfg: dict, changes: dict) -> dict:
    merged = Config(dict(part=cfg))
    merged.merge_from_dict(dict(part=changes))
    return merged.part.to_dict()


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return type(value)(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def _wrapped(line: str, width: int = 118) -> str:
    """Go on in a second line before the names of the classes, which may be many."""
    head, comma, tail = line.partition(' metainfo=')
    return f'{head}\n   {comma}{tail}' if comma and len(line) > width else line
