"""Draw what ``benchmarks.growth`` measured: time and memory over the pixels, both axes logarithmic."""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure

STYLES = {
    'dot_product': ('tab:blue', '-', 'o'),
    'concatenation': ('tab:green', '-', 's'),
    'embedded_gaussian': ('tab:orange', '-', '^'),
    'gaussian': ('tab:purple', '-', 'v'),
    'dot_product, naive': ('tab:red', '--', 'x'),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('results', type=Path, help='JSON file of benchmarks.growth')
    parser.add_argument('picture', type=Path, help='PNG file to write')
    arguments = parser.parse_args()
    result = json.loads(arguments.results.read_text())
    figure = Figure(figsize=(9, 3.6), layout='constrained')
    time_axis, memory_axis = figure.subplots(1, 2)
    for name, (colour, line, marker) in STYLES.items():
        points = result['curves'][name]['points']
        pixels = [point['pixels'] for point in points]
        style = dict(color=colour, linestyle=line, marker=marker)
        time_axis.plot(pixels, [p['seconds']['total'] for p in points], label=name.replace('_', ' '), **style)
        memory_axis.plot(pixels, [p['peak_mb'] for p in points], **style)
    shape = f'({result["batch"]}, {result["channels"]}, H, W)'
    for axis, title in (
        (time_axis, 'seconds, forward and backward'),
        (memory_axis, 'peak memory beyond the features, MB'),
    ):
        axis.set(xscale='log', yscale='log', xlabel='pixels H x W', title=title)
        axis.set_xticks(pixels, [str(p) for p in pixels])
        axis.minorticks_off()
        axis.grid(True, which='both', alpha=0.25)
    machine = f'{result["machine"]["processor"]}, {result["machine"]["threads"]} threads'
    figure.suptitle(f'CanKDLoss on features {shape}, {machine if result["device"] == "cpu" else result["device"]}')
    time_axis.legend(fontsize=8)
    figure.savefig(arguments.picture, dpi=110)


if __name__ == '__main__':
    main()
