import os.path as osp
from typing import Dict, Optional

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner, save_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from cankd_mm.models.checkpoints import student_state_dict


@HOOKS.register_module()
class BestStudentHook(Hook):
    """Write the student of the best checkpoint by itself, as ``student_best.pth``.

    The file holds what MMDetection or MMSegmentation loads with the student's plain config. It follows
    ``default_hooks.checkpoint.save_best``, whatever metric that is. :class:`DistillRunner` adds the hook.

    Examples:
        >>> default_hooks = dict(best_student=dict(type='BestStudentHook'))
    """

    priority = 'LOWEST'  # after MMEngine's CheckpointHook

    def __init__(self) -> None:
        self._written: Optional[str] = None

    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict[str, float]] = None) -> None:
        """Write the file where there is a new best checkpoint.

        Args:
            runner (Runner): The runner.
            metrics (dict[str, float], optional): What the evaluators reported.
        """
        best = runner.message_hub.runtime_info.get('best_ckpt')
        if best is None or best == self._written or not is_main_process() or not osp.isfile(best):
            return
        checkpoint = CheckpointLoader.load_checkpoint(best, map_location='cpu', logger='silent')
        meta = {key: value for key, value in checkpoint['meta'].items() if key in ('dataset_meta', 'epoch', 'iter')}
        student = student_state_dict(checkpoint['state_dict'])
        save_checkpoint(dict(state_dict=student, meta=meta), osp.join(runner.work_dir, 'student_best.pth'))
        self._written = best
