from typing import Optional

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from cankd_mm.errors import SetupError

_PATIENCE = 16  # halvings from torch's first scale, 65536, to 1


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop a training whose loss is no longer a finite number, and say which loss and on which images.

    It looks at every iteration, before a checkpoint is written: the last checkpoint is still good. MMDetection's
    ``CheckInvalidLossHook`` says only that something is wrong, in every fiftieth. Under a gradient scaler, which leaves
    out a step that overflows and halves its scale, as many iterations in a row may overflow as it takes to reach 1.
    :class:`DistillRunner` adds the hook.

    Examples:
        >>> default_hooks = dict(finite_loss=dict(type='FiniteLossHook'))
    """

    priority = 'HIGH'

    def __init__(self) -> None:
        self._overflows = 0

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None, outputs: Optional[dict] = None
    ) -> None:
        """Look at the losses of an iteration.

        Args:
            runner (Runner): The runner.
            batch_idx (int): The batch's place in the epoch.
            data_batch (dict, optional): The batch.
            outputs (dict, optional): The losses.

        Raises:
            SetupError: If one of them is infinite or not a number.
        """
        outputs = outputs or {}
        if 'loss' in outputs and _is_finite(outputs['loss']):  # the sum of all
            self._overflows = 0
            return
        values = {name: value for name, value in outputs.items() if 'loss' in name and name != 'loss'}
        bad = [name for name, value in values.items() if not _is_finite(value)]
        if not bad:
            return
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        self._overflows += 1
        if scaler is not None and scaler.is_enabled() and self._overflows <= _PATIENCE:
            return
        samples = (data_batch or {}).get('data_samples') or []
        images = [path for path in (getattr(sample, 'img_path', None) for sample in samples) if path]
        which = ', '.join(f'{name} is {torch.as_tensor(values[name]).item()}' for name in bad)
        raise SetupError(
            f'Iteration {runner.iter + 1}: {which} on the images {", ".join(images) or "of this batch"}: look at '
            f'these, or lower the learning rate or loss_weight; resume from the last checkpoint in {runner.work_dir!r}.'
        )


def _is_finite(value: object) -> bool:
    return bool(torch.as_tensor(value).isfinite().all())
