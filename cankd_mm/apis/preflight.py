import copy
from contextlib import ExitStack, contextmanager
from typing import Dict, Iterator, List, NamedTuple, Optional

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModule
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn
from torch.utils.data import Dataset

from cankd_mm.engine.val_loop import DistillValLoop
from cankd_mm.errors import SetupError
from cankd_mm.models import FeatureDistill
from cankd_mm.models.utils import count_classes, saved_bytes, untouched, untouched_generators, unwrap

_TINY = 1e-12


class Finding(NamedTuple):
    """A line of the report, and whether it deserves a warning."""

    text: str
    doubtful: bool = False


class _Measured(NamedTuple):
    """What one distillation loss was given, and what it holds for its backward pass."""

    shapes: List[tuple]
    held: int


class PreflightHook(Hook):
    """Look at a distillation before its first iteration: weights, inputs, features, losses, classes, gradients.

    The first images of the data set go once through both models, forward and backward, and leave no trace. What is
    wrong stops the training, what is doubtful is a warning in the log. ``cankd train`` adds the hook to every
    training; of one without a :class:`FeatureDistill` it only remembers the batch.

    Args:
        only (bool): Whether the training ends after the check. Defaults to False.
        teacher_images (int): On how many images of the validation set the teacher is evaluated, so that one without
            proper weights is seen. Defaults to 0, none.

    Raises:
        SetupError: If a loss is not finite.
    """

    def __init__(self, only: bool = False, teacher_images: int = 0) -> None:
        self.only = only
        self.teacher_images = teacher_images
        self.batch: Optional[dict] = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None) -> None:
        """Remember the batch, for the message where the iteration ends in an error.

        Args:
            runner (Runner): The runner.
            batch_idx (int): The batch's place in the epoch.
            data_batch (dict, optional): The batch.
        """
        self.batch = data_batch

    def before_train(self, runner: Runner) -> None:
        """Check, and log what was found.

        Args:
            runner (Runner): The runner.
        """
        model = unwrap(runner.model)
        if not isinstance(model, FeatureDistill):
            return
        with untouched_generators():
            findings = [line for part in (_weights, _inputs, _classes) for line in part(runner, model)]
            self.batch = _first_batch(runner)
            findings += _one_step(runner, model, self.batch)
            if self.teacher_images:
                if not isinstance(runner.val_loop, DistillValLoop):
                    raise SetupError('--teacher-eval needs a DistillValLoop: leave it out, or set val_cfg.type.')
                metrics = runner.val_loop.evaluate_teacher(self.teacher_images)
                figures = ', '.join(f'{key} {value:.4g}' for key, value in metrics.items()) or 'nothing detected at all'
                findings.append(Finding(f'teacher on {self.teacher_images} validation images: {figures}'))
        facts = [finding.text for finding in findings if not finding.doubtful]
        runner.logger.info('\n  '.join(['preflight', *facts]))
        for finding in findings:
            if finding.doubtful:
                runner.logger.warning(f'preflight: {finding.text}')
        if self.only:
            runner.train_loop.stop_training = True


def _weights(runner: Runner, model: FeatureDistill) -> Iterator[Finding]:
    """Where the weights of both models come from."""
    count = sum(p.numel() for p in model.teacher.parameters())
    teacher = f'teacher {type(model.teacher).__name__}, {count / 1e6:.1f} M parameters'
    yield Finding(f'{teacher}, all from {model.teacher_ckpt}')
    with model.student_alone() as student:
        count = sum(p.numel() for p in student.parameters())
        yield Finding(f'student {type(student).__name__}, {count / 1e6:.1f} M parameters')
        if runner.cfg.get('load_from'):
            verb = 'resumed' if runner.cfg.get('resume') else 'loaded'
            yield Finding(f'student {verb} from {runner.cfg.load_from}')
            return
        started = list(_started(student))
    for name, module, init_cfg in started:
        yield _pretrained(name or 'whole', module, init_cfg)
    if not started and not model.init_from_teacher:
        yield Finding('student starts from random weights')
    for part, source in model.init_from_teacher.items():
        yield Finding(f"student's {part}: all parameters from the teacher's {source}")


