from cankd_mm.engine.hooks import (
    BestStudentHook,
    CanBlockMonitorHook,
    FiniteLossHook,
    IterationSeedHook,
    PreflightHook,
)
from cankd_mm.engine.runner import DistillValLoop

__all__ = [
    'BestStudentHook',
    'CanBlockMonitorHook',
    'DistillValLoop',
    'FiniteLossHook',
    'IterationSeedHook',
    'PreflightHook',
]
