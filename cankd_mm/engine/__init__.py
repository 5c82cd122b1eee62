from cankd_mm.engine.hooks import (
    BestStudentHook,
    CanBlockMonitorHook,
    DistillScheduleHook,
    FiniteLossHook,
    IterationSeedHook,
)
from cankd_mm.engine.optimizer import install
from cankd_mm.engine.runner import DistillRunner, DistillValLoop
from cankd_mm.engine.unlabeled import LabeledAndUnlabeled, UnlabeledImages

install()

__all__ = [
    'BestStudentHook',
    'CanBlockMonitorHook',
    'DistillRunner',
    'DistillScheduleHook',
    'DistillValLoop',
    'FiniteLossHook',
    'IterationSeedHook',
    'LabeledAndUnlabeled',
    'UnlabeledImages',
]
