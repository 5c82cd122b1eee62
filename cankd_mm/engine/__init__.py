from cankd_mm.engine.hooks import (
    BestStudentHook,
    CanBlockMonitorHook,
    DistillScheduleHook,
    DistillVisualizationHook,
    FiniteLossHook,
    IterationSeedHook,
)
from cankd_mm.engine.optim_wrapper import install
from cankd_mm.engine.runner import DistillRunner, DistillValLoop

install()

__all__ = [
    'BestStudentHook',
    'CanBlockMonitorHook',
    'DistillRunner',
    'DistillScheduleHook',
    'DistillVisualizationHook',
    'DistillValLoop',
    'FiniteLossHook',
    'IterationSeedHook',
]
