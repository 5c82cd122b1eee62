"""Everything that only a GPU can show, in one run of at most 9 minutes: tests, benchmarks, and trainings with --amp.

The result is written after every part. Without a GPU the same runs on the processor, at small sizes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from cankd_mm.stack.machine import describe_machine

LIMIT = 540  # seconds, on a GPU


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/gpu.json'), help='JSON file for the result')
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS), help='which parts')
    arguments = parser.parse_args()
    machine = describe_machine()
    result = dict(machine=machine, quick=not machine['accelerators'], parts={})
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + (10 * LIMIT if result['quick'] else LIMIT)
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.parts:
            start = time.monotonic()
            print(f'{name} ...', flush=True)  # noqa: T201
            try:
                part = PARTS[name](result['quick'], Path(scratch), end - start)
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as e:
                part = dict(failed=f'{type(e).__name__}: {(e.stdout or b"")[-3000:].decode(errors="replace")}')
            result['parts'][name] = dict(seconds=round(time.monotonic() - start, 1), **part)
            arguments.out.write_text(json.dumps(result, indent=2) + '\n')
    failed = [name for name, part in result['parts'].items() if 'failed' in part]
    print(f'{arguments.out}: {", ".join(failed) + " failed" if failed else "complete"}')  # noqa: T201
    sys.exit(bool(failed))


def call(*words, timeout):
    words = [sys.executable, '-W', 'ignore', *map(str, words)]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout).stdout


def tests(quick, scratch, left):
    output = call('-m', 'pytest', '-m', 'gpu', 'tests', timeout=left).decode()
    return dict(summary=output.strip().splitlines()[-1])


def benchmark(module, *options):
    def part(quick, scratch, left):
        out = scratch / f'{module}.json'
        repeats = ['--quick'] if quick else ['--repeats', 3]
        call('-m', f'benchmarks.{module}', '--out', out, *repeats, *options, timeout=left)
        return json.loads(out.read_text())

    return part


def trainings(quick, scratch, left):
    """The demo's pairs: the teachers, where the demo has not left them, and students with CanKD, all side by side."""
    from cankd_mm.demo.dataset import prepare
    from cankd_mm.demo.run import TASKS, plan
    from cankd_mm.experiments.logged import describe

    start, data = time.monotonic(), Path('data/digits')
    prepare(data)
    root = scratch if quick else Path('work_dirs/demo')
    planned = [(task, plan(task, root, data, [0], length='quick' if quick else 'full')) for task in TASKS]
    together([teacher.command() for _, (teacher, *_) in planned if not teacher.done], left)
    # Those of docs/comparison.md.
    length = {'train_cfg.max_epochs': 10, 'train_cfg.val_interval': 10, 'param_scheduler.1.T_max': 10}
    students = {}
    for task, (_, _, distilled) in planned:
        # MMEngine has mixed precision for accelerators alone.
        for name, words in {task.name: [], **({} if quick else {f'{task.name}, AMP': ['--amp']})}.items():
            options = {**distilled.options, **({} if quick else length)}
            job = distilled._replace(work_dir=scratch / name.replace(', ', '_'), options=options)
            at = job.command().index('--resume')  # before which: what follows --cfg-options is its own
            students[name] = job.work_dir, [*job.command()[:at], *words, *job.command()[at:]]
    late = {}
    try:
        together([command for _, command in students.values()], left - (time.monotonic() - start))
    except subprocess.TimeoutExpired:
        late['failed'] = 'out of time: what the trainings have come to stands here'
    keys = ('metric', 'value', 'progress', 'seconds_per_step')
    found = {name: describe(work_dir) or {} for name, (work_dir, _) in students.items()}
    return dict(trainings={name: {key: run.get(key) for key in keys} for name, run in found.items()}, **late)


def together(commands, timeout):
    # The package may be where this runs, and installed nowhere.
    threads = str(max(os.cpu_count() // max(len(commands), 1), 1))
    env = {
        'OMP_NUM_THREADS': threads,
        **os.environ,
        'PYTHONPATH': os.pathsep.join([os.getcwd(), os.environ.get('PYTHONPATH', '')]),
    }
    end = time.monotonic() + timeout
    with ExitStack() as stack:
        # Files: whoever fills a pipe that nobody reads yet stands still.
        logs = [stack.enter_context(tempfile.TemporaryFile()) for _ in commands]
        running = [subprocess.Popen(c, stdout=log, stderr=log, env=env) for c, log in zip(commands, logs)]
        try:
            for command, process, log in zip(commands, running, logs):
                if process.wait(timeout=max(end - time.monotonic(), 0)):
                    log.seek(0)
                    raise subprocess.CalledProcessError(process.returncode, command, log.read())
        finally:  # none is left on the device
            for process in running:
                process.kill()


PARTS = dict(
    tests=tests,
    loss=benchmark('loss'),
    growth=benchmark('growth'),
    operators=benchmark('operators'),
    step=benchmark('step', '--variants'),
    trainings=trainings,
)

if __name__ == '__main__':
    main()
