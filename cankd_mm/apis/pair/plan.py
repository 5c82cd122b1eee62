"""What a pair of two models is made of, and why."""

from typing import Iterator, List, NamedTuple, Optional, Tuple

from mmengine.config import Config
from mmengine.model import BaseModel

from cankd_mm.apis.pair.sources import Source, find_sources, loss_memory
from cankd_mm.apis.pair.zoo import ZooModel, find_model
from cankd_mm.config.read import load_config
from cankd_mm.config.types import from_timm
from cankd_mm.errors import SetupError, reason_of
from cankd_mm.models import BackboneTeacher
from cankd_mm.models.algorithms.parts import fitting_parts
from cankd_mm.models.builders import build_model
from cankd_mm.models.checkpoints import check_checkpoint, pretrained_cfg


class Plan(NamedTuple):
    """A pair: its models, what of them is distilled, and what the user is told of it."""

    task: str
    student: ZooModel
    teacher: ZooModel
    teacher_ckpt: Optional[str]
    source: Source
    parts: List[str]
    notes: List[str]
    warnings: List[str]


def plan_pair(teacher: str, student: str, teacher_ckpt: Optional[str] = None) -> Plan:
    """Find out how a teacher is distilled into a student.

    Args:
        teacher (str): A zoo model's name, a config file, or ``package::path``.
        student (str): The same of the student.
        teacher_ckpt (str, optional): The teacher's checkpoint. Defaults to None, the zoo's.

    Returns:
        Plan: The pair.

    Raises:
        SetupError: If a model does not exist or does not build, if the two are of different tasks, if nothing of them
            can be compared, or if the teacher's weights are not known.
    """
    theirs, ours = find_model(teacher, 'teacher'), find_model(student, 'student')
    cfg = load_config(ours.config)
    if not from_timm(theirs.config):
        scopes = load_config(theirs.config).get('default_scope'), cfg.get('default_scope')
        if None not in scopes and scopes[0] != scopes[1]:
            raise SetupError(
                f'The teacher {theirs.name!r} is a model of {scopes[0]} and the student {ours.name!r} one of '
                f'{scopes[1]}: give two of one task.'
            )
    models = [_build(model, whose) for model, whose in ((theirs, 'teacher'), (ours, 'student'))]
    weights = teacher_ckpt or theirs.weights
    if weights is None and pretrained_cfg(models[0]) is None and not from_timm(theirs.config):
        raise SetupError(
            f'The zoo has no weights of the teacher {theirs.name!r}: give its checkpoint with --teacher-ckpt PATH.'
        )
    if weights is not None:
        check_checkpoint(weights, 'teacher')
    size = input_size(cfg)
    sources = find_sources(models[1], models[0], size)
    parts = fitting_parts(models[1], models[0])
    notes = [
        f'teacher: {_described(theirs, models[0])}',
        f'student: {_described(ours, models[1])}',
        f'source: {sources[0]}{_resized(sources[0])}{_connected(sources[0])}',
        *(f'also possible: {other}{_resized(other)}{_connected(other)}' for other in sources[1:]),
        f'could start from the teacher, by init_from_teacher: {", ".join(parts) or "nothing"}',
        f'kept from the student: {_schedule(cfg)}',
        _memory(sources[0], cfg, size),
    ]
    task = 'segmentation' if cfg.get('default_scope') == 'mmseg' else 'detection'
    return Plan(task, ours, theirs, weights, sources[0], parts, notes, list(_doubts(theirs, ours, models)))


def _build(model: ZooModel, whose: str) -> BaseModel:
    try:
        return build_model(model.config, whose)
    except OSError as e:  # what a text encoder of a model is fetched with
        raise SetupError(
            f'The {whose} {model.name!r} fetches a part of it while it is built, which fails here ({reason_of(e)}): '
            'run this where there is a network.'
        ) from e


def _count(model: BaseModel) -> float:
    return sum(p.numel() for p in model.parameters()) / 1e6


def _described(model: ZooModel, built: BaseModel) -> str:
    figures = [
        f'{value:g} {metric} on {dataset}' for dataset, of in model.figures.items() for metric, value in of.items()
    ]
    known = ', '.join(figures) if figures else 'no figure known'
    return f'{model.config}, {type(built).__name__}, {_count(built):.1f} M parameters, {known}'


