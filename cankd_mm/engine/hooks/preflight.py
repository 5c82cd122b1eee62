from typing import Callable, Dict, Iterator, List, NamedTuple

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from cankd_mm.engine.runner.distill_val_loop import DistillValLoop, count_classes
from cankd_mm.errors import SetupError
from cankd_mm.models.utils import unwrap

_TINY = 1e-12


class PreflightDone(Exception):
    """Ends a training that was to be checked only."""


class _Doubt(str):
    """A line of the report that deserves a warning."""


class _Measured(NamedTuple):
    """What one distillation loss was given, what it gave, and what it holds for its backward pass."""

    shapes: List[tuple]
    value: float
    held: int


@HOOKS.register_module()
class PreflightHook(Hook):
    """Look at a distillation before its first iteration: weights, inputs, features, losses, classes, gradients.

    The first images of the data set go once through both models, forward and backward, and leave no trace. What is
    wrong stops the training, what is doubtful is a warning in the log. :func:`cankd_mm.apis.train` adds the hook to
    every distillation.

    Args:
        only (bool): Whether the training ends after the check. Defaults to False.
        teacher_images (int): On how many images of the validation set the teacher is evaluated, so that one without
            proper weights is seen. Defaults to 0, none.

    Raises:
        SetupError: If a loss is not finite, or the data has more classes than the student predicts.
    """

    def __init__(self, only: bool = False, teacher_images: int = 0) -> None:
        self.only = only
        self.teacher_images = teacher_images

    def before_train(self, runner: Runner) -> None:
        """Check, and log what was found.

        Args:
            runner (Runner): The runner.
        """
        model = unwrap(runner.model)
        lines = [line for part in (_weights, _teacher_input, _classes, _one_step) for line in part(runner, model)]
        if self.teacher_images:
            if not isinstance(runner.val_loop, DistillValLoop):
                raise SetupError('--teacher-eval needs a validation by DistillValLoop: leave it out, or set val_cfg.')
            metrics = runner.val_loop.evaluate_teacher(self.teacher_images)
            figures = ', '.join(f'{key} {value:.4g}' for key, value in metrics.items()) or 'nothing detected at all'
            lines.append(f'teacher on {self.teacher_images} validation images: {figures}')
        facts = [line for line in lines if not isinstance(line, _Doubt)]
        runner.logger.info('\n  '.join(['preflight', *facts]))
        for doubt in lines:
            if isinstance(doubt, _Doubt):
                runner.logger.warning(f'preflight: {doubt}')
        if self.only:
            raise PreflightDone


def _weights(runner: Runner, model: nn.Module) -> Iterator[str]:
    """Where the weights of both models come from."""
    count = sum(p.numel() for p in model.teacher.parameters())
    source = model.teacher_ckpt or (model.teacher.init_cfg or {}).get('checkpoint')
    yield f'teacher {type(model.teacher).__name__}, {count / 1e6:.1f} M parameters, all from {source}'
    count = sum(p.numel() for p in model.student.parameters())
    yield f'student {type(model.student).__name__}, {count / 1e6:.1f} M parameters'
    if runner.cfg.get('load_from'):
        verb = 'resumed' if runner.cfg.get('resume') else 'loaded'
        yield f'student {verb} from {runner.cfg.load_from}'
        return
    started = [
        (name or 'whole', module)
        for name, module in model.student.named_modules()
        if isinstance(getattr(module, 'init_cfg', None), dict) and module.init_cfg.get('type') == 'Pretrained'
    ]
    for name, module in started:
        yield from _pretrained(name, module, module.init_cfg)
    if not started and not model.init_from_teacher:
        yield 'student starts from random weights'
    for part, source in model.init_from_teacher.items():
        yield f"student's {part}: all parameters from the teacher's {source}"


def _pretrained(name: str, module: nn.Module, init_cfg: dict) -> Iterator[str]:
    """How many parameters of a module are those of the file that it starts from."""
    checkpoint = CheckpointLoader.load_checkpoint(init_cfg['checkpoint'], map_location='cpu', logger='silent')
    saved, prefix = checkpoint.get('state_dict', checkpoint), init_cfg.get('prefix') or ''
    prefix = f'{prefix.rstrip(".")}.' if prefix else ''  # MMEngine takes it with the dot and without
    own = dict(module.named_parameters())
    missing = [key for key, value in own.items() if not _equals(value, saved.get(f'{prefix}{key}'))]
    line = f"student's {name}: {len(own) - len(missing)} of {len(own)} parameters from {init_cfg['checkpoint']}"
    if len(missing) == len(own):
        yield _Doubt(f'{line}: is it the file of another architecture?')
    else:
        yield line + (f', not {missing[0]}' if missing else '')


def _equals(parameter: Tensor, saved: object) -> bool:
    return isinstance(saved, Tensor) and saved.shape == parameter.shape and torch.equal(saved, parameter.detach().cpu())


def _teacher_input(runner: Runner, model: nn.Module) -> Iterator[str]:
    """Whether the teacher sees images as its own config has them."""
    if not getattr(model.teacher.data_preprocessor, '_enable_normalize', False):
        yield _Doubt("the teacher's config normalizes no images: was it trained like that?")
        return
    mean, std = (getattr(model.teacher.data_preprocessor, key).flatten().tolist() for key in ('mean', 'std'))
    how = "which is also the student's" if model.teacher_input.identical else "converted from the student's"
    yield f"teacher's input: mean {_round(mean)}, std {_round(std)} as in its own config, {how}"


