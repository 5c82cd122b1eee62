"""Run trainings side by side, each an ordinary ``cankd train``, with progress and an estimate of the time left."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, TextIO, Tuple

import psutil
import torch
from mmengine.fileio import dump, load

from cankd_mm.apis.work_dir import USAGE, last_checkpoint, read_scalars, seconds_per_step
from cankd_mm.config.paths import folder
from cankd_mm.errors import SetupError


class Job(NamedTuple):
    """One training.

    ``work_dir`` is its folder and its name, ``options`` the ``--cfg-options`` by key, ``final`` the name of the
    checkpoint it ends with, ``iters`` its length, ``seconds`` a guess of one iteration on one core, which weighs it
    until it is measured, ``needs`` the work folder of a training that has to be done before, and ``method`` what an
    experiment's table calls it.
    """

    work_dir: Path
    config: str
    options: Dict[str, object]
    final: str
    iters: int
    seconds: float
    needs: Optional[Path] = None
    method: str = ''

    @property
    def seed(self) -> int:
        """The seed."""
        return self.options.get('randomness.seed', 0)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that the training ends with."""
        return self.work_dir / self.final

    @property
    def done(self) -> bool:
        """Whether that checkpoint is completely written."""
        return last_checkpoint(self.work_dir) == self.checkpoint

    def command(self) -> List[str]:
        """The training as a command line; it resumes by itself.

        Returns:
            list[str]: The words of the command.
        """
        options = [f'{key}={value}' for key, value in self.options.items()]
        words = [
            sys.executable,
            '-W',
            'ignore',
            str(folder('tools') / 'train.py'),
            self.config,
            '--work-dir',
            str(self.work_dir),
        ]
        return [*words, '--resume', *(['--cfg-options', *options] if options else [])]

    def progress(self) -> Tuple[int, float]:
        """Tell how far the training is.

        Returns:
            tuple[int, float]: Iterations done, and seconds per iteration, as guessed where none was measured.
        """
        steps = [int(entry['step']) for entry in read_scalars(self.work_dir) if 'loss' in entry]
        return (steps[-1], seconds_per_step(self.work_dir) or self.seconds) if steps else (0, self.seconds)


class Slots:
    """Where trainings run side by side: on a GPU, or on a share of the processor's cores.

    As a context, it ends what still runs when it is left; a training goes on from its last checkpoint when it is
    started again.

    Args:
        count (int, optional): How many trainings at most; more than there are GPUs share them. Defaults to None: one on
            every GPU, or without one as many as the processor has cores, up to four. The cores are shared out among
            them, unless ``OMP_NUM_THREADS`` says how many threads each has.
    """

    def __init__(self, count: Optional[int] = None) -> None:
        gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
        self.count = count or gpus or min(cores, 4)
        self._free = [slot % gpus if gpus else None for slot in range(self.count)]
        self._running: Dict[Path, Tuple[Job, subprocess.Popen, Optional[int]]] = {}
        self._threads = max(cores // self.count, 1)

    @property
    def free(self) -> bool:
        """Whether another training can start."""
        return bool(self._free)

    @property
    def running(self) -> List[Job]:
        """The trainings that run."""
        return [job for job, _, _ in self._running.values()]

    def start(self, job: Job) -> None:
        """Start a training.

        Args:
            job (Job): The training.
        """
        slot = self._free.pop(0)
        self._running[job.work_dir] = job, _start(job, self._threads, slot), slot

    def ended(self) -> List[Tuple[Job, bool]]:
        """Wait a second, and look which trainings have come to their ends.

        Returns:
            list[tuple[Job, bool]]: Those that have, and whether they are done.
        """
        time.sleep(1)
        over = []
        for job, process, _ in list(self._running.values()):
            _note_memory(job, process)
            if process.poll() is not None:
                self._release(job)
                over.append((job, process.returncode == 0 and job.done))
        return over

    def end(self, job: Job) -> None:
        """End a training before it is done.

        Args:
            job (Job): The training.
        """
        _, process, _ = self._running[job.work_dir]
        process.terminate()
        process.wait()
        self._release(job)

    def _release(self, job: Job) -> None:
        _, _, slot = self._running.pop(job.work_dir)
        self._free.append(slot)

    def __enter__(self) -> 'Slots':
        return self

    def __exit__(self, *exc_info: object) -> None:
        for _, process, _ in self._running.values():
            process.terminate()
        for _, process, _ in self._running.values():
            process.wait()


def run_jobs(jobs: List[Job], place: Optional[Slots] = None, stream: TextIO = sys.stdout) -> None:
    """Run what is not done yet.

    Args:
        jobs (list[Job]): The trainings, those that others need first.
        place (Slots | Cluster, optional): Where they run. Defaults to None, on this machine, see :class:`Slots`.
        stream (TextIO): Takes the progress. Defaults to the standard output.

    Raises:
        SetupError: If a training fails. The message names its log.
    """
    waiting = [job for job in jobs if not job.done]
    last_line = 0.0
    with place or Slots() as place:
        while waiting or place.running:
            for job in list(waiting):
                unfinished = {other.work_dir for other in [*waiting, *place.running]}
                if place.free and job.needs not in unfinished:
                    waiting.remove(job)
                    place.start(job)
                    stream.write(f'started   {job.work_dir}\n')
            for job, done in place.ended():
                if not done:
                    raise failure_of(job)
                stream.write(f'finished  {job.work_dir}\n')
            if time.time() - last_line > 15 and place.running:
                last_line = time.time()
                stream.write(_progress_line(place.running, waiting, place.count))
            stream.flush()


def failure_of(job: Job) -> SetupError:
    """Say what a training failed of.

    Args:
        job (Job): The training.

    Returns:
        SetupError: With the last line of its log.
    """
    log = job.work_dir / 'train.log'
    return SetupError(f'The training {job.work_dir} failed: {_last_line(log)} (its log is {log}).')


def _note_memory(job: Job, process: subprocess.Popen) -> None:
    """Keep the largest size that a process has been seen at, over all resumptions of the training."""
    try:
        megabytes = psutil.Process(process.pid).memory_info().rss / 2**20
    except psutil.Error:  # ended meanwhile
        return
    usage = job.work_dir / USAGE
    before = load(str(usage))['peak_mb'] if usage.exists() else 0
    if megabytes > before + 1:
        dump(dict(peak_mb=round(megabytes, 1)), str(usage))


def _start(job: Job, threads: int, gpu: Optional[int]) -> subprocess.Popen:
    job.work_dir.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
        environment.setdefault(name, environment.get('OMP_NUM_THREADS', str(threads)))
    if gpu is not None:
        visible = os.environ.get('CUDA_VISIBLE_DEVICES')
        environment['CUDA_VISIBLE_DEVICES'] = visible.split(',')[gpu] if visible else str(gpu)
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
