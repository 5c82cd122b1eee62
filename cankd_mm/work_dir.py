"""A work folder: what was logged there, how far its training is, and who trains in it."""

import json
import os
import socket
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence

from filelock import FileLock, Timeout
from mmengine.fileio import dump, load
from mmengine.logging import print_log

from cankd_mm.errors import SetupError

_STATE = 'training.json'  # who trains here, and how far it has come
_LOCK = '.training.lock'
USAGE = 'usage.json'  # the largest size that the training's process has been seen at


def read_scalars(work_dir: Path) -> List[dict]:
    """Read what MMEngine has logged of a training over all its resumptions, an entry for each step or validation."""
    entries = []
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            with suppress(ValueError):  # of the line that is being written
                entries.append(json.loads(line))
    return entries


def seconds_per_step(scalars: List[dict]) -> Optional[float]:
    """Take the median time of an iteration, data loading included, of what :func:`read_scalars` found."""
    return middle([entry['time'] for entry in scalars if 'loss' in entry and 'time' in entry])


def middle(seconds: Sequence[float]) -> Optional[float]:
    """Take the median of times, which is None of no time."""
    return round(float(median(seconds)), 4) if len(seconds) else None


def last_checkpoint(work_dir: Path) -> Optional[Path]:
    """Find the checkpoint that MMEngine names as the last complete one, also where the folder was moved; or None."""
    pointer = work_dir / 'last_checkpoint'
    named = Path(pointer.read_text().strip() if pointer.exists() else '')
    return _newest(path for path in (work_dir / named.name, named) if path.is_file())


def find_resumable(work_dir: Path) -> Optional[Path]:
    """Find the checkpoint that a training goes on from: the last one, or where that is gone the newest."""
    return last_checkpoint(work_dir) or _newest(_checkpoints(work_dir))


def load_resumable(path: Path) -> dict:
    """Read the checkpoint that a training goes on from; if it is broken, a SetupError names the newest whole one."""
    from cankd_mm.models.checkpoints import load_checkpoint  # with torch, which tables of what was logged do without

    try:
        return load_checkpoint(str(path), 'run')
    except SetupError as e:
        for other in sorted(_checkpoints(path.parent), key=lambda path: path.stat().st_mtime, reverse=True):
            with suppress(SetupError):
                load_checkpoint(str(other), 'run')
                break
        else:
            raise
        problem, instead = str(e).rpartition(': ')[0], f'resume from {str(other)!r}, the newest that is whole'
        raise SetupError(f'{problem}: {instead}, or take the broken one away.') from e


def _checkpoints(folder: Path) -> List[Path]:
    return [*folder.glob('epoch_*.pth'), *folder.glob('iter_*.pth')]


def _newest(paths: Iterable[Path]) -> Optional[Path]:
    return max(paths, key=lambda path: path.stat().st_mtime, default=None)


def is_complete(work_dir: Path, train_cfg: dict) -> bool:
    """Tell whether a training with this ``train_cfg`` has come to its end and left a checkpoint.

    ``cankd train`` notes that, also where a hook has ended it early; of others the last checkpoint tells.
    """
    checkpoint, length = last_checkpoint(work_dir), length_of(train_cfg)
    if checkpoint is None or state_of(work_dir).get('ended') == length:
        return checkpoint is not None
    from cankd_mm.models.checkpoints import load_checkpoint  # with torch, which tables of what was logged do without

    try:
        saved = load_checkpoint(str(checkpoint), 'run')
        known = saved['message_hub']['runtime_info']
        return length.items() <= known.items() and saved['meta']['iter'] >= known['max_iters']
    except (SetupError, KeyError, TypeError):  # no checkpoint that MMEngine has written
        return False


def read_facts(path: Path) -> dict:
    """Read a JSON file of a work folder, which is nothing where it is not there, or no whole one."""
    try:
        return dict(load(str(path)))
    except (OSError, TypeError, ValueError):
        return {}


def state_of(work_dir: Path) -> dict:
    """Read what the training in a work folder has noted of itself, where it has.

    These are ``host``, ``pid``, ``since`` and ``slurm``, ``max_iters`` and ``metric``, the arguments of the
    :class:`Metric` that rates it, every few seconds ``iter`` and ``seconds_per_step``, and at the end ``ended`` and
    ``epoch``, too.
    """
    return read_facts(work_dir / _STATE)


def length_of(train_cfg: dict) -> Dict[str, Optional[int]]:
    """Take the length of a training, in epochs or iterations, out of its ``train_cfg``."""
    key = 'max_epochs' if train_cfg.get('max_epochs') is not None else 'max_iters'
    return {key: train_cfg.get(key)}


@contextmanager
def claimed(work_dir: Path, wait: bool = False) -> Iterator[Callable[..., None]]:
    """Have a work folder for one training alone, and get a function that notes more of it, see :func:`state_of`.

    Raises:
        SetupError: If another process trains there, unless ``wait`` has it waited for. The message names it.
    """

    def busy() -> str:
        return f'{holder(work_dir) or "Another process"} trains in {str(work_dir)!r}'

    with locked(work_dir / _LOCK, busy, 'wait for its end, or give another --work-dir', wait) as alone:
        for left in work_dir.glob('.*.pth.*.part') if alone else ():  # of a process that was killed
            left.unlink()
        before = state_of(work_dir)
        state = dict(host=socket.gethostname(), pid=os.getpid(), since=time.strftime('%Y-%m-%d %H:%M:%S'))
        if 'SLURM_JOB_ID' in os.environ:
            state['slurm'] = os.environ['SLURM_JOB_ID']

        def note(**facts: object) -> None:
            state.update(facts)
            dump(state, str(work_dir / _STATE))

        try:
            note()
            yield note
        finally:
            if before and 'max_iters' not in state:  # nothing was trained
                with suppress(OSError):
                    dump(before, str(work_dir / _STATE))


@contextmanager
def locked(path: Path, busy: Callable[[], str], advice: str, wait: bool = False) -> Iterator[bool]:
    """Hold a lock file, and get whether it holds: not every file system has locks.

    Raises:
        SetupError: If another process holds it, unless ``wait`` has it waited for. ``busy`` says who.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(path))
    try:
        lock.acquire(timeout=1)  # who only looks holds it for a moment
    except NotImplementedError:
        print_log(f'The file system of {str(path.parent)!r} has no locks: nothing keeps others out.', 'current')
    except Timeout:
        if not wait:
            raise SetupError(f'{busy()}: {advice}.') from None
        print_log(f'{busy()}: this one waits for its end.', logger='current')
        lock.acquire()
    try:
        yield lock.is_locked
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Tell whether a process holds a lock file; no where the file system has no locks."""
    if not path.exists():
        return False
    try:
        with FileLock(str(path), timeout=0):
            return False
    except NotImplementedError:
        return False
    except Timeout:
        return True


def holder(work_dir: Path) -> Optional[str]:
    """Name the process that trains in a work folder, and its host; None where nobody does."""
    if not is_locked(work_dir / _LOCK):
        return None
    state = state_of(work_dir)
    job = f' (job {state["slurm"]} of Slurm)' if 'slurm' in state else ''
    return f'Process {state.get("pid")} on {state.get("host")}{job}, since {state.get("since")},'
