from numbers import Real
from typing import Dict, Iterator, List, Optional, Union

import torch
from mmengine.dist import get_dist_info
from mmengine.evaluator import Evaluator
from mmengine.registry import LOOPS
from mmengine.runner import Runner, ValLoop, autocast
from torch.utils.data import DataLoader

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
        runner (Runner): The runner.
        dataloader (DataLoader | dict): The data loader or its config.
        evaluator (Evaluator | dict | list): The evaluator or its config.
        fp16 (bool): Whether to evaluate in half precision. Defaults to False.
        teacher (str): When the teacher is evaluated: ``'once'``, with the first validation of a training, ``'always'``
            or ``'never'``. Defaults to 'once'.

    Raises:
        SetupError: If ``teacher`` is none of these.

    Examples:
        >>> val_cfg = dict(type='DistillValLoop', teacher='never')
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: Union[DataLoader, Dict],
        evaluator: Union[Evaluator, Dict, List],
        fp16: bool = False,
        teacher: str = 'once',
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        if teacher not in ('once', 'always', 'never'):
            raise SetupError(f"val_cfg.teacher is {teacher!r}: use 'once', 'always' or 'never'.")
        self.teacher = teacher

    def run(self) -> Dict[str, float]:
        """Evaluate the teacher where it is its turn, and then the student.

        Returns:
            dict[str, float]: The student's metrics.
        """
        hub = self.runner.message_hub
        model = unwrap(self.runner.model)
        turn = self.teacher == 'always' or self.teacher == 'once' and not hub.runtime_info.get(_EVALUATED)
        if turn and isinstance(model, FeatureDistill) and teacher_is_rateable(model):
            for key, value in self.evaluate_teacher().items():
                if isinstance(value, Real):
                    hub.update_scalar(f'val/teacher/{key}', value)
            hub.update_info(_EVALUATED, True)
        return super().run()

    @torch.no_grad()
    def evaluate_teacher(self, images: Optional[int] = None) -> Dict[str, float]:
        """Evaluate the teacher.

        Args:
            images (int, optional): On how many images, the first of the validation set. Defaults to None, all.

        Returns:
            dict[str, float]: What the evaluators report.

        Raises:
            SetupError: If the teacher predicts other classes than the student, for whom the data is.
        """
        model, dataset = unwrap(self.runner.model), self.dataloader.dataset
        if isinstance(model.teacher, BackboneTeacher):
            raise SetupError(f'The teacher {NO_PREDICTIONS}: leave --teacher-eval out.')
        if not teacher_is_rateable(model):
            raise SetupError(
                f'A teacher of {count_classes(model.teacher)} classes cannot be rated on data for a student of '
                f'{count_classes(model)}: leave --teacher-eval out.'
            )
        size = len(dataset) if images is None else min(images, len(dataset))
        for batch in self.dataloader if images is None else self._first(size):
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

    def _first(self, size: int) -> Iterator[dict]:
        """The first images, each a batch; with several processes, shared out as their results are put together."""
        rank, world = get_dist_info()
        for index in range(rank, size, world):
            yield self.dataloader.collate_fn([self.dataloader.dataset[index]])


def teacher_is_rateable(model: FeatureDistill) -> bool:
    """Tell whether the teacher predicts the classes of the student, for whom the data is.

    Args:
        model (FeatureDistill): The pair.

    Returns:
        bool: Whether it predicts anything, and as many classes.
    """
    if isinstance(model.teacher, BackboneTeacher):
        return False
    with model.student_alone() as student:
        return count_classes(model.teacher) == count_classes(student)
