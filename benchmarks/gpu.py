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
from pathlib import Path

from cankd_mm.machine import describe_machine

LIMIT = 540  # seconds, on a GPU


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/gpu.json'), help='JSON file for the result')
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=DEFAULT, help='which parts')
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
    """The demo's pairs: the teachers, and students with CanKD with and without mixed precision, side by side."""
    from cankd_mm.demo.dataset import prepare
    from cankd_mm.demo.plan import NUM_SMALL, NUM_TRAIN, NUM_VAL, TASKS, plan

    data = Path('data/digits')
    prepare(data, NUM_TRAIN, NUM_SMALL, NUM_VAL)
    planned = {task.name: plan(task, scratch, data, [0], quick=quick) for task in TASKS}
    found = {}
    together([jobs[0].command() for jobs in planned.values()], left)
    for amp in (False, *(() if quick else (True,))):  # which MMEngine has for accelerators alone
        jobs = {name: jobs[2] for name, jobs in planned.items()}
        folders = {name: job.work_dir.with_name('cankd_amp' if amp else 'cankd') for name, job in jobs.items()}
        jobs = {name: job._replace(work_dir=folders[name]) for name, job in jobs.items()}
        # Before --resume: what follows --cfg-options is its own.
        at, words = jobs['detection'].command().index('--resume'), ['--amp'] if amp else []
        together([[*job.command()[:at], *words, *job.command()[at:]] for job in jobs.values()], left)
        for task in TASKS:
            scalars = [json.loads(line) for line in log(folders[task.name]).splitlines()]
            steps = [entry for entry in scalars if 'loss' in entry]
            found[f'{task.name}{", AMP" if amp else ""}'] = dict(
                value=next((entry[task.metric] for entry in scalars if task.metric in entry), None),
                last_loss=steps[-1]['loss'],
                seconds_per_step=sorted(entry['time'] for entry in steps)[len(steps) // 2],
            )
    return dict(trainings=found)


def together(commands, timeout):
    # The package may be where this runs, and installed nowhere.
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([os.getcwd(), os.environ.get('PYTHONPATH', '')])}
    running = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env) for c in commands]
    try:
        for command, process in zip(commands, running):
            output, _ = process.communicate(timeout=timeout)
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, command, output)
    finally:  # none is left on the device
        for process in running:
            process.kill()


def log(work_dir):
    return ''.join(path.read_text() for path in sorted(work_dir.glob('*/vis_data/scalars.json')))


PARTS = dict(
    tests=tests,
    loss=benchmark('loss'),
    growth=benchmark('growth'),
    operators=benchmark('operators'),
    step=benchmark('step', '--variants'),
    trainings=trainings,
    compiled=benchmark('step', '--compiled'),
)
DEFAULT = [part for part in PARTS if part != 'compiled']  # which takes minutes by itself

if __name__ == '__main__':
    main()