def _round(values: List[float]) -> List[float]:
    return [round(value, 2) for value in values]


def _classes(runner: Runner, model: nn.Module) -> Iterator[str]:
    """Whether data, student and teacher agree in their number of classes."""
    names = (getattr(runner.train_dataloader.dataset, 'metainfo', None) or {}).get('classes')
    data = None if names is None else 1 if isinstance(names, str) else len(names)
    student, teacher = count_classes(model.student), count_classes(model.teacher)
    yield f'classes: data {data}, student {student}, teacher {teacher}'
    if data is not None and 0 < student < data:
        raise SetupError(
            f'The data set has {data} classes and the student predicts {student}: set num_classes of its heads to '
            f'{data}.'
        )
    if data is not None and student > data and not hasattr(model.student, 'language_model'):
        yield _Doubt(f'the student predicts {student} classes, the data has {data}: was num_classes forgotten?')


def _one_step(runner: Runner, model: nn.Module) -> Iterator[str]:
    """Features, losses and gradients of one batch."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    loader = runner.train_dataloader
    batch = [loader.dataset[i] for i in range(min(loader.batch_size or 2, len(loader.dataset)))]
    _check_labels([item['data_samples'] for item in batch], model)
    losses = model.distiller.distill_losses
    measured: Dict[str, _Measured] = {}
    model.train()
    try:
        for name, loss in losses.items():
            loss.forward = _measuring(name, loss.forward, measured)
        data = model.data_preprocessor(loader.collate_fn(batch), True)
        with runner.optim_wrapper.optim_context(model):
            results = model(**data, mode='loss') if isinstance(data, dict) else model(*data, mode='loss')
            total, logged = model.parse_losses(results)
        total.backward()
        idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    finally:
        for loss in losses.values():
            del loss.forward
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        model.zero_grad(set_to_none=True)
    logged = {name: value.detach() for name, value in logged.items() if 'loss' in name}
    task = sum(float(value) for name, value in logged.items() if name.startswith('student.'))
    for name, value in logged.items():
        if not torch.isfinite(value).all():
            raise SetupError(
                f'{name} is {float(value)} on the first images of the training set: look at these and at the weights.'
            )
    for name, seen in measured.items():
        kind, share = type(losses[name]).__name__, seen.value / max(task, _TINY)
        features = f'{_sources(model.distiller.loss_forward_mappings[name])}, {" and ".join(map(str, seen.shapes))}'
        yield f'{name}: {kind} of {features}, weight {getattr(losses[name], "loss_weight", "unknown")}'
        yield f'{name}: {seen.value:.4g}, {share:.2f} of the task loss; holds {seen.held / 2**20:.0f} MB'
        if seen.value == 0:
            yield _Doubt(f'{name} is exactly zero: does the student differ from the teacher?')
    ratio = sum(seen.value for seen in measured.values()) / max(task, _TINY)
    yield f'task loss {task:.4g}, distillation losses {ratio:.2f} times that'
    if measured and not 0.01 < ratio < 100:
        yield _Doubt(f'the distillation losses are {ratio:.3g} times the task loss: look at loss_weight')
    if idle:
        yield _Doubt(
            f'{len(idle)} parameters get no gradient, such as {idle[0]}: with several processes, set '
            'find_unused_parameters=True'
        )


def _check_labels(samples: list, model: nn.Module) -> None:
    """Label maps must name no class that a segmentor does not predict, other than the one to ignore."""
    head = getattr(model.student, 'decode_head', None)
    head = head[-1] if isinstance(head, nn.ModuleList) else head
    for sample in samples:
        if head is None or not hasattr(sample, 'gt_sem_seg'):
            continue
        labels = sample.gt_sem_seg.data
        wrong = labels[(labels >= head.num_classes) & (labels != head.ignore_index)]
        if wrong.numel():
            raise SetupError(
                f'The label map {sample.metainfo.get("seg_map_path")!r} holds the label {int(wrong.max())}, and the '
                f'student predicts {head.num_classes} classes, 0 to {head.num_classes - 1}, and ignores '
                f'{head.ignore_index}: correct the label maps, or num_classes.'
            )


def _measuring(name: str, forward: Callable, measured: Dict[str, _Measured]) -> Callable:
    def run(*args: Tensor, **kwargs: Tensor) -> Tensor:
        held = {}

        def pack(tensor: Tensor) -> Tensor:
            if not isinstance(tensor, nn.Parameter):
                storage = tensor.untyped_storage()
                held[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            value = forward(*args, **kwargs)
        shapes = [tuple(feature.shape) for feature in (*args, *kwargs.values()) if isinstance(feature, Tensor)]
        measured[name] = _Measured(shapes, float(value.detach().mean()), sum(held.values()))
        return value

    return run


def _sources(mapping: dict) -> str:
    """The recorders that a loss takes its features from, and the connector in between."""
    words = []
    for record in mapping.values():
        whose = "the student's" if record['from_student'] else "the teacher's"
        level = '' if record.get('data_idx') is None else f' level {record["data_idx"]}'
        through = f' through {record["connector"]}' if record.get('connector') else ''
        words.append(f'{whose} {record["recorder"]}{level}{through}')
    return ' and '.join(words)
