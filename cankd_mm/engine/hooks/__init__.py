from cankd_mm.engine.hooks.best_student import BestStudentHook
from cankd_mm.engine.hooks.can_block_monitor import CanBlockMonitorHook
from cankd_mm.engine.hooks.distill_schedule import DistillScheduleHook
from cankd_mm.engine.hooks.finite_loss import FiniteLossHook
from cankd_mm.engine.hooks.iteration_seed import IterationSeedHook

__all__ = ['BestStudentHook', 'CanBlockMonitorHook', 'DistillScheduleHook', 'FiniteLossHook', 'IterationSeedHook']
