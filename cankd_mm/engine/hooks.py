"""Hooks that steer or watch a distillation."""

import os.path as osp
import random
from functools import partial
from itertools import islice
from typing import Dict, Iterator, Optional

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, save_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from cankd_mm.errors import SetupError
from cankd_mm.models import FeatureDistill
from cankd_mm.models.checkpoints import student_state_dict
from cankd_mm.models.layers import CanBlock
from cankd_mm.models.utils import unwrap

_Dict = Optional[dict]
_PATIENCE = 16  # halvings from torch's first scale, 65536, to 1


@HOOKS.register_module()
class BestStudentHook(Hook):
    """Write the student of the best checkpoint by itself, as ``student_best.pth``.

    The file holds what MMDetection or MMSegmentation loads with the student's plain config. It follows
    ``default_hooks.checkpoint.save_best``, whatever metric that is. :class:`DistillRunner` adds the hook.

    Examples:
        >>> default_hooks = dict(best_student=dict(type='BestStudentHook'))
    """

    # After MMEngine's CheckpointHook, whose published_keys would keep the distiller's weights in the file.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self._written: Optional[str] = None

    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict[str, float]] = None) -> None:
        """Write the file where there is a new best checkpoint."""
        best = runner.message_hub.runtime_info.get('best_ckpt')
        if best in (None, self._written) or not is_main_process() or not osp.isfile(best):
            return
        checkpoint = CheckpointLoader.load_checkpoint(best, map_location='cpu', logger='silent')
        meta = {key: value for key, value in checkpoint['meta'].items() if key in ('dataset_meta', 'epoch', 'iter')}
        student = student_state_dict(checkpoint['state_dict'])
        save_checkpoint(dict(state_dict=student, meta=meta), osp.join(runner.work_dir, 'student_best.pth'))
        self._written = best


