"""Write the config of a teacher-student pair, and say what was chosen and why."""

from math import inf, prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Dict, Iterator, List, Optional

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch._subclasses.fake_tensor import FakeTensorMode

from cankd_mm.apis.pair.data import data_note, data_text
from cankd_mm.apis.pair.sources import Source, find_sources
from cankd_mm.apis.pair.unlabeled import kept_by, unlabeled_text
from cankd_mm.apis.pair.zoo import ZooModel, find_model
from cankd_mm.config.pair import imports_of
from cankd_mm.config.paths import config_file, default_work_dir
from cankd_mm.config.read import load_config, read_config
from cankd_mm.config.types import LIBRARIES, from_timm, library_of, type_name
from cankd_mm.config.write import base_name, laid_out, literal, write_new
from cankd_mm.errors import SetupError, reason_of
from cankd_mm.models import BackboneTeacher
from cankd_mm.models.algorithms.parts import fitting_parts
from cankd_mm.models.builders import build_model
from cankd_mm.models.checkpoints import check_checkpoint, pretrained_cfg
from cankd_mm.models.distillers.probe import Size
from cankd_mm.models.losses import CanKDLoss
from cankd_mm.models.utils import saved_bytes

_WIDTH = 118


def write_pair(
    teacher: str,
    student: str,
    out: str,
    teacher_ckpt: Optional[str] = None,
    data: Optional[str] = None,
    recommended: bool = False,
    unlabeled: Optional[str] = None,
    unlabeled_val: Optional[str] = None,
) -> List[str]:
    """Write the config of a pair, and say what was chosen and why, a line each.

    Args:
        teacher, student (str): A zoo model's name, a config file, or ``package::path``.
        out (str): The file to write, which ends in ``.py``.
        teacher_ckpt (str, optional): Defaults to None, the zoo's.
        data (str, optional): A config of the data set to train on; the student's config for it is written beside the
            pair's. Defaults to None, the student's own.
        recommended (bool): Whether to put the recommended settings on top. Defaults to False, the paper's.
        unlabeled (str, optional): Images without labels to train on: a folder, a list or a COCO file. They stand beside
            the labelled set of ``data``, or alone where that is None. Defaults to None, the labelled set alone.
        unlabeled_val (str, optional): Images to validate on, where the teacher's predictions count as true. Defaults to
            None, the student's own validation data.

    Raises:
        SetupError: If a model does not exist or build, if the two are of different tasks or have nothing in common, if
            the teacher's weights are not known, or if a file is there already.
    """
    path = Path(out)
    if path.suffix != '.py':
        raise SetupError(f'A pair is written as Python, and {out!r} does not end in .py: name another file with --out.')
    if unlabeled_val is not None and unlabeled is None:
        raise SetupError('--unlabeled-val is for a training on images without labels: give these with --unlabeled.')
    theirs, ours = find_model(teacher, 'teacher'), find_model(student, 'student')
    cfg = load_config(ours.config)
    models = [_build(theirs, 'teacher'), _build(ours, 'student')]
    libraries = [library_of(type(model)) for model in models]
    if set(libraries) == set(LIBRARIES):
        first = f'The teacher {theirs.name!r} is a model of {libraries[0]}'
        raise SetupError(f'{first} and the student {ours.name!r} one of {libraries[1]}: give two of one task.')
    weights = teacher_ckpt or theirs.weights
    if weights is not None:
        check_checkpoint(weights, 'teacher')
    elif pretrained_cfg(models[0]) is None and not from_timm(theirs.config):
        problem = f'The zoo has no weights of the teacher {theirs.name!r}'
        raise SetupError(f'{problem}: give its checkpoint with --teacher-ckpt PATH.')
    texts, base, said = {}, base_name(ours.config, path.parent), []
    if data is not None:
        own = path.with_name(f'{Path(ours.config).stem}_{Path(data).stem}.py')
        texts[own] = '\n'.join([*data_text(ours.config, base, data).splitlines(), *_work_dir(ours, own), ''])
        cfg, base = _read(texts[own], base, ours.config), own.name
    loader = cfg.train_dataloader
    size, batch_size = _input_size(loader.get('dataset') or {}), loader.get('batch_size', 1)
    if data is not None:
        said = [f'data: {data}; the student on it, which also trains alone: {own}', data_note(cfg, data, size)]
    sources = find_sources(models[1], models[0], size)
    parts = fitting_parts(models[1], models[0])
    notes = [
        f'teacher: {_described(theirs, models[0])}',
        f'student: {_described(ours, models[1])}',
        f'source: {sources[0]}',
        *(f'also possible: {source}' for source in sources[1:]),
        f'could start from the teacher, by init_from_teacher: {", ".join(parts) or "nothing"}',
        f'schedule: {_schedule(cfg, batch_size)}',
        _memory(sources[0], batch_size, size),
    ]
    notes, method = [*notes, *said], {}
    if recommended:
        # Alike with AdamW; with SGD, where a segmentor's head fits, the greater weight was ahead: docs/comparison.md.
        great = libraries[1] == 'mmseg' and any(part.startswith('decode_head') for part in parts)
        file = f'methods/recommended{"-450" if great else ""}.py'
        method = read_config(f'cankd_mm::{file}').model.to_dict()
        notes.append(f'settings: the recommended ones of configs/{file}')
    more = _work_dir(ours, path)
    if unlabeled is not None:
        loader, lines = unlabeled_text(cfg, unlabeled, data is not None, unlabeled_val)
        more, notes = [*more, *loader], [*notes, *lines]
        kept = {}
        if data is None or recommended:
            kept = kept_by(models[1], models[0], sources[0], parts, data is not None)
        if kept:
            method = {**method, **kept, 'distiller': {**method.get('distiller', {}), **kept.get('distiller', {})}}
            notes.append(f'where images have no labels: {_kept_words(kept)}')
    texts[path] = _pair_text(base, imports_of(cfg), theirs.config, weights, sources[0], parts, method, more)
    if data is not None and own.exists() and own.read_text(encoding='utf-8') == texts[own]:
        del texts[own]  # of an earlier pair with the same student
    write_new(texts)
    notes += [f'warning: {warning}' for warning in _warnings(theirs, ours, models)]
    return [*notes, f'written: {path}']


