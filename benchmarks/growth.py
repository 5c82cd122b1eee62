"""How time and memory of the loss grow with the pixels, for each affinity and for the naive form."""

import numpy as np
import psutil
import torch

from benchmarks.loss import side
from benchmarks.measure import compare, finish, parse_arguments
from benchmarks.naive import NaiveCanKDLoss
from cankd_mm.models import CanKDLoss
from cankd_mm.models.layers.can_block import MODES

# 1, 2, 4 and 8 times the pixels of the smallest.
SIZES = [(50, 76), (100, 76), (100, 152), (200, 152)]
BATCH, CHANNELS = 2, 256


def main():
    arguments = parse_arguments(__doc__, repeats=3)
    sizes = [(h // 5, w // 4) for h, w in SIZES] if arguments.quick else SIZES
    memory = torch.cuda.mem_get_info()[0] if arguments.device == 'cuda' else psutil.virtual_memory().available
    cases = []
    for height, width in sizes:
        shape = (BATCH, CHANNELS, height, width)
        losses = {mode: CanKDLoss(CHANNELS, mode=mode) for mode in MODES}
        naive = NaiveCanKDLoss(CHANNELS)
        if 3 * naive.matrix_bytes(shape) < memory:
            losses['dot_product, naive'] = naive
        cases.append({name: side(loss, shape, arguments.device) for name, loss in losses.items()})
    results = {}
    # Exponents are of the arithmetic: page faults of new blocks set in at one size and would bend the curves.
    measured = compare(cases, 1 if arguments.quick else arguments.repeats, keep_memory=True)
    for (height, width), sides in zip(sizes, measured):
        for name, point in sides.items():
            results.setdefault(name, []).append(dict(pixels=height * width, **point))
    curves = {name: dict(points=points, exponent=exponents(points)) for name, points in results.items()}
    finish(arguments, dict(benchmark='growth', batch=BATCH, channels=CHANNELS, curves=curves), table(curves))


def exponents(points):
    """Slopes of time and memory over the pixels, both as logarithms."""
    pixels = np.log([point['pixels'] for point in points])
    seconds = np.log([point['seconds']['total'] for point in points])
    memory = np.log([max(point['peak_mb'], 1e-3) for point in points])
    return dict(time=round(np.polyfit(pixels, seconds, 1)[0], 3), memory=round(np.polyfit(pixels, memory, 1)[0], 3))


def table(curves):
    sizes = [point['pixels'] for point in next(iter(curves.values()))['points']]
    header = ' | '.join(f'{size} pixels' for size in sizes)
    lines = [f'| affinity | {header} | exponent, time | exponent, memory |', '|---' * (len(sizes) + 3) + '|']
    for name, curve in curves.items():
        cells = [f'{p["seconds"]["total"]:.2f} s, {p["peak_mb"]:.0f} MB' for p in curve['points']]
        cells += ['does not fit'] * (len(sizes) - len(cells))
        exponent = curve['exponent']
        lines.append(f'| {name} | {" | ".join(cells)} | {exponent["time"]:.2f} | {exponent["memory"]:.2f} |')
    return '\n'.join(lines)


if __name__ == '__main__':
    main()
