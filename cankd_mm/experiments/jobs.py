"""Trainings side by side, each an ordinary ``cankd train``, with progress and an estimate of the time left."""

import os
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, TextIO

import psutil
import torch
from mmengine.config import Config
from mmengine.fileio import dump

from cankd_mm.config.differences import check_goes_on
from cankd_mm.config.options import format_options
from cankd_mm.config.paths import folder
from cankd_mm.config.read import read_config
from cankd_mm.errors import SetupError
from cankd_mm.work_dir import (
    USAGE,
    find_resumable,
    holder,
    is_complete,
    last_checkpoint,
    load_resumable,
    read_facts,
    state_of,
)

say = partial(print, flush=True)  # progress is seen at once, in a pipe as well
SECONDS = 1.0  # between two looks at a training


class Job(NamedTuple):
    """One training.

    ``work_dir`` is its folder and its name, ``options`` override entries of its config by key, ``needs`` is the work
    folder of a training that has to be done before, and ``method`` is its name in an experiment's table.
    """

    work_dir: Path
    config: str
    options: Dict[str, object] = {}
    needs: Optional[Path] = None
    method: str = ''

    @property
    def done(self) -> bool:
        """Whether the training has come to its end."""
        if last_checkpoint(self.work_dir) is None:
            return False
        return is_complete(self.work_dir, read_config(self.config, self.options).train_cfg)

    def check(self) -> None:
        """Raise a SetupError where another training has left its checkpoint, from which this one would go on."""
        checkpoint = find_resumable(self.work_dir)
        if checkpoint is not None:
            path, cfg = str(checkpoint), read_config(self.config, self.options)
            check_goes_on(load_resumable(checkpoint), path, cfg, 'auto_scale_lr')  # which is no entry but an argument

    def command(self, gpus: int = 1, *arguments: str) -> List[str]:
        """Write the training as a command line, which resumes by itself and waits for whoever trains in its folder.

        Args:
            gpus (int): How many processes there are, each on a GPU. Defaults to 1, a single process.
            *arguments (str): Further arguments of ``cankd train``.
        """
        words = [sys.executable, '-W', 'ignore']
        if gpus > 1:
            words += ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={gpus}']
            arguments = ('--launcher', 'pytorch', *arguments)
        words += [str(folder('tools') / 'train.py'), self.config, '--work-dir', str(self.work_dir)]
        options = ['--cfg-options', *format_options(self.options)] if self.options else []
        return [*words, '--resume', '--wait', *arguments, *options]

    def failure(self) -> SetupError:
        """Give the last line of the log as the reason why the training failed."""
        log = self.work_dir / 'train.log'
        lines = log.read_text(errors='replace').strip().splitlines() if log.exists() else []
        last = lines[-1] if lines else 'it printed nothing'
        return SetupError(f'The training {self.work_dir} failed: {last} (its log is {log}).')


