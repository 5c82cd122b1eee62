from cankd_mm.engine.runner.distill_runner import DistillRunner
from cankd_mm.engine.runner.distill_val_loop import DistillValLoop

__all__ = ['DistillRunner', 'DistillValLoop']
