"""Trainings on a cluster, one job of Slurm for each, through submitit."""

import os
import subprocess
import time
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import submitit

from cankd_mm.errors import SetupError
from cankd_mm.experiments.jobs import Job

_HOURS = 4  # of a job, after which it is put into the queue again and goes on
_GRACE = 30  # seconds that a result may come later than the end of its job


class Cluster:
    """Where trainings run as jobs of Slurm; it stands in for :class:`Slots`.

    A job that is preempted or runs into its time limit is put into the queue again, and its training goes on at its
    last checkpoint. As a context, it cancels what still runs when it is left.

    Args:
        folder (Path): Takes what submitit writes.
        partition (str, optional): The partition. Defaults to None, the cluster's default.
        options (dict[str, str], optional): Options of sbatch: ``gres``, ``account``, ``cpus-per-task``, ``time`` in
            minutes. Defaults to None; ``gres`` is ``gpu:1`` unless it is given, and none where it is empty.

    Raises:
        SetupError: If there is no Slurm.
    """

    count = 1  # of the jobs that run at once nothing is known

    def __init__(self, folder: Path, partition: Optional[str] = None, options: Optional[Dict[str, str]] = None) -> None:
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
        self._running: Dict[Path, Tuple[Job, submitit.Job]] = {}
        self._gone: Dict[Path, float] = {}

    @property
    def free(self) -> bool:
        """Whether another training can start: Slurm has them wait."""
        return True

    @property
    def running(self) -> List[Job]:
        """The trainings that run, or wait in the queue."""
        return [job for job, _ in self._running.values()]

    def start(self, job: Job) -> None:
        """Put a training into the queue.

        Args:
            job (Job): The training.
        """
        job.work_dir.mkdir(parents=True, exist_ok=True)
        try:
            submitted = self._executor.submit(_Training(job))
        except submitit.core.utils.FailedJobError as e:
            reason = str(e).strip().splitlines()[-1]
            raise SetupError(f'Slurm does not take the job: {reason}: correct --partition or --slurm.') from e
        self._running[job.work_dir] = job, submitted

    def ended(self) -> List[Tuple[Job, bool]]:
        """Wait a second, and look which trainings have come to their ends.

        Returns:
            list[tuple[Job, bool]]: Those that have, and whether they are done.
        """
        time.sleep(1)
        over = []
        queued = self._queued()
        for job, submitted in list(self._running.values()):
            # A job that is requeued may have left a result of its end; one that was killed leaves none.
            if queued is None or submitted.job_id in queued:
                self._gone.pop(job.work_dir, None)
                continue
            if not submitted.paths.result_pickle.exists() and not self._is_gone_for_long(job):
                continue
            del self._running[job.work_dir]
            over.append((job, job.done))
        return over

    def end(self, job: Job) -> None:
        """End a training before it is done.

        Args:
            job (Job): The training.
        """
        _, submitted = self._running.pop(job.work_dir)
        submitted.cancel(check=False)

    def _queued(self) -> Optional[List[str]]:
        """The numbers of the jobs in the queue; None where Slurm does not answer."""
        words = ['squeue', '--noheader', '--format=%A', f'--user={os.getuid()}']
        answer = subprocess.run(words, capture_output=True, text=True)
        return answer.stdout.split() if answer.returncode == 0 else None

    def _is_gone_for_long(self, job: Job) -> bool:
        since = self._gone.setdefault(job.work_dir, time.monotonic())
        return time.monotonic() - since > _GRACE

    def __enter__(self) -> 'Cluster':
        return self

    def __exit__(self, *exc_info: object) -> None:
        for _, submitted in self._running.values():
            submitted.cancel(check=False)


class _Training:
    """What a job of Slurm runs, and runs again when it is requeued."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.folder = os.getcwd()

    def __call__(self) -> None:
        with open(self.job.work_dir / 'train.log', 'ab') as log:
            words = self.job.command()
            code = subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder).returncode
        if code:
            raise RuntimeError(f'The training {self.job.work_dir} ended with status {code}.')

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Go on, when submitit is told that the time is over."""
        return submitit.helpers.DelayedSubmission(self)
