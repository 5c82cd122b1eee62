from typing import Dict, Optional

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from cankd_mm.errors import SetupError
from cankd_mm.models import FeatureDistill
from cankd_mm.models.utils import untouched_generators, unwrap


@HOOKS.register_module()
class DistillVisualizationHook(Hook):
    """Send what ``cankd show`` shows of features, blocks and predictions to the run's visualizer while it trains.

    After a validation, images of the validation set go through teacher and student as they are then: predictions
    beside the ground truth, and for every level both features, what is left between them, the correlation of their
    channels, and where the block looks. They arrive wherever the visualizer's backends write: in
    ``vis_data/vis_image`` of the run's log folder, TensorBoard, or Weights & Biases.

    Args:
        interval (int): Validations between two sendings. Defaults to 1.
        images (int): How many images, evenly spaced over the validation set. Defaults to 4.

    Examples:
        >>> custom_hooks = [dict(type='DistillVisualizationHook', interval=2)]
        >>> vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    """

    priority = 'ABOVE_NORMAL'  # before EMAHook takes the averaged weights out again, which were validated

    def __init__(self, interval: int = 1, images: int = 4) -> None:
        self.interval, self.images, self._validations = interval, images, 0

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict[str, float]] = None) -> None:
        """Send the pictures; a SetupError says that the model is no pair."""
        self._validations += 1
        if self._validations % self.interval:
            return
        from cankd_mm.show import sections  # plots and page, which no training waits for
        from cankd_mm.show.stages import AFTER, Stages, from_dataset

        model = unwrap(runner.model)
        if not isinstance(model, FeatureDistill):
            problem = f'is for pairs with FeatureDistill, and the model is a {type(model).__name__}'
            raise SetupError(f'{type(self).__name__} {problem}: take it out of custom_hooks.')
        stages = Stages(model, {AFTER: None})
        with untouched_generators():
            chosen = from_dataset(runner.val_dataloader.dataset, self.images)
            for section in (sections.changes(stages, runner.cfg, chosen), *sections.features(stages, chosen)):
                for picture in section.pictures:
                    runner.visualizer.add_image(f'distill_{picture.name}', picture.image, step=runner.iter)
