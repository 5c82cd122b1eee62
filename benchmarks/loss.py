"""The loss alone, forward and backward: CanKD, the same written naively, and MMRazor's PKD."""

from contextlib import nullcontext

import psutil
import torch
from mmrazor.models.losses import PKDLoss

from benchmarks.measure import Clock, compare, finish, parse_arguments
from benchmarks.naive import NaiveCanKDLoss
from cankd_mm.models import CanKDLoss

SIZES = {
    'RetinaNet 800x1216': (256, [(100, 152), (50, 76), (25, 38), (13, 19)]),
    'Faster R-CNN 800x1344': (256, [(200, 336), (100, 168), (50, 84), (25, 42)]),
    'Cityscapes 512x1024, stride 8': (2048, [(64, 128)]),
}
BATCH = 2


def side(loss, shape, device, dtype=torch.float32):
    """A loss of features of a type, of half precision as under autocast."""
    loss = loss.to(device)
    x, t = torch.randn(2, *shape, device=device, dtype=dtype)
    x.requires_grad_()

    def run():
        loss.zero_grad()
        x.grad = None
        clock = Clock()
        with nullcontext() if dtype == torch.float32 else torch.autocast(device, dtype):
            value = loss(x, t)
        clock.phase('forward')
        value.backward()
        clock.phase('backward')
        return clock.phases

    return run


def main():
    arguments = parse_arguments(__doc__, repeats=5, half='features in bfloat16, under autocast')
    dtype = torch.bfloat16 if arguments.half else torch.float32
    memory = torch.cuda.mem_get_info()[0] if arguments.device == 'cuda' else psutil.virtual_memory().available
    results, cases = [], []
    for name, (channels, maps) in SIZES.items():
        if arguments.quick:
            name += ', its last map in small'
            channels, maps = channels // 8, [(height // 4, width // 4) for height, width in maps[-1:]]
        for height, width in maps:
            shape = (BATCH, channels, height, width)
            naive = NaiveCanKDLoss(channels)
            losses = dict(CanKD=CanKDLoss(channels), PKD=PKDLoss())
            if 3 * naive.matrix_bytes(shape) < memory:
                losses['CanKD, naive'] = naive
            cases.append({key: side(loss, shape, arguments.device, dtype) for key, loss in losses.items()})
            results.append(dict(model=name, shape=shape, naive_matrix_mb=naive.matrix_bytes(shape) / 2**20))
    for entry, sides in zip(results, compare(cases, 1 if arguments.quick else arguments.repeats)):
        entry['sides'] = sides
    finish(arguments, dict(benchmark='loss', dtype=str(dtype), results=results), table(results))


def table(results):
    lines = [
        '| map (N, C, H, W) | CanKD s | naive s | naive / CanKD | PKD s | CanKD MB | naive MB | PKD MB |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for entry in results:
        ours, pkd, naive = (entry['sides'].get(key) for key in ('CanKD', 'PKD', 'CanKD, naive'))
        seconds = ours['seconds']['total']
        cells = [str(tuple(entry['shape'])), f'{seconds:.3f}']
        if naive:
            cells += [f'{naive["seconds"]["total"]:.3f}', f'{naive["seconds"]["total"] / seconds:.1f}']
        else:
            cells += [f'does not fit: 3 x {entry["naive_matrix_mb"] / 1024:.1f} GB', '']
        cells += [f'{pkd["seconds"]["total"]:.3f}', f'{ours["peak_mb"]:.0f}']
        cells += [f'{naive["peak_mb"]:.0f}' if naive else '', f'{pkd["peak_mb"]:.0f}']
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


if __name__ == '__main__':
    main()
