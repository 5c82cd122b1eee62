"""Trainings on a cluster, one job of Slurm for each, through submitit."""

import os
import subprocess
import time
from pathlib import Path
from typing import Callable, List, Optional

import submitit

from cankd_mm.errors import SetupError
from cankd_mm.experiments import jobs
from cankd_mm.experiments.jobs import Job

_HOURS = 4  # of a job, after which it is put into the queue again and goes on
_GRACE = 30  # seconds that a result may come later than the end of its job


class Slurm:
    """Trainings as jobs of Slurm; it stands in for :class:`cankd_mm.experiments.jobs.Local`.

    A job that is preempted or runs into its time limit is put into the queue again, and its training goes on at its
    last checkpoint. Once ``stopped`` is set, all jobs are cancelled.

    Args:
        folder (Path): Takes what submitit writes.
        count (int, optional): How many jobs are in the queue at most. Defaults to None, all.
        partition (str, optional): The partition. Defaults to None, the cluster's default.
        options (dict, optional): Options of sbatch, ``time`` in minutes. Without ``gres`` a job has ``gpu:1``.

    Raises:
        SetupError: If there is no Slurm.
    """

    def __init__(
        self, folder: Path, count: Optional[int] = None, partition: Optional[str] = None, options: Optional[dict] = None
    ) -> None:
        options = {'gres': 'gpu:1', **(options or {})}
        minutes = options.pop('time', 60 * _HOURS)
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster='slurm', slurm_max_num_timeout=10**6)
        except RuntimeError as e:
            raise SetupError(
                'There is no Slurm here, whose sbatch --executor slurm calls: run this on a login node of the cluster, '
                'or leave --executor out.'
            ) from e
        self._executor.update_parameters(
            name='cankd',
            timeout_min=int(minutes),
            slurm_additional_parameters={key: value for key, value in options.items() if value != ''},
            **({'slurm_partition': partition} if partition else {}),
        )
        self.count, self.stopped = count, False

    def run(self, job: Job, ends: Callable[[], bool] = lambda: False) -> bool:
        """Train as a job in the queue; otherwise as :meth:`cankd_mm.experiments.jobs.Local.run`."""
        job.work_dir.mkdir(parents=True, exist_ok=True)
        try:
            submitted = self._executor.submit(_Training(), job, os.getcwd())
        except submitit.core.utils.FailedJobError as e:
            reason = str(e).strip().splitlines()[-1]
            raise SetupError(f'Slurm does not take the job: {reason}: correct --partition or --slurm.') from e
        try:
            gone = time.monotonic()
            while not self.stopped and not ends():
                time.sleep(jobs.SECONDS)
                queued = _queued()
                # A job that is requeued may have left a result of its end; one that was killed leaves none.
                if queued is None or submitted.job_id in queued:
                    gone = time.monotonic()
                elif submitted.paths.result_pickle.exists() or time.monotonic() - gone > _GRACE:
                    return job.done
            return False
        finally:
            submitted.cancel(check=False)  # which leaves a job that has ended as it is


def _queued() -> Optional[List[str]]:
    """The numbers of the jobs in the queue; None where Slurm does not answer."""
    words = ['squeue', '--noheader', '--format=%A', f'--user={os.getuid()}']
    answer = subprocess.run(words, capture_output=True, text=True)
    return answer.stdout.split() if answer.returncode == 0 else None


class _Training(submitit.helpers.Checkpointable):
    """What a job of Slurm runs, and runs again when it is requeued."""

    def __call__(self, job: Job, folder: str) -> None:
        with open(job.work_dir / 'train.log', 'ab') as log:
            subprocess.run(job.command(), stdout=log, stderr=subprocess.STDOUT, cwd=folder, check=True)
