from typing import Dict, Optional, Union

from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner

from cankd_mm.config.metric import metric_of
from cankd_mm.config.types import type_name


@RUNNERS.register_module()
class DistillRunner(Runner):
    """MMEngine's runner, with what watches a distillation.

    It changes nothing of what is trained:

    - the teacher is evaluated beside the student, see :class:`DistillValLoop`;
    - the best checkpoint is kept, by the metric of :func:`cankd_mm.config.metric.metric_of`, and its student by itself,
      see :class:`BestStudentHook`;
    - a loss that is no number ends the training, see :class:`FiniteLossHook`;
    - the only checkpoint is not removed before the next one is written.

    A config asks for it with ``runner_type``, as those in ``configs/_base_`` do. The tools of MMDetection and
    MMSegmentation look for that as well, that of MMRazor does not. What the config says of a hook or of the validation
    loop goes first.

    Examples:
        >>> runner_type = 'DistillRunner'
        >>> default_hooks = dict(best_student=None)  # without student_best.pth
    """

    def build_val_loop(self, loop: Union[BaseLoop, Dict]) -> BaseLoop:
        """Build the loop of the validation, ours where the config has no type or ``'ValLoop'``."""
        if isinstance(loop, dict) and type_name(loop.get('type', 'ValLoop')) == 'ValLoop':
            loop = {**loop, 'type': 'DistillValLoop'}
        return super().build_val_loop(loop)

    def register_default_hooks(self, hooks: Optional[Dict[str, Union[Hook, Dict]]] = None) -> None:
        """Register the hooks of every training, and those above."""
        ours = dict(finite_loss=dict(type='FiniteLossHook'), best_student=dict(type='BestStudentHook'))
        hooks = {name: hook for name, hook in {**ours, **(hooks or {})}.items() if hook is not None or name not in ours}
        checkpoint = hooks.get('checkpoint', dict(type='CheckpointHook', interval=1))
        if isinstance(checkpoint, dict):
            hooks['checkpoint'] = checkpoint = dict(checkpoint)
            if 'save_best' not in checkpoint and self._val_loop is not None:
                metric = metric_of(self.cfg)
                checkpoint['save_best'] = metric.key if metric else 'auto'
                checkpoint.setdefault('rule', metric.rule if metric else 'greater')
            if checkpoint.get('max_keep_ckpts') == 1:
                self.logger.warning(
                    'default_hooks.checkpoint.max_keep_ckpts=1 would remove the only checkpoint before the next one is '
                    'written: two are kept.'
                )
                checkpoint['max_keep_ckpts'] = 2
        super().register_default_hooks(hooks)
