from cankd_mm.runs.jobs import Job, Slots, failure_of, run_jobs
from cankd_mm.runs.logs import (
    METRICS,
    final_checkpoint,
    is_finished,
    last_checkpoint,
    peak_memory,
    read_scalars,
    seconds_per_step,
)

__all__ = [
    'METRICS',
    'Job',
    'Slots',
    'failure_of',
    'final_checkpoint',
    'is_finished',
    'last_checkpoint',
    'peak_memory',
    'read_scalars',
    'run_jobs',
    'seconds_per_step',
]