def _resized(source: Source) -> str:
    return f"; strides differ, the loss resizes the {source.resize}'s map" if source.resize else ''


def _connected(source: Source) -> str:
    connected = sorted({(a.shape[1], b.shape[1]) for a, b in source.pairs if a.shape[1] != b.shape[1]})
    words = ', '.join(f'{ours} to {theirs} channels' for ours, theirs in connected)
    return f'; 1x1 convolutions from {words}' if words else '; channels are equal, no connector'


def _schedule(cfg: Config) -> str:
    by_epoch = 'max_epochs' in cfg.train_cfg
    length = f'{cfg.train_cfg.max_epochs} epochs' if by_epoch else f'{cfg.train_cfg.get("max_iters")} iterations'
    optimizer = (cfg.optim_wrapper.get('optimizer') or {}) if 'optim_wrapper' in cfg else {}
    batch = f'{cfg.train_dataloader.get("batch_size", 1)} images per GPU'
    whole = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    return (
        f'{length}, {batch}, {optimizer.get("type")} with learning rate {optimizer.get("lr")}'
        f'{f" for {whole} images in all" if whole else ""}'
    )


def _memory(source: Source, cfg: Config, size: Optional[Tuple[int, int]]) -> str:
    if size is None:
        return "memory of the loss: not known, as the student's pipeline names no image size"
    batch = cfg.train_dataloader.get('batch_size', 1)
    held = [f'{value / 2**20:.0f}' for value in loss_memory(source, batch, size)]
    return f'memory of the loss, {batch} images of {size[0]}x{size[1]} pixels: {" + ".join(held)} MB'


def _doubts(teacher: ZooModel, student: ZooModel, models: List[BaseModel]) -> Iterator[str]:
    larger, smaller = map(_count, models)
    if larger < smaller and not isinstance(models[0], BackboneTeacher):  # which has no neck and no head to count
        yield f'the teacher has {larger:.1f} M parameters and the student {smaller:.1f} M: is it this way round?'
    for dataset, metrics in student.figures.items():
        for metric, value in metrics.items():
            better = teacher.figures.get(dataset, {}).get(metric)
            if better is not None and better <= value:
                yield (
                    f'the teacher has {better:g} {metric} on {dataset} and the student alone {value:g}: there is '
                    'nothing to learn from it.'
                )
                break


def input_size(cfg: Config) -> Optional[Tuple[int, int]]:
    """Find the largest image that a config trains on.

    Args:
        cfg (Config): The config.

    Returns:
        tuple[int, int] | None: Height and width of a landscape in pixels; None where its pipeline names no size.
    """
    dataset, size = (cfg.get('train_dataloader') or {}).get('dataset') or {}, None
    pipelines = []
    while dataset:
        pipelines.insert(0, dataset.get('pipeline') or [])
        dataset = dataset.get('dataset') or (dataset.get('datasets') or [None])[0]
    for pipeline in pipelines:
        size = _size_after(pipeline, size)
    return size


def _size_after(pipeline: list, size: Optional[Tuple[int, int]]) -> Optional[Tuple[int, int]]:
    """The largest size that a pipeline makes of images of a size."""
    for step in pipeline:
        kind = str(step.get('type')) if isinstance(step, dict) else ''
        if kind.endswith('RandomChoice'):
            branches = [_size_after(branch, size) for branch in step['transforms']]
            size = max((branch for branch in branches if branch), key=_area, default=size)
        elif 'Resize' in kind:
            scales = step.get('scales') or step.get('scale')
            scales = [scales] if scales and isinstance(scales[0], int) else scales or []
            sizes = [(min(scale), max(scale)) for scale in scales if isinstance(scale, (list, tuple))]
            size = max(sizes, key=_area, default=size)
        elif 'Crop' in kind and isinstance(step.get('crop_size'), (list, tuple)):
            crop = step['crop_size']
            if step.get('crop_type', 'absolute') == 'absolute':
                size = tuple(crop) if size is None else tuple(map(min, crop, size))
        elif 'Mosaic' in kind and isinstance(step.get('img_scale'), (list, tuple)):
            size = tuple(2 * side for side in step['img_scale'])
        elif kind.endswith('RandomAffine') and step.get('border'):
            size = tuple(side + 2 * border for side, border in zip(size, step['border'])) if size else None
    return size


def _area(size: Tuple[int, int]) -> int:
    return size[0] * size[1]
