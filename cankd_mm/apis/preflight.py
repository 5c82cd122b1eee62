import copy
from contextlib import ExitStack
from math import isfinite
from os.path import abspath, isfile
from typing import Callable, Dict, Iterator, List, Optional, Tuple
from unittest.mock import patch

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModule
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn
from torch.utils.data import Dataset

from cankd_mm.apis.data import leaves
from cankd_mm.config.differences import SWITCHING
from cankd_mm.config.metric import metric_of
from cankd_mm.engine.runner import DistillValLoop
from cankd_mm.engine.unlabeled import UnlabeledImages, without_labels
from cankd_mm.errors import SetupError, SetupWarning, warn
from cankd_mm.models import FeatureDistill
from cankd_mm.models.algorithms.feature_distill import is_unlabeled
from cankd_mm.models.checkpoints import classes_of, load_checkpoint
from cankd_mm.models.utils import count_classes, saved_bytes, untouched, untouched_generators, unwrap


class Checked(Exception):
    """Ends a training that was to be looked at alone."""


class PreflightHook(Hook):
    """Look at a distillation before its first iteration: weights, data, batch, features, losses, gradients.

    The first images of the data set go once through both models, forward and backward, and leave no trace. What is
    wrong stops the training, what is doubtful is a warning in the log, and the rest is logged as ``report``. ``only``
    ends the training after that by :class:`Checked`, and the teacher is evaluated on ``teacher_images`` of the
    validation set. Of a training without a :class:`FeatureDistill` the hook remembers the batch, and with ``only`` it
    reports on the data, the batch and the learning rate.
    """

    def __init__(self, teacher_images: int, only: bool = False) -> None:
        self.teacher_images, self.only = teacher_images, only
        self.batch: Optional[dict] = None
        self.report: List[str] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None) -> None:
        """Remember the batch, for the message where the iteration ends in an error."""
        self.batch = data_batch

    def before_train(self, runner: Runner) -> None:
        """Check, and log what was found."""
        model = unwrap(runner.model)
        is_pair = isinstance(model, FeatureDistill)
        if not (is_pair or self.only):
            return
        with untouched_generators():
            findings = [*(self._look_at(runner, model) if is_pair else (*_sizes(runner), *_batch(runner)))]
        doubtful = [line for line in findings if isinstance(line, SetupWarning)]
        plain = [f'  {line}' for line in findings if line not in doubtful]
        self.report = [f'preflight of {runner.cfg.filename}', *plain]
        runner.logger.info('\n'.join(self.report))
        for line in doubtful:
            warn(line)
        if self.only:
            raise Checked

    def _look_at(self, runner: Runner, model: FeatureDistill) -> Iterator[str]:
        """Look at a pair, and at one step of it."""
        yield from [*_weights(runner, model), _input(model), *_sizes(runner), *_classes(runner, model)]
        yield from [*_unlabeled(runner), *_batch(runner)]
        loader = runner.train_dataloader
        dataset = _without_caches(loader.dataset)
        self.batch = loader.collate_fn([dataset[i] for i in range(min(loader.batch_size or 2, len(dataset)))])
        yield from _one_step(runner, model, self.batch)
        if self.teacher_images:
            if not isinstance(runner.val_loop, DistillValLoop):
                raise SetupError('--teacher-eval needs a DistillValLoop: leave it out, or set val_cfg.type.')
            yield from _teacher(runner, self.teacher_images)


def _weights(runner: Runner, model: FeatureDistill) -> Iterator[str]:
    """Say where the weights of both models come from."""
    yield f'teacher {_size(model.teacher)}, all from {model.teacher_ckpt}'
    with model.student_alone() as student:
        yield f'student {_size(student)}'
        if runner.cfg.get('load_from'):
            resumed, path = runner.cfg.get('resume'), runner.cfg.load_from
            yield f'student resumed from {path}' if resumed else _pretrained('student', student, dict(checkpoint=path))
            return
        started = []
        for name, module in student.named_modules():
            init_cfgs = getattr(module, 'init_cfg', None) or []
            for init_cfg in [init_cfgs] if isinstance(init_cfgs, dict) else init_cfgs:
                if init_cfg.get('checkpoint'):
                    started.append(_pretrained(f"student's {name or 'whole'}", module, init_cfg))
    yield from started
    if not started and not model.init_from_teacher:
        yield 'student starts from random weights'
    for part, source in model.init_from_teacher.items():
        yield f"student's {part}: all parameters from the teacher's {source}"


