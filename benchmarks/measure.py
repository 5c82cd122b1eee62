"""Time and peak memory of several sides in one process, each in its turn."""

import argparse
import ctypes
import gc
import json
import statistics
import threading
import time
from pathlib import Path
from typing import Callable, Dict, List

import torch

from cankd_mm.stack.machine import describe_machine

# glibc's options of mallopt.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4

# A side runs once and returns the seconds of its phases.
Side = Callable[[], Dict[str, float]]


def parse_arguments(description: str, repeats: int, **switches: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--repeats', type=int, default=repeats, help='how often each side is timed')
    parser.add_argument('--quick', action='store_true', help='small maps, once: shows that it runs')
    parser.add_argument('--out', type=Path, help='JSON file for the result')
    for name, words in switches.items():
        parser.add_argument(f'--{name}', action='store_true', help=words)
    return parser.parse_args()


class Clock:
    """Seconds of the phases of one run, by the device's own clock where it is a GPU."""

    def __init__(self) -> None:
        self.phases: Dict[str, float] = {}
        self._last = _now()

    def phase(self, name: str) -> None:
        now = _now()
        if torch.cuda.is_available():
            now.synchronize()
            self.phases[name] = self._last.elapsed_time(now) / 1000
        else:
            self.phases[name] = now - self._last
        self._last = now


def _now():
    if not torch.cuda.is_available():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def compare(
    cases: List[Dict[str, Side]], repeats: int, keep_memory: bool = False, warm: bool = True
) -> List[Dict[str, dict]]:
    """Measure the sides of every case: first the memory of all, then the time, one run of each side in turn.

    Args:
        cases (list[dict[str, Side]]): For each case its sides by name.
        repeats (int): How often a side is timed, after one run to warm up.
        keep_memory (bool): Whether the process may reuse freed blocks of any size while it is timed, as the allocators
            of GPUs do. By default glibc gives blocks of more than 32 MB back, and every new one costs its page faults.
        warm (bool): Whether the sides run once before each of both, without which figures mean little.

    Returns:
        list[dict[str, dict]]: For each case and side ``seconds`` (medians by phase, and ``total``), ``runs`` (totals)
        and ``peak_mb``, what the process or the device held at most beyond what it held before.
    """
    _set_allocator(mmap_threshold=2**16, mmaps=2**16)  # what is freed goes back to the system at once
    for sides in cases if warm else []:
        for side in sides.values():
            side()
    peaks = [{name: peak_megabytes(side) for name, side in sides.items()} for sides in cases]
    _set_allocator(mmap_threshold=2**25, mmaps=0 if keep_memory else 2**16)
    return [_time(sides, repeats, peak, warm) for sides, peak in zip(cases, peaks)]


def _time(sides: Dict[str, Side], repeats: int, peaks: Dict[str, float], warm: bool) -> Dict[str, dict]:
    runs: Dict[str, List[Dict[str, float]]] = {name: [] for name in sides}
    for side in sides.values() if warm else []:
        side()
    for _ in range(repeats):
        for name, side in sides.items():
            runs[name].append(side())
    return {
        name: dict(
            seconds={
                **{phase: statistics.median(run[phase] for run in runs[name]) for phase in runs[name][0]},
                'total': statistics.median(sum(run.values()) for run in runs[name]),
            },
            runs=[sum(run.values()) for run in runs[name]],
            peak_mb=peaks[name],
        )
        for name in sides
    }


def peak_megabytes(side: Side) -> float:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        side()  # whose clock waits for the device
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before, peak, done = _resident(), [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], _resident())
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    side()
    done.set()
    watcher.join()
    return (peak[0] - before) / 2**20


def _set_allocator(mmap_threshold: int, mmaps: int) -> None:
    """Set from which size on glibc maps a block of its own, and how many of these there may be."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, mmap_threshold)
    libc.mallopt(_MMAP_MAX, mmaps)
    libc.mallopt(_TRIM_THRESHOLD, 2**17 if mmaps else -1)  # -1: never
    libc.malloc_trim(0)


def finish(arguments: argparse.Namespace, result: dict, table: str) -> None:
    """Print table and JSON, and keep the latter."""
    result = dict(machine=describe_machine(), device=arguments.device, **result)
    if arguments.device == 'cuda':
        result['device'] = torch.cuda.get_device_name()
    text = json.dumps(result, indent=2)
    print(f'{text}\n\n{table}')  # noqa: T201
    if arguments.out:
        arguments.out.write_text(text + '\n')


def _resident() -> int:
    return int(Path('/proc/self/statm').read_text().split()[1]) * 4096
