"""Run trainings side by side, each an ordinary ``tools/train.py``, with progress and an estimate of the time left."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, TextIO, Tuple

from cankd_mm.errors import SetupError
from cankd_mm.reproduce.logs import last_checkpoint, read_scalars


class Job(NamedTuple):
    """One training.

    ``work_dir`` is its folder and its name, ``options`` the ``--cfg-options`` by key, ``epochs`` and ``iters`` its
    length, ``seconds`` a guess of one iteration on one core, which weighs it until it is measured, and ``needs`` the
    work folder of a training that has to be done before.
    """

    work_dir: Path
    config: str
    options: Dict[str, object]
    epochs: int
    iters: int
    seconds: float
    needs: Optional[Path] = None

    @property
    def checkpoint(self) -> Path:
        """The checkpoint of the last epoch."""
        return self.work_dir / f'epoch_{self.epochs}.pth'

    @property
    def done(self) -> bool:
        """Whether the checkpoint of the last epoch is completely written."""
        return last_checkpoint(self.work_dir) == self.checkpoint

    def command(self) -> List[str]:
        """The training as a command line; it resumes by itself.

        Returns:
            list[str]: The words of the command.
        """
        options = [f'{key}={value}' for key, value in self.options.items()]
        return [
            sys.executable,
            '-W',
            'ignore',
            'tools/train.py',
            self.config,
            '--work-dir',
            str(self.work_dir),
            '--resume',
            '--cfg-options',
            *options,
        ]

    def progress(self) -> Tuple[int, float]:
        """Tell how far the training is.

        Returns:
            tuple[int, float]: Iterations done, and seconds per iteration, as guessed where none was measured.
        """
        entries = [entry for entry in read_scalars(self.work_dir) if 'loss' in entry]
        if not entries:
            return 0, self.seconds
        times = sorted(entry['time'] for entry in entries if 'time' in entry)
        return int(entries[-1]['step']), times[len(times) // 2]


def run_jobs(jobs: List[Job], slots: int, stream: TextIO = sys.stdout) -> None:
    """Run what is not done yet, ``slots`` trainings at a time.

    An interrupted run goes on at the last epoch of every training when it is started again.

    Args:
        jobs (list[Job]): The trainings, those that others need first.
        slots (int): How many run side by side. The processor's cores are shared out among them.
        stream (TextIO): Takes the progress. Defaults to the standard output.

    Raises:
        SetupError: If a training fails. The message names its log.
    """
    waiting, running = [job for job in jobs if not job.done], []
    threads = max((os.cpu_count() or 1) // slots, 1)
    last_line = 0.0
    try:
        while waiting or running:
            for job in list(waiting):
                unfinished = {other.work_dir for other in [*waiting, *(other for other, _ in running)]}
                if len(running) < slots and job.needs not in unfinished:
                    waiting.remove(job)
                    running.append((job, _start(job, threads)))
                    stream.write(f'started   {job.work_dir}\n')
            time.sleep(1)
            for job, process in list(running):
                if process.poll() is None:
                    continue
                running.remove((job, process))
                if process.returncode != 0 or not job.done:
                    raise SetupError(
                        f'The training {job.work_dir} failed: {_last_line(job.work_dir / "train.log")} '
                        f'(its log is {job.work_dir / "train.log"}).'
                    )
                stream.write(f'finished  {job.work_dir}\n')
            if time.time() - last_line > 15 and running:
                last_line = time.time()
                stream.write(_progress_line([job for job, _ in running], waiting, slots))
            stream.flush()
    finally:
        for _, process in running:
            process.terminate()
        for _, process in running:
            process.wait()


def _start(job: Job, threads: int) -> subprocess.Popen:
    job.work_dir.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    with open(job.work_dir / 'train.log', 'ab') as log:
        return subprocess.Popen(job.command(), stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=os.getcwd())


def _progress_line(running: List[Job], waiting: List[Job], slots: int) -> str:
    left, slowness, parts = [], [], []
    for job in running:
        step, seconds = job.progress()
        left.append((job.iters - step) * seconds + 5)
        slowness.append(seconds / job.seconds)
        parts.append(f'{"/".join(job.work_dir.parts[-2:])} {100 * step // job.iters}%')
    factor = sum(slowness) / len(slowness)
    left += [job.iters * job.seconds * factor + 15 for job in waiting]
    # Neither shorter than the longest training nor than all of them shared out evenly.
    minutes = max(max(left), sum(left) / slots) / 60
    return f'  {", ".join(parts)}; {len(waiting)} waiting; about {minutes:.0f} min left\n'


def _last_line(log: Path) -> str:
    lines = log.read_text(errors='replace').strip().splitlines()
    return lines[-1] if lines else 'it printed nothing'