def _size(model: nn.Module) -> str:
    return f'{type(model).__name__}, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters'


def _pretrained(what: str, module: nn.Module, init_cfg: dict) -> str:
    """Say how many parameters of a module are those of the file that it starts from."""
    path, prefix = init_cfg['checkpoint'], (init_cfg.get('prefix') or '').rstrip('.')
    checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu', logger='silent')
    saved, own = checkpoint.get('state_dict', checkpoint), dict(module.named_parameters())
    found = {key: saved.get(f'{prefix}.{key}' if prefix else key, torch.empty(0)) for key in own}
    missing = [key for key, value in own.items() if not torch.equal(found[key], value.detach().cpu())]
    line = f'{what}: {len(own) - len(missing)} of {len(own)} parameters from {path}'
    if len(missing) < len(own):
        return line + (f', not {missing[0]}' if missing else '')
    if type(module).init_weights is not BaseModule.init_weights:  # it may rename what it reads, as Swin does
        return f'{what}: reads {path} its own way'
    return SetupWarning(f'{line}: is it the file of another architecture?')


def _input(model: FeatureDistill) -> str:
    """Say how the teacher sees images."""
    preprocessor = model.teacher.data_preprocessor
    if not getattr(preprocessor, '_enable_normalize', False):
        return "teacher's input: not normalized, as in its own config"
    mean, std = ([round(v, 2) for v in x.flatten().tolist()] for x in (preprocessor.mean, preprocessor.std))
    how = "which is also the student's" if model.teacher_input.identical else "converted from the student's"
    return f"teacher's input: mean {mean}, std {std} as in its own config, {how}"


def _sizes(runner: Runner) -> Iterator[str]:
    """Say how much data there is."""
    loaders = dict(training=runner.train_dataloader, validation=runner.val_loop and runner.val_loop.dataloader)
    sizes = {use: sum(map(len, leaves(loader.dataset))) for use, loader in loaders.items() if loader}
    yield 'data: ' + ', '.join(f'{size} images for {use}' for use, size in sizes.items())


def _classes(runner: Runner, model: FeatureDistill) -> Iterator[str]:
    """Say whether data, student and teacher agree in their number of classes."""
    metainfo = getattr(runner.train_dataloader.dataset, 'metainfo', None) or {}
    # MMDetection's ConcatDataset has a list where its parts differ.
    names = (metainfo[0] if isinstance(metainfo, list) else metainfo).get('classes')
    data = None if names is None else len(names)
    path = model.teacher_ckpt
    theirs = classes_of(load_checkpoint(path, 'teacher'))['classes'] if isfile(path) else None
    if theirs and data == len(theirs) and list(names) != list(theirs):
        place, ours, other = next((i, a, b) for i, (a, b) in enumerate(zip(names, theirs)) if a != b)
        problem = f"class {place} is {ours!r} in the data and {other!r} in the teacher's checkpoint"
        if model.frozen_parts:
            raise SetupError(f'The student keeps parts of the teacher, but {problem}: give both the same classes.')
        yield SetupWarning(f'{problem}: are they the same classes in one order?')
    student, teacher = count_classes(model), count_classes(model.teacher)
    yield f'classes: data {data}, student {student}, teacher {teacher}'
    if data is not None and student > data and not hasattr(model, 'language_model'):
        yield SetupWarning(f'the student predicts {student} classes, the data has {data}: was num_classes forgotten?')


