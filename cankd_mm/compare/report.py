"""What a comparison found: mean and spread over the seeds, and paired differences with their confidence intervals."""

import math
import statistics
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from cankd_mm.compare.plan import ALONE

CONFIDENCE = 0.95

# What CanBlockMonitorHook logs of a block, by the end of its name.
_OF_BLOCKS = {'_weight': 'batch norm weight', '_ratio': 'what the block adds over its input'}


class Difference(NamedTuple):
    """The mean difference of two methods over the seeds that both have, and the half width of its interval."""

    mean: float
    margin: Optional[float]

    def __str__(self) -> str:
        return f'{self.mean:+.1f}' + ('' if self.margin is None else f' ± {self.margin:.1f}')


def paired_difference(values: Dict[int, float], others: Dict[int, float]) -> Optional[Difference]:
    """Compare two methods seed by seed, with Student's t interval at 95 %.

    Args:
        values (dict[int, float]): The first method's figures by seed.
        others (dict[int, float]): The second's.

    Returns:
        Difference | None: The first minus the second; None where they have no seed in common. With one common seed
        there is no interval.
    """
    differences = [values[seed] - others[seed] for seed in values if seed in others]
    return Difference(statistics.mean(differences), _margin(differences)) if differences else None


def _margin(values: Sequence[float]) -> Optional[float]:
    """Half the width of the mean's interval; None for a single value."""
    n = len(values)
    if n == 1:
        return None
    return stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * statistics.stdev(values) / math.sqrt(n)


def by_method(results: dict) -> Dict[str, List[dict]]:
    """Sort the trainings of a comparison by method.

    Args:
        results (dict): Of :func:`compare`.

    Returns:
        dict[str, list[dict]]: The student alone first, then the reference, then the others.
    """
    runs = sorted(results['runs'], key=lambda run: run['seed'])
    groups = {name: [run for run in runs if run['method'] == name] for name in results['methods']}
    return {name: group for name, group in groups.items() if group}


def results_table(results: dict) -> str:
    """Lay out a comparison.

    Args:
        results (dict): Of :func:`compare`.

    Returns:
        str: A table in Markdown, one row per method.
    """
    groups = by_method(results)
    if not groups:
        return 'No training has finished yet.'
    values = {name: {run['seed']: run['value'] for run in runs} for name, runs in groups.items()}
    reference = results['reference']
    lines = [
        f'| method | {results["metric"]} per seed | mean | std | to the student alone | to {reference} | '
        'distill / task | s/step | peak MB |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    for name, runs in groups.items():
        figures = list(values[name].values())
        cells = (
            name,
            ' '.join(f'{value:.1f}' for value in figures),
            f'{statistics.mean(figures):.1f}',
            f'{statistics.stdev(figures):.1f}' if len(figures) > 1 else '',
            '' if name == ALONE else paired_difference(values[name], values.get(ALONE, {})) or '',
            '' if name in (ALONE, reference) else paired_difference(values[name], values.get(reference, {})) or '',
            _median(runs, 'distill_to_task', '.2f'),
            _median(runs, 'seconds_per_step', '.2f'),
            _median(runs, 'peak_mb', '.0f'),
        )
        lines.append(f'| {" | ".join(map(str, cells))} |')
    return '\n'.join(lines)


def blocks_table(results: dict) -> str:
    """Lay out what the Can blocks of a comparison have come to at the end of the training.

    Args:
        results (dict): Of :func:`compare`.

    Returns:
        str: A table in Markdown, one row per method whose loss is a ``CanKDLoss``, with means over the seeds; empty
        where none has a block.
    """
    lines = [
        f'| method | {results["metric"]} | distillation loss | '
        f'{" | ".join(f"{title}, per level" for title in _OF_BLOCKS.values())} |',
        '|---|---|---|---|---|',
    ]
    with_blocks = False
    for name, runs in by_method(results).items():
        # A training too short to be logged has no figures of these.
        runs = [run for run in runs if run.get('loss') == 'CanKDLoss' and run['distill_loss'] is not None]
        if not runs:
            continue
        cells = [name, f'{_mean(runs, "value"):.1f}', f'{_mean(runs, "distill_loss"):.2f}']
        for quantity in _OF_BLOCKS:
            levels = [key for key in runs[0]['blocks'] if key.endswith(quantity)]
            with_blocks |= bool(levels)
            curves = [[run['blocks'][key] for run in runs if key in run['blocks']] for key in levels]
            ends = [statistics.mean(curve[-1][1] for curve in of_level) for of_level in curves]
            cells.append(' '.join(f'{end:.2f}' for end in ends))
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines) if with_blocks else ''


