"""The parts of `benchmarks.gpu`, each a process of its own: what a part has found so far is in its file at any time."""

import argparse
import math
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.runner import save_checkpoint
from mmrazor.models.losses import PKDLoss
from torch.autograd import DeviceType
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import write
from benchmarks.loss import BATCH, SIZES, side
from benchmarks.measure import Clock, compare
from benchmarks.step import NONE, OURS, PKD, build, pairs
from benchmarks.step import side as step_side
from cankd_mm.apis import export_student
from cankd_mm.config.options import format_options
from cankd_mm.config.paths import config_file
from cankd_mm.config.read import load_model_cfg
from cankd_mm.demo.dataset import prepare
from cankd_mm.demo.run import TASKS, plan
from cankd_mm.models import CanKDLoss
from cankd_mm.models.builders import build_model
from cankd_mm.stack.machine import describe_machine
from cankd_mm.work_dir import load_resumable, read_scalars, seconds_per_step

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
HALF = torch.float16 if DEVICE == 'cuda' else torch.bfloat16  # of which processors have fast kernels
SETTINGS = {
    'float32': (torch.float32, False),
    'TF32': (torch.float32, True),
    'AMP': (HALF, False),
    'AMP, TF32': (HALF, True),
}
MAPS = [(BATCH, channels, *size) for channels, sizes in SIZES.values() for size in sizes]
BOUNDED = (BATCH, 256, 200, 336)  # the map where bytes and multiplications count, and no launch


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('part', choices=PARTS)
    parser.add_argument('--dry-run', action='store_true', help='on the processor, in small')
    parser.add_argument('--out', type=Path, required=True, help='JSON file for what was found')
    arguments = parser.parse_args()
    for found in PARTS[arguments.part](arguments.dry_run):
        write(found, arguments.out)


def device(dry_run):
    """What machine it is, and what its device moves and multiplies in a second."""
    if DEVICE == 'cpu' and not dry_run:
        yield dict(no_gpu=f'torch {torch.__version__} sees no GPU: run this where it does, or with --dry-run.')
        return
    found = dict(machine=describe_machine(), rates={})
    yield found
    side_length, repeats = (128, 1) if dry_run else (8192, 10)
    source = torch.randn(4 * side_length**2, device=DEVICE)
    target = torch.empty_like(source)
    found['rates']['bytes'] = 2 * source.nbytes / seconds(lambda: target.copy_(source), repeats)
    for name, (dtype, tf32) in SETTINGS.items():
        if name != 'AMP, TF32':  # half precision knows no TF32
            switch_tf32(tf32)
            a, b = torch.randn(2, side_length, side_length, device=DEVICE).to(dtype)
            found['rates'][name] = 2 * side_length**3 / seconds(lambda: torch.mm(a, b), repeats)  # noqa: B023
        yield found