def _unlabeled(runner: Runner) -> Iterator[str]:
    """Warn of images without labels that are validated on; a hook that is for labelled ones is an error."""
    loop, dataset = runner.val_loop, runner.train_dataloader.dataset
    switching = [type(hook).__name__ for hook in runner.hooks if type(hook).__name__ in SWITCHING]
    if switching and isinstance(dataset, UnlabeledImages):
        problem = f'{switching[0]} exchanges the augmentation of labelled images, and no image has labels'
        raise SetupError(f'{problem}: take it out of custom_hooks.')
    unlabeled = [part for part in leaves(dataset) if isinstance(part, UnlabeledImages)]
    if loop is None or not unlabeled:
        return
    parts = [part for part in leaves(loop.dataloader.dataset) if hasattr(part, 'get_data_info')]
    paths = {abspath(part.get_data_info(i).get('img_path', '')) for part in parts for i in range(len(part))}
    count = sum(path in paths for part in unlabeled for path in part.paths())
    if count:
        problem = f'{count} of the images without labels are those of the validation set'
        yield SetupWarning(f'{problem}: they may be trained on, but its figures are then not honest ones')


def _batch(runner: Runner) -> Iterator[str]:
    """Say what the batch and the learning rate are, and whether the one is that which the other is for."""
    cfg, scale = runner.cfg, runner.cfg.get('auto_scale_lr') or {}
    optimizer = getattr(runner.optim_wrapper, 'optimizer', None)  # several have none in common
    size, steps = cfg.train_dataloader.get('batch_size', 1), cfg.optim_wrapper.get('accumulative_counts', 1)
    at_once = runner.world_size * size  # which is all that MMEngine scales the rate to
    batch, lr, base = at_once * steps, getattr(optimizer, 'defaults', {}).get('lr'), scale.get('base_batch_size')
    shares = f'{size} each on {runner.world_size} processes' if runner.world_size > 1 else 'one process'
    what = f'batch of {batch} images ({shares}{f", accumulated over {steps} iterations" if steps > 1 else ""})'
    if not base or not lr:
        yield f'{what}, learning rate {lr} of {type(optimizer).__name__}' if lr else what
        return
    scaled = scale.get('enable', False)
    rate, meant = (lr * at_once / base, at_once) if scaled else (lr, base)
    origin = f'scaled from {lr} for {base} images' if scaled else f'which is for {base} images'
    yield f'{what}, learning rate {rate:.4g} of {type(optimizer).__name__}, {origin}'
    if batch != meant:
        switch = 'give --auto-scale-lr, or ' if steps == 1 else ''
        advice = f'{switch}set optim_wrapper.optimizer.lr (in proportion {lr * batch / base:.4g})'
        yield SetupWarning(f'the learning rate is for {meant} images at once, and this is a {what}: {advice}')


def _teacher(runner: Runner, images: int) -> Iterator[str]:
    """Say what the teacher reaches on images of the validation set, and whether that is nothing."""
    metrics, rating = runner.val_loop.evaluate_teacher(images), metric_of(runner.cfg)
    figures = ', '.join(f'{key} {value:.4g}' for key, value in metrics.items()) or 'nothing detected at all'
    yield f'teacher on {images} validation images: {figures}'
    if not metrics or rating and metrics.get(rating.key) == 0:
        problem = f'the teacher finds nothing on {images} validation images'
        yield SetupWarning(f'{problem}: is its checkpoint of these classes, and of these images?')