def _started(student: nn.Module) -> Iterator[tuple]:
    """The parts of a student that name a file to start from, in an ``init_cfg`` of whatever kind."""
    for name, module in student.named_modules():
        init_cfgs = getattr(module, 'init_cfg', None) or []
        for init_cfg in [init_cfgs] if isinstance(init_cfgs, dict) else init_cfgs:
            if init_cfg.get('checkpoint'):
                yield name, module, init_cfg


def _pretrained(name: str, module: nn.Module, init_cfg: dict) -> Finding:
    """How many parameters of a module are those of the file that it starts from."""
    checkpoint = CheckpointLoader.load_checkpoint(init_cfg['checkpoint'], map_location='cpu', logger='silent')
    saved, prefix = checkpoint.get('state_dict', checkpoint), init_cfg.get('prefix') or ''
    prefix = f'{prefix.rstrip(".")}.' if prefix else ''  # MMEngine takes it with the dot and without
    own = dict(module.named_parameters())
    missing = [key for key, value in own.items() if not _equals(value, saved.get(f'{prefix}{key}'))]
    if len(missing) == len(own) and type(module).init_weights is not BaseModule.init_weights:
        # It may rename what it reads, as Swin does.
        return Finding(f"student's {name}: reads {init_cfg['checkpoint']} its own way")
    line = f"student's {name}: {len(own) - len(missing)} of {len(own)} parameters from {init_cfg['checkpoint']}"
    if len(missing) == len(own):
        return Finding(f'{line}: is it the file of another architecture?', True)
    return Finding(line + (f', not {missing[0]}' if missing else ''))


def _equals(parameter: Tensor, saved: object) -> bool:
    return isinstance(saved, Tensor) and saved.shape == parameter.shape and torch.equal(saved, parameter.detach().cpu())


def _inputs(runner: Runner, model: FeatureDistill) -> Iterator[Finding]:
    """How the teacher sees images."""
    if not getattr(model.teacher.data_preprocessor, '_enable_normalize', False):
        yield Finding("teacher's input: not normalized, as in its own config")
        return
    mean, std = (getattr(model.teacher.data_preprocessor, key).flatten().tolist() for key in ('mean', 'std'))
    how = "which is also the student's" if model.teacher_input.identical else "converted from the student's"
    yield Finding(f"teacher's input: mean {_round(mean)}, std {_round(std)} as in its own config, {how}")


def _round(values: List[float]) -> List[float]:
    return [round(value, 2) for value in values]


def _classes(runner: Runner, model: FeatureDistill) -> Iterator[Finding]:
    """Whether data, student and teacher agree in their number of classes."""
    names = (getattr(runner.train_dataloader.dataset, 'metainfo', None) or {}).get('classes')
    data = None if names is None else len(names)
    student, teacher = count_classes(model), count_classes(model.teacher)
    yield Finding(f'classes: data {data}, student {student}, teacher {teacher}')
    if data is not None and student > data and not hasattr(model, 'language_model'):
        yield Finding(f'the student predicts {student} classes, the data has {data}: was num_classes forgotten?', True)


