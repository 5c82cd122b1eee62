"""Everything that only a GPU can show, in one run of at most 8 minutes that ends also where a part hangs.

Every part of `benchmarks.gpu_parts` is a process with a limit of its own. The result is whole after each of them.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

# Seconds of each part, the most important first. Two runs fit into a quarter of an hour.
LIMITS = dict(device=60, tests=80, loss=85, step=105, training=90)
GRACE = 5  # seconds that the end of a killed part is waited for
OF_PKD, OF_NEED = 1.3, 5  # what the loss may take at most, of PKD's time and of the time that is needed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    out = Path(os.environ.get('OUT') or 'work_dirs', 'gpu.json')
    parser.add_argument('--out', type=Path, default=out, help='JSON file for the result, gpu.json of $OUT or work_dirs')
    parser.add_argument('--dry-run', action='store_true', help='every part on the processor, in small')
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('ended'))  # by way of what ends the part
    options = ['--dry-run'] if arguments.dry_run else []
    commands = {name: ['-m', 'benchmarks.gpu_parts', name, *options] for name in LIMITS}
    # Processors are slow, and several trainings may share one.
    limits = {name: 10 * limit for name, limit in LIMITS.items()} if arguments.dry_run else LIMITS
    result = run(commands, limits, arguments.out)
    text = table(result)
    words = 'A dry run shows that every part runs; its times and bounds say nothing.\n' if arguments.dry_run else ''
    print(f'\n{text}\n\n{words}{arguments.out}')  # noqa: T201
    sys.exit(any('failed' in part for part in result.values()))


def run(commands, limits, out):
    """Run the parts in turn, write what they found after each, and return it.

    Args:
        commands (dict[str, list[str]]): The arguments of Python for each part, to which ``--out FILE.json`` is added:
            the part keeps that file whole with what it has found so far.
        limits (dict[str, float]): Seconds after which a part is ended, with all that it has started.
        out (Path): JSON file for the result.

    Returns:
        dict[str, dict]: What each part has found, its ``seconds``, and of one that did not come to its end why, as
        ``failed``, and the end of its ``log``.
    """
    result = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, words in commands.items():
            print(f'{name} ...', flush=True)  # noqa: T201
            found, log, start = Path(scratch, f'{name}.json'), Path(scratch, f'{name}.log'), time.monotonic()
            failed = call([*words, '--out', str(found)], limits[name], log)
            part = json.loads(found.read_text()) if found.exists() else {}
            part['seconds'] = round(time.monotonic() - start, 1)
            if failed:
                part.update(failed=failed, log=log.read_text(errors='replace')[-3000:])
            if part.get('no_gpu'):
                sys.exit(part['no_gpu'])
            result[name] = part
            write(result, out)
            print(table(result, name), flush=True)  # noqa: T201
    return result


def call(words, limit, log):
    """Run Python for so many seconds at most, and return why it failed, or None."""
    # The package may be where this runs, and installed nowhere.
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get('PYTHONPATH')]))
    with open(log, 'wb') as stream:  # a pipe would stay open as long as anything that the part has started
        process = subprocess.Popen(
            [sys.executable, '-W', 'ignore', *words],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, 'PYTHONPATH': path, 'TMPDIR': str(log.parent)},  # which is removed in any case
            start_new_session=True,
        )
    try:
        status = process.wait(limit)
        return f'ended with status {status}' if status else None
    except subprocess.TimeoutExpired:
        return f'ended at its limit of {limit:g} s'
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # none is left on the device
            process.wait(GRACE)  # one that waits for a broken driver does not end
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass


def write(result, path):
    """Write JSON, so that the file is whole at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.part')
    part.write_text(json.dumps(result, indent=2) + '\n')
    part.replace(path)


def table(result, *names):
    """One row for each figure of these parts, or of all, with what bounds it and whether it is within."""
    rows = []
    for name in names or result:
        part = result[name]
        rows += [[name, *row] for row in ROWS.get(name, lambda *_: [])(part, result)]
        rows.append([name, 'all of it', f'{part["seconds"]} s', 'its end', part.get('failed', 'yes')])
    return tabulate(rows, ['part', 'what', 'measured', 'bound', 'within'], tablefmt='pipe', disable_numparse=True)


def of_device(part, result):
    for name, rate in part.get('rates', {}).items():
        size, unit = (1e9, 'GB/s') if name == 'bytes' else (1e12, 'TFLOP/s')
        yield name, f'{rate / size:.3g} {unit}', '', ''


def of_tests(part, result):
    if 'said' in part:
        yield 'pytest -m gpu', part['said'], '', ''


def of_loss(part, result):
    rates = result.get('device', {}).get('rates', {})
    for entry in part.get('results', []):
        what, setting = tuple(entry['shape']), entry['setting']
        ours, pkd = (entry['sides'][side]['seconds']['total'] * 1e3 for side in ('CanKD', 'PKD'))
        kernels = '{CanKD} kernels, PKD {PKD}; '.format(**entry['kernels']) if 'kernels' in entry else ''
        measured = f'{ours:.2f} ms, {kernels}{ours / pkd:.2f} of PKD'
        yield f'{what}, {setting}', measured, f'{OF_PKD} of {pkd:.2f} ms', within(ours <= OF_PKD * pkd)
        setting = 'AMP' if setting.startswith('AMP') else setting  # half precision knows no TF32
        if 'operations' in entry and setting in rates:
            need = 1e3 * (entry['bytes'] / rates['bytes'] + entry['operations'] / rates[setting])
            measured = f'{ours:.2f} ms, {ours / need:.1f} of the need'
            yield f'{what}, {entry["setting"]}', measured, f'{OF_NEED} of {need:.2f} ms', within(ours <= OF_NEED * need)


def of_step(part, result):
    for entry in part.get('results', []):
        what = f'{entry["pair"]}, batch {entry["images"]}{", AMP" if entry["amp"] else ""}'
        times = {side: found['seconds']['total'] for side, found in entry['sides'].items()}
        yield what, ', '.join(f'{side} {1e3 * seconds:.0f} ms' for side, seconds in times.items()), '', ''


def of_training(part, result):
    keys = ('iterations', 'loss', 'seconds_per_step', 'amp', 'exported')
    if 'iterations' in part:
        yield 'tools/train.py', ', '.join(f'{key} {part[key]}' for key in keys if key in part), '', ''


def within(holds):
    return 'yes' if holds else 'no'


ROWS = dict(device=of_device, tests=of_tests, loss=of_loss, step=of_step, training=of_training)

if __name__ == '__main__':
    main()
