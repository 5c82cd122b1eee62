from typing import Optional

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from cankd_mm.errors import SetupError
from cankd_mm.models import FeatureDistill
from cankd_mm.models.utils import unwrap


@HOOKS.register_module()
class DistillScheduleHook(Hook):
    """Let the distillation losses rise at the start of a training, and fall towards its end.

    Their weights are multiplied by a factor that rises linearly to 1 over the first ``warmup`` iterations and falls
    linearly from ``begin`` to 0 at ``end``. From there on the teacher is not run any more. With ``end=begin`` the
    distillation stops at once.

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
        self.warmup = warmup
        self.begin = begin
        self.end = end

    def before_train(self, runner: Runner) -> None:
        """Look whether there is a distillation.

        Args:
            runner (Runner): The runner.
        """
        model = unwrap(runner.model)
        if not isinstance(model, FeatureDistill):
            raise SetupError(
                f'DistillScheduleHook is for pairs with FeatureDistill, and the model is a {type(model).__name__}: '
                'take it out of custom_hooks.'
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None) -> None:
        """Set the factor of an iteration, which depends on nothing but its number.

        Args:
            runner (Runner): The runner.
            batch_idx (int): The batch's place in the epoch.
            data_batch (dict, optional): The batch.
        """
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