class Local:
    """Trainings on this machine: on its GPUs, or on shares of the processor's cores.

    Once ``stopped`` is set, trainings end, and none is started; started again, each goes on at its last checkpoint.

    Args:
        count (int, optional): How many trainings at most; more than there are GPUs share them. Defaults to None: one on
            every GPU, or without one as many as the processor has cores, up to four. The cores are shared out among
            them, unless ``OMP_NUM_THREADS`` says how many threads each has.
    """

    def __init__(self, count: Optional[int] = None) -> None:
        gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
        self.count = count or gpus or min(cores, 4)
        self.stopped = False
        self._threads = str(max(cores // self.count, 1))
        devices = (os.environ.get('CUDA_VISIBLE_DEVICES') or ','.join(map(str, range(gpus)))).split(',')
        self._slots: Queue = Queue()
        for slot in range(self.count):
            self._slots.put({'CUDA_VISIBLE_DEVICES': devices[slot % gpus]} if gpus else {})

    def run(self, job: Job, ends: Callable[[], bool] = lambda: False) -> bool:
        """Train, and tell whether the training came to its own end; ``ends`` tells every second whether to end it."""
        slot, process = self._slots.get(), None
        try:
            job.work_dir.mkdir(parents=True, exist_ok=True)
            environment = {'OMP_NUM_THREADS': self._threads, **os.environ, **slot}
            with open(job.work_dir / 'train.log', 'ab') as log:
                process = subprocess.Popen(job.command(), stdout=log, stderr=subprocess.STDOUT, env=environment)
            while process.poll() is None:
                time.sleep(SECONDS)
                _note_memory(job, process)
                if self.stopped or ends():
                    return False
            return process.returncode == 0 and job.done
        finally:
            if process is not None:
                process.terminate()
                process.wait()
            self._slots.put(slot)


def checkpoints_apart(cfg: Config, *folders: str) -> Dict[str, str]:
    """Name a folder of its own in ``out_dir`` where that is set, to which MMEngine adds a work folder's last part."""
    out_dir = (cfg.get('default_hooks', {}).get('checkpoint') or {}).get('out_dir')
    return {'default_hooks.checkpoint.out_dir': str(Path(out_dir, *folders))} if out_dir else {}


def run_jobs(jobs: Sequence[Job], place: Optional[Local] = None, stream: TextIO = sys.stdout) -> None:
    """Run what is not done yet, those that need others after all that need none.

    Args:
        jobs (Sequence[Job]): The trainings.
        place (Local | Slurm, optional): Where they run. Defaults to None, this machine, see :class:`Local`.
        stream (TextIO): Takes the progress. Defaults to the standard output.

    Raises:
        SetupError: If a training fails. The message names its log.
    """
    place, running = place or Local(), []
    for job in jobs:
        job.check()
    left = [job for job in jobs if not job.done]

    def run(job: Job) -> bool:
        if place.stopped:
            return False
        running.append(job)
        busy = holder(job.work_dir)
        waits = f': waits for the end of what runs there. {busy}' if busy else ''
        say(f'started   {job.work_dir}{waits}', file=stream)
        try:
            return place.run(job)
        finally:
            running.remove(job)

    for wave in ([job for job in left if job.needs is None], [job for job in left if job.needs is not None]):
        with side_by_side(place, len(wave)) as pool:
            futures = {pool.submit(run, job): job for job in wave}
            while futures:
                ended, _ = wait(futures, 15 * SECONDS, FIRST_COMPLETED)
                for future in ended:
                    job = futures.pop(future)
                    if not future.result():
                        raise job.failure()
                    say(f'finished  {job.work_dir}', file=stream)
                if running and not ended:
                    say(_progress(list(running), len(futures) - len(running)), file=stream)


@contextmanager
def side_by_side(place: Local, count: int) -> Iterator[ThreadPoolExecutor]:
    """Give a pool of threads for ``count`` trainings, which an error or an interruption of this process ends."""
    pool = ThreadPoolExecutor(max(min(place.count or count, count), 1))
    try:
        yield pool
    except BaseException:
        place.stopped = True
        raise
    finally:
        pool.shutdown()


def _note_memory(job: Job, process: subprocess.Popen) -> None:
    """Keep the largest size that a process has been seen at, over all resumptions of the training."""
    try:
        megabytes = psutil.Process(process.pid).memory_info().rss / 2**20
    except psutil.Error:  # ended meanwhile
        return
    usage = job.work_dir / USAGE
    before = read_facts(usage).get('peak_mb', 0)
    if megabytes > before + 1:
        dump(dict(peak_mb=round(megabytes, 1)), str(usage))


def _progress(running: List[Job], waiting: int) -> str:
    """How far the running trainings are, and how long all will take, if the rest takes as long as these."""
    parts, left, whole = [], [], []
    for job in running:
        parts.append('/'.join(job.work_dir.parts[-2:]))
        state = state_of(job.work_dir)
        if 'seconds_per_step' in state:
            done, iters, seconds = state['iter'], state['max_iters'], state['seconds_per_step']
            parts[-1] += f' {100 * done / iters:.0f}%'
            left.append((iters - done) * seconds)
            whole.append(iters * seconds)
    minutes = ''
    if left:
        all_left = sum(left) + waiting * sum(whole) / len(whole)
        minutes = f'; about {max(max(left), all_left / len(running)) / 60:.0f} min left'
    return f'  {", ".join(parts)}; {waiting} waiting{minutes}'
