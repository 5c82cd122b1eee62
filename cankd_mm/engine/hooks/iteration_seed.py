import random
from typing import Callable, Iterator, Optional

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Draw random numbers from the seed and the iteration alone, so that a resumed training repeats them.

    MMEngine seeds a process once, and a resumed process starts that sequence again from its beginning. With this hook,
    the generators of Python, numpy and torch are seeded anew where an epoch starts, or in a loop by iterations where an
    iteration starts: whatever ran before, a validation included, has no influence. It changes which numbers are drawn:
    a config has to ask for it.

    A training that is resumed at a checkpoint then goes on as if nothing had happened, bit by bit on one processor,
    with two exceptions: persistent worker processes of a data loader (``persistent_workers=True``) start their random
    augmentations anew, and MMEngine's loop by epochs resumes at the start of an epoch, whatever the checkpoint.

    Examples:
        >>> default_hooks = dict(iteration_seed=dict(type='IterationSeedHook'))
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed the epoch; in a loop by iterations, the first iteration that is not skipped.

        Args:
            runner (Runner): The runner.
        """
        loop = runner.train_loop
        if isinstance(loop, IterBasedTrainLoop) and loop.iter > 0:
            # The loop fetches what has been trained already before it fetches the first batch.
            loop.dataloader_iterator = _Skipping(loop.dataloader_iterator, loop.iter, lambda: _seed(runner, loop.iter))
        else:
            _seed(runner, runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None, outputs: Optional[dict] = None
    ) -> None:
        """Seed the next iteration of a loop by iterations.

        Args:
            runner (Runner): The runner.
            batch_idx (int): The batch's place in the epoch.
            data_batch (dict, optional): The batch.
            outputs (dict, optional): The losses.
        """
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            _seed(runner, runner.iter + 1)

    def after_val(self, runner: Runner) -> None:
        """Seed the next iteration once more, which a validation has come in between.

        Args:
            runner (Runner): The runner.
        """
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            _seed(runner, runner.iter)


class _Skipping:
    """An iterator that calls a function once, after a number of items."""

    def __init__(self, iterator: Iterator, skip: int, then: Callable[[], None]) -> None:
        self._iterator, self._skip, self._then = iterator, skip, then

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> object:
        if self._skip == 0:
            self._then()
        self._skip -= 1
        return next(self._iterator)


def _seed(runner: Runner, iteration: int) -> None:
    words = np.random.SeedSequence([runner.seed, iteration]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.manual_seed(int(words[2]))