def _one_step(runner: Runner, model: FeatureDistill, batch: dict) -> Iterator[Finding]:
    """Features, losses and gradients of one batch."""
    losses = model.distiller.distill_losses
    measured: Dict[str, _Measured] = {}
    with untouched(model, training=True), ExitStack() as hooks:
        for name, loss in losses.items():
            hooks.enter_context(_measuring(name, loss, measured))
        data = model.data_preprocessor(batch, True)
        with runner.optim_wrapper.optim_context(model):
            results = model(**data, mode='loss') if isinstance(data, dict) else model(*data, mode='loss')
            total, logged = model.parse_losses(results)
        total.backward()
        idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        model.zero_grad(set_to_none=True)
    values = {name: float(logged[f'distill.{name}'].detach()) for name in measured}  # with the factors of their levels
    logged = {name: value.detach() for name, value in logged.items() if 'loss' in name}
    task = sum(float(value) for name, value in logged.items() if name.startswith('student.'))
    for name, value in logged.items():
        if not torch.isfinite(value).all():
            raise SetupError(
                f'{name} is {float(value)} on the first images of the training set: look at these and at the weights.'
            )
    for name, seen in measured.items():
        kind, value = type(losses[name]).__name__, values[name]
        features = f'{_sources(model.distiller.loss_forward_mappings[name])}, {" and ".join(map(str, seen.shapes))}'
        yield Finding(f'{name}: {kind} of {features}, weight {getattr(losses[name], "loss_weight", "unknown")}')
        share = value / max(task, _TINY)
        yield Finding(f'{name}: {value:.4g}, {share:.2f} of the task loss; holds {seen.held / 2**20:.0f} MB')
        if value == 0 and all(shape[2:] == (1, 1) for shape in seen.shapes):
            yield Finding(f'{name} is zero, as a map of one pixel has nothing to normalize: leave that level out', True)
        elif value == 0:
            yield Finding(f'{name} is exactly zero: does the student differ from the teacher?', True)
    if task == 0:
        yield Finding(
            'the task loss is exactly zero on the first images, so that the student learns nothing from them: are they '
            'without objects, or their labels all ignored?',
            True,
        )
        return
    ratio = sum(values.values()) / task
    yield Finding(f'task loss {task:.4g}, distillation losses {ratio:.2f} times that')
    if measured and not 0.01 < ratio < 1e4:  # two thousand times did no harm: docs/comparison.md
        yield Finding(f'the distillation losses are {ratio:.3g} times the task loss: look at loss_weight', True)
    if idle:
        yield Finding(
            f'{len(idle)} parameters get no gradient, such as {idle[0]}: with several processes, set '
            'find_unused_parameters=True',
            True,
        )


@contextmanager
def _measuring(name: str, loss: nn.Module, measured: Dict[str, _Measured]) -> Iterator[None]:
    """Note what a loss is given, and what it keeps for its backward pass."""
    held: Dict[int, int] = {}
    saving = ExitStack()  # left in the end, too, where the loss raises

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        nonlocal held
        held = saving.enter_context(saved_bytes())

    def after(module: nn.Module, args: tuple, kwargs: dict, value: Tensor) -> None:
        saving.close()
        shapes = [tuple(feature.shape) for feature in (*args, *kwargs.values()) if isinstance(feature, Tensor)]
        measured[name] = _Measured(shapes, sum(held.values()))

    handles = [
        loss.register_forward_pre_hook(before, with_kwargs=True),
        loss.register_forward_hook(after, with_kwargs=True),
    ]
    try:
        yield
    finally:
        saving.close()
        for handle in handles:
            handle.remove()


def _first_batch(runner: Runner) -> dict:
    loader = runner.train_dataloader
    dataset = _without_caches(loader.dataset)
    return loader.collate_fn([dataset[i] for i in range(min(loader.batch_size or 2, len(dataset)))])


def _without_caches(dataset: Dataset) -> Dataset:
    """A view of a data set whose transforms keep nothing, such as the images of a mosaic, in those of the original."""
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
    """The recorders that a loss takes its features from, and the connector in between."""
    words = []
    for record in mapping.values():
        whose = "the student's" if record['from_student'] else "the teacher's"
        level = '' if record.get('data_idx') is None else f' level {record["data_idx"]}'
        through = f' through {record["connector"]}' if record.get('connector') else ''
        words.append(f'{whose} {record["recorder"]}{level}{through}')
    return ' and '.join(words)
