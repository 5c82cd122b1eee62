from numbers import Real
from typing import Dict, Optional, Union

import torch
from mmengine.dist import get_dist_info
from mmengine.hooks import Hook
from mmengine.registry import LOOPS, RUNNERS
from mmengine.runner import BaseLoop, Runner, ValLoop, autocast
from torch import nn

from cankd_mm.config.metric import TEACHER, metric_of
from cankd_mm.config.pair import NO_PREDICTIONS, imports_of
from cankd_mm.config.types import type_name
from cankd_mm.errors import SetupError
from cankd_mm.models import BackboneTeacher, FeatureDistill
from cankd_mm.models.utils import count_classes, unwrap


@RUNNERS.register_module()
class DistillRunner(Runner):
    """MMEngine's runner, with what watches a distillation.

    It changes nothing of what is trained:

    - the teacher is evaluated beside the student, see :class:`DistillValLoop`;
    - the best checkpoint is kept, by the metric that rates the run, and its student, see :class:`BestStudentHook`;
    - a loss that is no number ends the training, see :class:`FiniteLossHook`;
    - the only checkpoint is not removed before the next one is written.

    A config asks for it with ``runner_type``, which MMRazor's own tool does not look for. What the config says of a
    hook or of the validation loop goes first.

    Examples:
        >>> runner_type = 'DistillRunner'
        >>> default_hooks = dict(best_student=None)  # without student_best.pth
    """

    def dump_config(self) -> None:
        """Keep the config in the work folder, with the import of this package, which a base may have done by itself."""
        imports = dict.fromkeys([*imports_of(self.cfg), 'cankd_mm'])
        given = self.cfg.get('custom_imports') or dict(allow_failed_imports=False)
        self.cfg.custom_imports = {**given, 'imports': [*imports]}
        super().dump_config()

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
                problem = 'max_keep_ckpts=1 would remove the only checkpoint before the next one is written'
                self.logger.warning(f'default_hooks.checkpoint.{problem}: two are kept.')
                checkpoint['max_keep_ckpts'] = 2
        super().register_default_hooks(hooks)

    def train(self) -> nn.Module:
        """Train; a model whose distillation an earlier training had stopped is distilled again."""
        model = unwrap(self.model)
        if isinstance(model, FeatureDistill):
            model.distillation_stopped, model.distill_scale = False, 1.0
        return super().train()


@LOOPS.register_module()
class DistillValLoop(ValLoop):
    """Evaluate the student of a distillation, and its teacher beside it.

    The student's metrics have their plain names, the teacher's are logged under ``teacher/``. The teacher sees images
    through its own preprocessor, and is left out where it predicts other classes than the data has. Of any other model
    it is MMEngine's ``ValLoop``. :class:`DistillRunner` takes it by itself.

    Args:
        *args: Of ``ValLoop``: runner, data loader and evaluator.
        teacher (str): When the teacher is evaluated: ``'once'``, with the first validation of a training, ``'always'``
            or ``'never'``. Defaults to 'once'.
        **kwargs: Of ``ValLoop``, such as ``fp16``.

    Raises:
        SetupError: If ``teacher`` is none of these.

    Examples:
        >>> val_cfg = dict(type='DistillValLoop', teacher='never')
    """

    def __init__(self, *args, teacher: str = 'once', **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if teacher not in ('once', 'always', 'never'):
            raise SetupError(f"val_cfg.teacher is {teacher!r}: use 'once', 'always' or 'never'.")
        self.teacher = teacher

    def run(self) -> Dict[str, float]:
        """Evaluate the teacher where it is its turn, and then the student, whose metrics are returned."""
        hub, model, done = self.runner.message_hub, unwrap(self.runner.model), 'teacher_is_evaluated'
        turn = self.teacher == 'always' or self.teacher == 'once' and not hub.runtime_info.get(done)
        if turn and isinstance(model, FeatureDistill) and teacher_is_rateable(model):
            for key, value in self.evaluate_teacher().items():
                if isinstance(value, Real):
                    hub.update_scalar(f'val/{TEACHER}{key}', value)
            hub.update_info(done, True)
        return super().run()

    @torch.no_grad()
    def evaluate_teacher(self, images: Optional[int] = None) -> Dict[str, float]:
        """Evaluate the teacher, on the first images of the validation set or on all.

        Raises:
            SetupError: If the teacher is not rateable, see :func:`teacher_is_rateable`.
        """
        model, loader, dataset = unwrap(self.runner.model), self.dataloader, self.dataloader.dataset
        if not teacher_is_rateable(model):
            classes, known = count_classes(model.teacher), count_classes(model)
            problem = f'of {classes} classes cannot be rated on data for a student of {known}'
            problem = NO_PREDICTIONS if isinstance(model.teacher, BackboneTeacher) else problem
            raise SetupError(f'The teacher {problem}: leave --teacher-eval out.')
        size = len(dataset) if images is None else min(images, len(dataset))
        rank, world = get_dist_info()  # processes share the images out as their results are put together
        first = (loader.collate_fn([dataset[index]]) for index in range(rank, size, world))
        for batch in loader if images is None else first:
            with autocast(enabled=self.fp16):
                outputs = model.teacher.val_step(batch)
            self.evaluator.process(data_samples=outputs, data_batch=batch)
        # A metric that knows all images of the annotation file would count those that were not shown as missed.
        limited = [m for m in self.evaluator.metrics if size < len(dataset) and getattr(m, 'img_ids', 0) is None]
        for metric in limited:
            metric.img_ids = [dataset.get_data_info(index)['img_id'] for index in range(size)]
        metrics = self.evaluator.evaluate(size)
        for metric in limited:
            metric.img_ids = None
        return metrics


def teacher_is_rateable(model: FeatureDistill) -> bool:
    """Tell whether the teacher of a pair predicts as many classes as the student, for whom the data is."""
    with model.student_alone() as student:
        same = count_classes(model.teacher) == count_classes(student)
    return same and not isinstance(model.teacher, BackboneTeacher)