def tests(dry_run):
    words = ['-m', 'pytest', '-vv', '-m', 'gpu', 'tests/test_gpu.py', *(['-k', 'memory'] if dry_run else [])]
    command = [sys.executable, '-W', 'ignore', *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            print(line, end='', flush=True)  # noqa: T201
            if line.strip():
                yield dict(said=line.strip('= \n'))  # the test that was the last to end, and then all
    if process.returncode:
        sys.exit(process.returncode)


def loss(dry_run):
    """The loss by the device's clock in every precision, then its kernels, and the operations that it needs."""
    maps, repeats = ([(1, 16, 20, 24), (1, 32, 8, 12)], 1) if dry_run else (MAPS, 30)
    found, every = dict(results=[]), []
    for name, (dtype, tf32) in SETTINGS.items():
        switch_tf32(tf32)
        cases = [
            {
                key: side(part, shape, DEVICE, dtype)
                for key, part in (('CanKD', CanKDLoss(shape[1])), ('PKD', PKDLoss()))
            }
            for shape in maps
        ]
        for shape, measured in zip(maps, compare(cases, repeats)):
            found['results'].append(dict(shape=shape, setting=name, sides=measured))
        every += cases
        yield found
    for entry, sides in zip(found['results'], every):
        entry['kernels'] = {key: kernels(one) for key, one in sides.items()}
        if entry['shape'] == (maps[0] if dry_run else BOUNDED):
            with FlopCounterMode(display=False) as counter:
                sides['CanKD']()
            # Both maps are read forward and backward, and a gradient is written.
            size = torch.finfo(SETTINGS[entry['setting']][0]).bits // 8
            entry.update(operations=counter.get_total_flops(), bytes=5 * math.prod(entry['shape']) * size)
    yield found


def step(dry_run):
    """Steps of two and of 16 images: the larger batch last, which takes longest."""
    found, kinds = dict(results=[]), (NONE, PKD, OURS)
    for name, pair in pairs(dry_run).items():
        models = {kind: build(pair, kind) for kind in kinds}
        for images in (2, 3 if dry_run else 16):
            for amp in (False, True):
                sides = {kind: step_side(models[kind], pair, pair['size'], DEVICE, amp, images) for kind in kinds}
                (measured,) = compare([sides], 1 if dry_run else 5, warm=not dry_run)
                found['results'].append(dict(pair=name, images=images, amp=amp, sides=measured))
                yield found


def training(dry_run):
    """MMDetection's own tool trains with CanKD for an epoch, resumes for another, and the student is exported."""
    iterations, batch = (2, 2) if dry_run else (100, 4)  # of an epoch
    tool = Path(find_spec('mmdet').origin).with_name('.mim') / 'tools' / 'train.py'
    # MMEngine has mixed precision for accelerators alone.
    precision = ['--amp'] if DEVICE == 'cuda' else []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(root / 'data', num_train=iterations * batch, num_small=iterations * batch, num_val=4)
        teacher, _, pair = plan(TASKS[0], root / 'runs', root / 'data', [0])
        checkpoint = pair.options['model.teacher_ckpt']
        weights = build_model(load_model_cfg(teacher.config), 'teacher').state_dict()
        save_checkpoint(dict(state_dict=weights), checkpoint)
        options = {**pair.options, 'train_dataloader.batch_size': batch, 'train_cfg.val_interval': 2}
        options.update({'param_scheduler.1.T_max': 2, 'default_hooks.logger.interval': min(iterations, 10)})
        config, run = str(Path(config_file(pair.config)).resolve()), pair.work_dir
        for epochs in (1, 2):
            words = [sys.executable, '-W', 'ignore', tool, config, '--work-dir', run, *precision]
            words += ['--resume'] if epochs > 1 else []
            words += ['--cfg-options', *format_options({**options, 'train_cfg.max_epochs': epochs})]
            subprocess.run([str(word) for word in words], check=True)
            state, scalars = load_resumable(run / f'epoch_{epochs}.pth'), read_scalars(run)
            losses = [entry['loss'] for entry in scalars if 'loss' in entry]
            found = dict(
                iterations=state['meta']['iter'],
                loss=losses[-1],
                seconds_per_step=seconds_per_step(scalars),
                amp='loss_scaler' in state['optimizer'],
            )
            yield found
        found['exported'] = Path(export_student(config, str(run / 'epoch_2.pth'), cfg_options=options)[1]).name
        yield found
    if found['iterations'] != 2 * iterations or not all(map(math.isfinite, losses)):
        sys.exit('The training did not go on, or not with finite losses.')


def switch_tf32(on):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on


def seconds(function, repeats):
    """Seconds of one call, the best of three rounds after one to warm up."""

    def round_of():
        clock = Clock()
        for _ in range(repeats):
            function()
        clock.phase('total')
        return clock.phases['total'] / repeats

    round_of()
    return min(round_of() for _ in range(3))


def kernels(function):
    """How many kernels a run launches; on a processor, how many operators it calls."""
    kind = DeviceType.CUDA if DEVICE == 'cuda' else DeviceType.CPU
    with profile() as profiled:  # of all there is
        function()
    names = [event.name for event in profiled.events() if event.device_type == kind]
    return sum(not name.startswith(('Memcpy', 'Memset')) for name in names)


PARTS = dict(device=device, tests=tests, loss=loss, step=step, training=training)

if __name__ == '__main__':
    main()