def blocks_picture(results: dict, path: Path) -> None:
    """Draw how the Can blocks of every method leave the identity over the training: a line per seed, levels averaged.

    Args:
        results (dict): Of :func:`compare`.
        path (Path): The PNG file to write.
    """
    figure = Figure(figsize=(10, 3.8), layout='constrained')
    axes = figure.subplots(1, len(_OF_BLOCKS))
    groups = {name: [run for run in runs if run.get('blocks')] for name, runs in by_method(results).items()}
    groups = {name: runs for name, runs in groups.items() if runs}
    for axis, (quantity, title) in zip(axes, _OF_BLOCKS.items()):
        for i, (name, runs) in enumerate(groups.items()):
            for run in runs:
                levels = [curve for key, curve in run['blocks'].items() if key.endswith(quantity)]
                iterations, values = np.mean(levels, 0).T
                axis.plot(iterations, values, color=f'C{i}', lw=1, label=name if run is runs[0] else None)
        axis.set(title=title, xlabel='iteration', yscale='log')
        axis.grid(alpha=0.3)
    axes[-1].legend(fontsize=7, loc='center left', bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=110)


def results_picture(results: dict, path: Path) -> None:
    """Draw a comparison: every seed as a dot, the mean and its 95 % interval.

    Args:
        results (dict): Of :func:`compare`.
        path (Path): The PNG file to write.
    """
    groups = by_method(results)
    figure = Figure(figsize=(8, 1.2 + 0.36 * len(groups)), layout='constrained')
    axis = figure.subplots()
    for y, (name, runs) in enumerate(groups.items()):
        figures = [run['value'] for run in runs]
        colour = {ALONE: 'tab:gray', results['reference']: 'tab:red'}.get(name, 'tab:blue')
        axis.plot(figures, [y] * len(figures), 'o', color=colour, alpha=0.35, markeredgewidth=0)
        mean = statistics.mean(figures)
        axis.errorbar(mean, y, xerr=_margin(figures), fmt='|', color=colour, markersize=14, capsize=3)
        axis.annotate(f'{mean:.1f}', (mean, y), xytext=(0, 8), textcoords='offset points', ha='center', fontsize=8)
    axis.set_yticks(range(len(groups)), groups)
    axis.set_ylim(len(groups) - 0.4, -0.7)
    axis.set_xlabel(f'{results["metric"]}: every seed, the mean and its {100 * CONFIDENCE:.0f} % interval')
    axis.grid(axis='x', alpha=0.3)
    figure.savefig(path, dpi=110)


def tables(results: dict) -> str:
    """Lay out everything that is to be said of a comparison in words and figures.

    Args:
        results (dict): Of :func:`compare`.

    Returns:
        str: The table of :func:`results_table`, and that of :func:`blocks_table` where there is one.
    """
    return '\n\n'.join(filter(None, [results_table(results), blocks_table(results)]))


def write_report(results: dict, folder: Path, stem: str = 'results') -> str:
    """Write tables and pictures of a comparison.

    Args:
        results (dict): Of :func:`compare`.
        folder (Path): Takes the files: ``<stem>.md``, ``<stem>.png``, and ``<stem>_blocks.png`` where a method has Can
            blocks.
        stem (str): What they are called. Defaults to 'results'.

    Returns:
        str: The tables, as :func:`tables` gives them.
    """
    text = tables(results)
    (folder / f'{stem}.md').write_text(text + '\n')
    if results['runs']:
        results_picture(results, folder / f'{stem}.png')
    if any(run.get('blocks') for run in results['runs']):
        blocks_picture(results, folder / f'{stem}_blocks.png')
    return text


def _mean(runs: List[dict], key: str) -> float:
    return statistics.mean(run[key] for run in runs)


def _median(runs: List[dict], key: str, form: str) -> str:
    known = [run[key] for run in runs if run[key] is not None]
    return format(statistics.median(known), form) if known else ''
