from numbers import Real
from typing import Dict, Optional

import torch
from mmengine.dist import get_dist_info
from mmengine.registry import LOOPS
from mmengine.runner import ValLoop, autocast

from cankd_mm.config.pair import NO_PREDICTIONS
from cankd_mm.errors import SetupError
from cankd_mm.models import BackboneTeacher, FeatureDistill
from cankd_mm.models.utils import count_classes, unwrap

_EVALUATED = 'teacher_is_evaluated'


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
        hub, model = self.runner.message_hub, unwrap(self.runner.model)
        turn = self.teacher == 'always' or self.teacher == 'once' and not hub.runtime_info.get(_EVALUATED)
        if turn and isinstance(model, FeatureDistill) and teacher_is_rateable(model):
            for key, value in self.evaluate_teacher().items():
                if isinstance(value, Real):
                    hub.update_scalar(f'val/teacher/{key}', value)
            hub.update_info(_EVALUATED, True)
        return super().run()

    @torch.no_grad()
    def evaluate_teacher(self, images: Optional[int] = None) -> Dict[str, float]:
        """Evaluate the teacher, on the first images of the validation set or on all.

        Raises:
            SetupError: If the teacher predicts nothing, or other classes than the student, for whom the data is.
        """
        model, loader, dataset = unwrap(self.runner.model), self.dataloader, self.dataloader.dataset
        if isinstance(model.teacher, BackboneTeacher):
            raise SetupError(f'The teacher {NO_PREDICTIONS}: leave --teacher-eval out.')
        if not teacher_is_rateable(model):
            raise SetupError(
                f'A teacher of {count_classes(model.teacher)} classes cannot be rated on data for a student of '
                f'{count_classes(model)}: leave --teacher-eval out.'
            )
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
    if isinstance(model.teacher, BackboneTeacher):
        return False
    with model.student_alone() as student:
        return count_classes(model.teacher) == count_classes(student)
