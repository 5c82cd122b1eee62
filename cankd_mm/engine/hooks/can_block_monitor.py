from typing import Optional

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from cankd_mm.models.layers import CanBlock
from cankd_mm.models.utils import unwrap


@HOOKS.register_module()
class CanBlockMonitorHook(Hook):
    """Log how far every Can block has left the identity that it starts from.

    For the block of each distillation loss ``loss_<name>``, ``can/<name>_weight`` is the mean magnitude of its batch
    norm's weight, which starts at zero, and ``can/<name>_ratio`` the size of what it adds, ``|BN(W y)| / |x|``.

    Args:
        interval (int): Iterations between two measurements. Defaults to 50, the log's.

    Examples:
        >>> custom_hooks = [dict(type='CanBlockMonitorHook', interval=50)]
    """

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._ratios = {}
        self._handles = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None) -> None:
        """Attach to the blocks for one iteration.

        Args:
            runner (Runner): The runner.
            batch_idx (int): The batch's place in the epoch.
            data_batch (dict, optional): The batch.
        """
        if not self.every_n_train_iters(runner, self.interval):
            return
        for name, block in _blocks(runner.model):
            self._handles.append(block.register_forward_hook(self._measure(name)))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None, outputs: Optional[dict] = None
    ) -> None:
        """Log what was measured, and detach.

        Args:
            runner (Runner): The runner.
            batch_idx (int): The batch's place in the epoch.
            data_batch (dict, optional): The batch.
            outputs (dict, optional): The losses.
        """
        if not self._handles:
            return
        for handle in self._handles:
            handle.remove()
        for name, block in _blocks(runner.model):
            runner.message_hub.update_scalar(f'train/can/{name}_weight', block.bn.weight.detach().abs().mean())
            runner.message_hub.update_scalar(f'train/can/{name}_ratio', self._ratios[name])
        self._handles = []

    def _measure(self, name: str):
        def hook(block: CanBlock, inputs: tuple, z: Tensor) -> None:
            x = inputs[0].detach().float()
            added = z.detach().float() - x if block.residual else z.detach().float()
            self._ratios[name] = added.norm() / x.norm()

        return hook


def _blocks(model: nn.Module) -> list:
    """The Can blocks of a distillation, each with the name of its loss, less the 'loss' that the log would average."""
    return [
        (name.replace('loss_', '', 1), module)
        for name, loss in unwrap(model).distiller.distill_losses.items()
        for module in loss.modules()
        if isinstance(module, CanBlock)
    ]