def _work_dir(student: ZooModel, path: Path) -> List[str]:
    """Give a config its own work folder where the student's names one, into which both trainings would write."""
    named = read_config(student.config).get('work_dir')
    return [f'work_dir = {str(default_work_dir(str(path)))!r}'] if named else []


def _read(text: str, base: str, config: str) -> Config:
    """Read a config before it is written, whose base is not where it will be."""
    with TemporaryDirectory() as folder:
        path = Path(folder, 'student.py')
        found = config if '::' in config else str(Path(config_file(config)).resolve())
        path.write_text(text.replace(repr(base), repr(found), 1), encoding='utf-8')
        return read_config(str(path))


def _build(model: ZooModel, whose: str) -> BaseModel:
    if not from_timm(model.config):
        load_config(model.config)  # which explains what is wrong with a config of an older version
    try:
        return build_model(model.config, whose)
    except OSError as e:  # a text encoder that the model downloads
        problem = f'The {whose} {model.name!r} fetches a part of it while it is built, which fails here'
        raise SetupError(f'{problem} ({reason_of(e)}): run this where there is a network.') from e


def _millions(model: BaseModel) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


def _described(model: ZooModel, built: BaseModel) -> str:
    figures = [f'{value:g} {metric} on {name}' for name, of in model.figures.items() for metric, value in of.items()]
    known = ', '.join(figures) or 'no figure known'
    return f'{model.config}, {type(built).__name__}, {_millions(built):.1f} M parameters, {known}'


def _schedule(cfg: Config, batch_size: int) -> str:
    epochs = cfg.train_cfg.get('max_epochs')
    length = f'{cfg.train_cfg.get("max_iters")} iterations' if epochs is None else f'{epochs} epochs'
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    in_all = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    rate = f'learning rate {optimizer.get("lr")}' + (f' for {in_all} images in all' if in_all else '')
    return f'{length}, {batch_size} images per GPU, {type_name(optimizer)} with {rate}'


def _input_size(dataset: dict) -> Optional[Size]:
    """Find height and width of the largest image of a data set, a landscape; None where its pipelines name no size."""
    inner = dataset.get('dataset') or (dataset.get('datasets') or [None])[0]
    return _size_after(dataset.get('pipeline') or [], _input_size(inner) if inner else None)


def _size_after(steps: list, size: Optional[Size]) -> Optional[Size]:
    """Find the largest size that a pipeline makes of images of a size."""
    for step in steps:
        kind = type_name(step) if isinstance(step, dict) else ''
        if kind == 'RandomChoice':
            branches = [_size_after(branch, size) for branch in step['transforms']]
            size = max(filter(None, branches), key=prod, default=size)
        elif 'Resize' in kind:
            scales = step.get('scales') or step.get('scale')
            several = isinstance(scales, (list, tuple)) and not isinstance(scales[0], int)
            scales = [scale for scale in (scales if several else [scales]) if isinstance(scale, (list, tuple))]
            size = max(((min(scale), max(scale)) for scale in scales), key=prod, default=size)
        elif 'Crop' in kind and isinstance(step.get('crop_size'), (list, tuple)):
            if step.get('crop_type', 'absolute') == 'absolute':
                size = tuple(map(min, step['crop_size'], size or step['crop_size']))
        elif 'Mosaic' in kind and isinstance(step.get('img_scale'), (list, tuple)):
            size = tuple(2 * side for side in step['img_scale'])
        elif kind == 'RandomAffine' and step.get('border') and size:
            size = tuple(side + 2 * border for side, border in zip(size, step['border']))
    return size