@HOOKS.register_module()
class CanBlockMonitorHook(Hook):
    """Log how far every Can block has left the identity that it starts from.

    For the block of each loss ``loss_<name>``, ``can/<name>_weight`` is the mean magnitude of its batch norm's weight,
    which starts at zero, and ``can/<name>_ratio`` the size of what it adds, ``|BN(W y)| / |x|``.

    Args:
        interval (int): Iterations between two measurements. Defaults to 50, the log's.

    Examples:
        >>> custom_hooks = [dict(type='CanBlockMonitorHook', interval=50)]
    """

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._ratios, self._watched = {}, []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: _Dict = None) -> None:
        """Attach to the blocks for one iteration."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        for loss_name, loss in unwrap(runner.model).distiller.distill_losses.items():
            name = loss_name.replace('loss_', '', 1)  # MMEngine would average a name with 'loss' over the log's window
            for block in (module for module in loss.modules() if isinstance(module, CanBlock)):
                self._watched.append((name, block, block.register_forward_hook(partial(self._measure, name))))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: _Dict = None, outputs: _Dict = None) -> None:
        """Log what was measured, and detach."""
        for name, block, handle in self._watched:
            handle.remove()
            found = dict(weight=block.bn.weight.detach().abs().mean(), ratio=self._ratios.pop(name, None))
            for quantity, value in found.items():
                if found['ratio'] is not None:
                    runner.message_hub.update_scalar(f'train/can/{name}_{quantity}', value)
                else:  # without distillation no block runs, and the log would repeat its last figure for ever
                    runner.message_hub.log_scalars.pop(f'train/can/{name}_{quantity}', None)
        self._watched = []

    def _measure(self, name: str, block: CanBlock, inputs: tuple, z: Tensor) -> None:
        x, z = inputs[0].detach().float(), z.detach().float()
        self._ratios[name] = (z - x if block.residual else z).norm() / x.norm()


@HOOKS.register_module()
class DistillScheduleHook(Hook):
    """Let the distillation losses rise at the start of a training, and fall towards its end.

    Their weights are multiplied by a factor that rises linearly to 1 over the first ``warmup`` iterations and falls
    linearly from ``begin`` to 0 at ``end``, from where on the teacher is not run. ``end=begin`` stops it at once.

    Args:
        warmup (int): Iterations of the rise. Defaults to 0, none.
        begin (int, optional): The epoch, counted from 0, with which the fall begins; in a training that is counted
            in iterations, the iteration. Defaults to None, no fall.
        end (int, optional): The epoch or iteration from which on there is no distillation. Defaults to None, the
            training's end.

    Raises:
        SetupError: If the model is no pair, or the fall ends before it begins.

    Examples:
        >>> # Rises over 500 iterations, and fades out from the 9th of 12 epochs on.
        >>> custom_hooks = [dict(type='DistillScheduleHook', warmup=500, begin=8)]
    """

    def __init__(self, warmup: int = 0, begin: Optional[int] = None, end: Optional[int] = None) -> None:
        if warmup < 0 or (begin or 0) < 0:
            raise SetupError(f'DistillScheduleHook got warmup={warmup} and begin={begin}: both are zero or more.')
        if end is not None and (begin is None or end < begin):
            raise SetupError(f'DistillScheduleHook got begin={begin} and end={end}: set begin, at or before end.')
        self.warmup, self.begin, self.end = warmup, begin, end

    def before_train(self, runner: Runner) -> None:
        """Check that there is a distillation."""
        name = type(unwrap(runner.model)).__name__
        if not isinstance(unwrap(runner.model), FeatureDistill):
            problem = f'DistillScheduleHook is for pairs with FeatureDistill, and the model is a {name}'
            raise SetupError(f'{problem}: take it out of custom_hooks.')

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: _Dict = None) -> None:
        """Set the factor of an iteration, which depends on nothing but its number."""
        model = unwrap(runner.model)
        factor = min(1.0, (runner.iter + 1) / self.warmup) if self.warmup else 1.0
        if self.begin is not None:
            length = len(runner.train_dataloader) if isinstance(runner.train_loop, EpochBasedTrainLoop) else 1
            begin, end = self.begin * length, runner.max_iters if self.end is None else self.end * length
            if runner.iter >= end:
                model.distillation_stopped = True
            elif runner.iter >= begin:
                factor *= (end - runner.iter) / (end - begin)
        model.distill_scale = factor


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop a training whose loss is no longer a finite number, and say which loss and on which images.

    It looks at every iteration, before a checkpoint is written: the last checkpoint is still good. Under a gradient
    scaler, which leaves out a step that overflows and halves its scale, as many in a row may overflow as it takes to
    reach 1. :class:`DistillRunner` adds the hook.

    Raises:
        SetupError: If a loss is infinite or not a number.

    Examples:
        >>> default_hooks = dict(finite_loss=dict(type='FiniteLossHook'))
    """

    priority = 'HIGH'

    def __init__(self) -> None:
        self._overflows = 0

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: _Dict = None, outputs: _Dict = None) -> None:
        """Look at the losses of an iteration."""
        losses = {name: torch.as_tensor(value) for name, value in (outputs or {}).items() if 'loss' in name}
        total = losses.pop('loss', torch.tensor(torch.nan))
        bad = {} if total.isfinite().all() else {name: v.item() for name, v in losses.items() if not v.isfinite().all()}
        self._overflows = self._overflows + 1 if bad else 0
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        if not bad or scaler is not None and scaler.is_enabled() and self._overflows <= _PATIENCE:
            return
        which = ', '.join(f'{name} is {value}' for name, value in bad.items())
        images = [getattr(sample, 'img_path', None) for sample in (data_batch or {}).get('data_samples') or []]
        raise SetupError(
            f'Iteration {runner.iter + 1}: {which} on the images {", ".join(filter(None, images)) or "of this batch"}: '
            'look at these, or lower the learning rate or loss_weight; resume from the last checkpoint in '
            f'{runner.work_dir!r}.'
        )


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Draw random numbers from the seed and the iteration alone, so that a resumed training repeats them.

    MMEngine seeds a process once, and a resumed process starts that sequence again. This hook seeds Python, numpy and
    torch anew where an epoch starts, or in a loop by iterations where an iteration starts: whatever ran before, a
    validation included, has no influence. It changes which numbers are drawn: a config has to ask for it. A resumed
    training then goes on bit by bit on one processor, with two exceptions: persistent worker processes of a data loader
    (``persistent_workers=True``) start their random augmentations anew, and MMEngine's loop by epochs resumes at the
    start of an epoch, whatever the checkpoint.

    Examples:
        >>> default_hooks = dict(iteration_seed=dict(type='IterationSeedHook'))
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed the epoch; in a loop by iterations, the first iteration that is not skipped."""
        loop = runner.train_loop
        if isinstance(loop, IterBasedTrainLoop) and loop.iter > 0:
            loop.dataloader_iterator = _seed_after_skipping(runner, loop.dataloader_iterator)
        else:
            _seed(runner, runner.iter)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: _Dict = None, outputs: _Dict = None) -> None:
        """Seed the next iteration of a loop by iterations."""
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            _seed(runner, runner.iter + 1)

    def after_val(self, runner: Runner) -> None:
        """Seed the next iteration once more, since a validation has come in between."""
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            _seed(runner, runner.iter)


def _seed_after_skipping(runner: Runner, batches: Iterator[dict]) -> Iterator[dict]:
    """Yield the batches, seeded after those of the iterations that are done, which the loop fetches first."""
    yield from islice(batches, runner.iter)
    _seed(runner, runner.iter)
    yield from batches


def _seed(runner: Runner, iteration: int) -> None:
    words = np.random.SeedSequence([runner.seed, iteration]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.manual_seed(int(words[2]))
