from cankd_mm.engine.hooks import (
    BestStudentHook,
    CanBlockMonitorHook,
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
    'DistillVisualizationHook',
    'DistillValLoop',
    'FiniteLossHook',
    'IterationSeedHook',
]