def _memory(source: Source, batch_size: int, size: Optional[Size]) -> str:
    """Measure what the loss keeps of every level for its backward pass, in float32."""
    if size is None:
        return "memory of the loss: not known, as the student's pipeline names no image size"
    held = []
    for levels in source.pairs:
        channels = levels[1].shape[1]
        sizes = [[max(round(side / level.stride), 1) for side in size] for level in levels]
        with FakeTensorMode(), saved_bytes() as saved:  # allocates nothing and computes nothing
            student, teacher = (torch.empty(batch_size, channels, *height_width) for height_width in sizes)
            CanKDLoss(channels, resize=source.resize)(student.requires_grad_(), teacher)
        held.append(f'{sum(saved.values()) / 2**20:.0f}')
    return f'memory of the loss, {batch_size} images of {size[0]}x{size[1]} pixels: {" + ".join(held)} MB'


def _warnings(teacher: ZooModel, student: ZooModel, models: List[BaseModel]) -> Iterator[str]:
    larger, smaller = map(_millions, models)
    if larger < smaller and not isinstance(models[0], BackboneTeacher):  # which has no neck and no head to count
        yield f'the teacher has {larger:.1f} M parameters and the student {smaller:.1f} M: is it this way round?'
    for dataset, metrics in student.figures.items():
        theirs = teacher.figures.get(dataset, {})
        worse = [metric for metric, value in metrics.items() if theirs.get(metric, inf) <= value]
        for metric in worse[:1]:
            figures = f'{theirs[metric]:g} {metric} on {dataset} and the student alone {metrics[metric]:g}'
            yield f'the teacher has {figures}: there is nothing to learn from it.'


def _pair_text(
    student: str,
    imports: List[str],
    teacher: str,
    weights: Optional[str],
    source: Source,
    parts: List[str],
    method: Dict[str, object],
    more: List[str],
) -> str:
    """Write the config of a pair, which the tools of the libraries read as well.

    ``student`` is what ``_base_`` calls its config, ``imports`` are its own, ``method`` changes the model, and ``more``
    are further lines.
    """
    lines = [
        f'_base_ = {student!r}',
        f'custom_imports = dict(imports={[*imports, "cankd_mm"]}, allow_failed_imports=False)',
        "runner_type = 'DistillRunner'",
        'model = dict(',
        "    _delete_=True, _scope_='mmrazor', type='FeatureDistill', architecture=_base_.model,",
        f'    teacher={literal(teacher)},',
    ]
    if weights:
        start = weights.rfind('/') + 1 if len(weights) > _WIDTH - 20 else 0  # a long one goes on in a second line
        path = '\n    '.join(map(literal, filter(None, (weights[:start], weights[start:]))))
        lines.append(f'    teacher_ckpt={path},')
    fitting = [part for part in dict.fromkeys(part.split('.')[0] for part in parts) if part != 'backbone']
    if 'init_from_teacher' in method and (fitting or 'frozen_parts' in method):
        lines.append(f'    init_from_teacher={literal(method["init_from_teacher"])},')
        if 'frozen_parts' in method:
            lines.append(f'    frozen_parts={literal(method["frozen_parts"])},')
    elif fitting:
        lines.append(f"    # init_from_teacher='auto',  # what fits of {', '.join(fitting)}")
    base = f'cankd_mm::_base_/cankd_{"fpn" if source.settings["source"] == "neck" else "backbone"}.py'
    distiller = {**read_config(base).distiller.to_dict(), **source.settings}
    if 'levels' not in source.settings:
        del distiller['levels']
    changes = dict(method.get('distiller', {}))
    distiller['loss'] = {
        **distiller['loss'],
        **({'resize': source.resize} if source.resize else {}),
        **changes.pop('loss', {}),
    }
    distiller = {key: value for key, value in {**distiller, **changes}.items() if value is not None}
    return '\n'.join([*lines, f'    distiller={laid_out(distiller, 4)})', *more, ''])


def _kept_words(kept: Dict[str, object]) -> str:
    if 'frozen_parts' in kept:
        levels = kept['distiller'].get('levels')
        read = f'; levels {", ".join(map(str, levels))} are distilled, which they read' if levels else ''
        return f'{", ".join(kept["frozen_parts"])} as the teacher has them, and frozen{read}'
    return "the divergence of the logits from the teacher's trains the head"