def _one_step(runner: Runner, model: FeatureDistill, batch: dict) -> Iterator[str]:
    """Describe features, losses and gradients of one batch."""
    losses = model.distiller.distill_losses
    measured: Dict[str, Tuple[List[tuple], int]] = {}
    with untouched(model, training=True), ExitStack() as watching:
        for name, loss in losses.items():
            watching.enter_context(patch.object(loss, 'forward', _measuring(name, loss.forward, measured)))
        data = model.data_preprocessor(batch, True)
        with runner.optim_wrapper.optim_context(model):
            results = model(**data, mode='loss') if isinstance(data, dict) else model(*data, mode='loss')
            total, logged = model.parse_losses(results)
        total.backward()
        idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        untrained = list(_untrained(model)) if all(map(is_unlabeled, batch.get('data_samples') or [])) else None
        model.zero_grad(set_to_none=True)
    logged = {name: float(value.detach()) for name, value in logged.items()}
    summed = {name: value for name, value in logged.items() if 'loss' in name}
    for name, value in summed.items():
        if not isfinite(value):
            where = 'on the first images of the training set'
            raise SetupError(f'{name} is {value} {where}: look at these and at the weights.')
    task = sum(value for name, value in summed.items() if name.startswith('student.'))
    distill = 0.0
    for name, (shapes, held) in measured.items():
        value = logged[f'distill.{name}']  # with the factor of its level
        distill += value
        sources = _sources(model.distiller.loss_forward_mappings[name])
        weight = getattr(losses[name], 'loss_weight', 'unknown')
        what = f'{type(losses[name]).__name__} of {sources}, {" and ".join(dict.fromkeys(map(str, shapes)))}'
        share = f', {value / max(task, 1e-12):.2f} of the task loss' if untrained is None else ''
        yield f'{name}: {what}, weight {weight}: {value:.4g}{share}; holds {held / 2**20:.0f} MB'
        if value == 0 and all(shape[2:] == (1, 1) for shape in shapes):
            yield SetupWarning(f'{name} is zero, as a map of one pixel has nothing to normalize: leave that level out')
        elif value == 0 and 'KL' in type(losses[name]).__name__ and all(shape[1] == 1 for shape in shapes):
            problem = f'{name} is zero, as the softmax over a single channel is 1 everywhere'
            raise SetupError(f'{problem}: distil from another module, or by a loss without a softmax.')
        elif value == 0:
            yield SetupWarning(f'{name} is exactly zero: does the student differ from the teacher?')
    if untrained is not None:
        for name in untrained:
            raise SetupError(
                f"No image has labels, and nothing else trains the student's {name}: {without_labels(name)}."
            )
        yield f'no image has labels: the distillation losses, {distill:.4g}, train what is not frozen'
        return
    if task == 0:
        problem = 'the task loss is exactly zero on the first images, of which the student learns nothing'
        yield SetupWarning(f'{problem}: are they without objects, or their labels all ignored?')
        return
    yield f'task loss {task:.4g}, distillation losses {distill / task:.2f} times that'
    if measured and not 0.01 < distill / task < 1e4:  # two thousand times did no harm: docs/comparison.md
        yield SetupWarning(f'the distillation losses are {distill / task:.3g} times the task loss: look at loss_weight')
    if idle:
        problem = f'{len(idle)} parameters get no gradient, such as {idle[0]}'
        yield SetupWarning(f'{problem}: with several processes, set find_unused_parameters=True')


def _untrained(model: FeatureDistill) -> Iterator[str]:
    """Name the parts of the student that predictions need, that are not frozen, and that have got no gradient."""
    for name, child in model.named_children():
        trainable = [p for p in child.parameters() if p.requires_grad]
        if (
            name not in ('distiller', 'auxiliary_head')
            and trainable
            and not any(p.grad is not None and p.grad.any() for p in trainable)
        ):
            yield name


def _measuring(name: str, forward: Callable, measured: Dict[str, Tuple[List[tuple], int]]) -> Callable:
    """Have a loss note the shapes that it is given, and the bytes that it keeps for its backward pass."""

    def watched(*args: object, **kwargs: object) -> Tensor:
        with saved_bytes() as held:
            value = forward(*args, **kwargs)
        shapes = [tuple(feature.shape) for feature in (*args, *kwargs.values()) if isinstance(feature, Tensor)]
        measured[name] = shapes, sum(held.values())
        return value

    return watched


def _without_caches(dataset: Dataset) -> Dataset:
    """Copy a data set so that its transforms keep nothing, such as the images of a mosaic, in those of the original."""
    view = copy.copy(dataset)
    for name, value in vars(dataset).items():
        if name == 'pipeline':
            setattr(view, name, copy.deepcopy(value))
        elif name in ('dataset', '_dataset') and hasattr(value, '__getitem__'):
            setattr(view, name, _without_caches(value))
        elif name == 'datasets':
            setattr(view, name, [_without_caches(part) for part in value])
    return view


def _sources(mapping: dict) -> str:
    """Name the recorders that a loss takes its features from, and the connector in between."""
    words = []
    for record in mapping.values():
        whose = "the student's" if record['from_student'] else "the teacher's"
        level = '' if record.get('data_idx') is None else f' level {record["data_idx"]}'
        through = f' through {record["connector"]}' if record.get('connector') else ''
        words.append(f'{whose} {record["recorder"]}{level}{through}')
    return ' and '.join(words)
