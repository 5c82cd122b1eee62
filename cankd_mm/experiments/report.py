"""What an experiment found: mean and spread over the seeds, and paired differences with their confidence intervals."""

import math
from pathlib import Path
from typing import Dict

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

ALONE = 'student alone'
CONFIDENCE = 0.95

# Of what the table has the median over the seeds: its title, its factor and its format.
_MEDIANS = {
    'distill_to_task': ('distill / task', 1, '{:.2f}'),
    'parameters': ('parameters', 1e-6, '{:.2f} M'),
    'seconds_per_step': ('s/step', 1, '{:.2f}'),
    'peak_mb': ('peak MB', 1, '{:.0f}'),
}

# What CanBlockMonitorHook logs of a block, by the end of its name.
_OF_BLOCKS = {'_weight': 'batch norm weight', '_ratio': 'what the block adds over its input'}


def markdown(table: pd.DataFrame, align: bool = True) -> str:
    """Lay out a table.

    Args:
        table (DataFrame): Columns of words, or of numbers as they are to stand there; empty ones are left out.
        align (bool): Whether columns are as wide as their widest cell, to be read as it is. Defaults to True.

    Returns:
        str: The table in Markdown.
    """
    table = table.fillna('').astype(str)
    words = dict(index=False, tablefmt='github', disable_numparse=True)
    return table.loc[:, (table != '').any()].to_markdown(**words, **({} if align else dict(stralign=None)))


def paired_difference(values: pd.Series, others: pd.Series) -> str:
    """Compare two methods seed by seed, with Student's t interval at 95 %.

    Args:
        values (Series): The first method's figures by seed.
        others (Series): The second's.

    Returns:
        str: The mean of the first minus the second and the half width of its interval, over the seeds that both have;
        without an interval for one seed, and empty for none.
    """
    differences = (values - others).dropna()
    if differences.empty:
        return ''
    return f'{differences.mean():+.1f}' + (f' ± {_margin(differences):.1f}' if len(differences) > 1 else '')


def _margin(values: pd.Series) -> float:
    """Half the width of the mean's interval, no number for a single value."""
    if len(values) < 2:
        return math.nan
    low, high = stats.ttest_1samp(values, 0).confidence_interval(CONFIDENCE)
    return (high - low) / 2


def by_method(results: dict) -> Dict[str, pd.DataFrame]:
    """Sort the trainings of an experiment by method.

    Args:
        results (dict): Of :func:`run_experiment`.

    Returns:
        dict[str, DataFrame]: Each method's trainings by seed, in the order of the methods.
    """
    if not results['runs']:
        return {}
    runs = pd.DataFrame(results['runs']).set_index('seed').sort_index()
    groups = {name: runs[runs.method == name] for name in results['methods']}
    return {name: group for name, group in groups.items() if len(group)}


def results_table(results: dict) -> str:
    """Lay out an experiment.

    Args:
        results (dict): Of :func:`run_experiment`.

    Returns:
        str: A table in Markdown, one row per method.
    """
    groups, reference = by_method(results), results['reference']
    values = {name: group['value'] for name, group in groups.items()}
    nothing = pd.Series(dtype=float)
    rows = []
    for name, group in groups.items():
        figures = values[name]
        row = {
            'method': name,
            f'{results["metric"]} per seed': ' '.join(f'{value:.1f}' for value in figures),
            'mean': f'{figures.mean():.1f}',
            'std': f'{figures.std():.1f}' if len(figures) > 1 else '',
            f'to the {ALONE}': '' if name == ALONE else paired_difference(figures, values.get(ALONE, nothing)),
            f'to {reference}': ''
            if name in (ALONE, reference)
            else paired_difference(figures, values.get(reference, nothing)),
        }
        for key, (title, factor, form) in _MEDIANS.items():
            known = group[key].dropna() if key in group else nothing
            row[title] = '' if known.empty else form.format(factor * known.median())
        rows.append(row)
    return markdown(pd.DataFrame(rows)) if rows else 'No training has finished yet.'


def blocks_table(results: dict) -> str:
    """Lay out what the Can blocks of an experiment have come to at the end of the training.

    Args:
        results (dict): Of :func:`run_experiment`.

    Returns:
        str: A table in Markdown, one row per method whose loss is a ``CanKDLoss``, with means over the seeds; empty
        where none has a block.
    """
    rows = []
    for name, group in by_method(results).items():
        # A training too short to be logged has no figures of these.
        group = group[(group['loss'] == 'CanKDLoss') & group['distill_loss'].notna()] if 'loss' in group else group[:0]
        if group.empty:
            continue
        # The last value of every curve, by block and quantity.
        ends = pd.DataFrame([{key: curve[-1][1] for key, curve in run.items()} for run in group['blocks']]).mean()
        rows.append(
            {
                'method': name,
                results['metric']: f'{group["value"].mean():.1f}',
                'distillation loss': f'{group["distill_loss"].mean():.2f}',
                **{
                    f'{title}, per level': ' '.join(f'{end:.2f}' for key, end in ends.items() if key.endswith(quantity))
                    for quantity, title in _OF_BLOCKS.items()
                },
            }
        )
    return markdown(pd.DataFrame(rows)) if any(any(list(row.values())[3:]) for row in rows) else ''


def blocks_picture(results: dict, path: Path) -> None:
    """Draw how the Can blocks of every method leave the identity over the training: a line per seed, levels averaged.

    Args:
        results (dict): Of :func:`run_experiment`.
        path (Path): The PNG file to write.
    """
    figure = Figure(figsize=(10, 3.8), layout='constrained')
    axes = figure.subplots(1, len(_OF_BLOCKS))
    groups = {name: [run for run in group['blocks'] if run] for name, group in by_method(results).items()}
    groups = {name: runs for name, runs in groups.items() if runs}
    for axis, (quantity, title) in zip(axes, _OF_BLOCKS.items()):
        for i, (name, runs) in enumerate(groups.items()):
            for run in runs:
                levels = [curve for key, curve in run.items() if key.endswith(quantity)]
                iterations, values = np.mean(levels, 0).T
                axis.plot(iterations, values, color=f'C{i}', lw=1, label=name if run is runs[0] else None)
        axis.set(title=title, xlabel='iteration', yscale='log')
        axis.grid(alpha=0.3)
    axes[-1].legend(fontsize=7, loc='center left', bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=110)


def results_picture(results: dict, path: Path) -> None:
    """Draw an experiment: every seed as a dot, the mean and its 95 % interval.

    Args:
        results (dict): Of :func:`run_experiment`.
        path (Path): The PNG file to write.
    """
    groups = by_method(results)
    figure = Figure(figsize=(8, 1.2 + 0.36 * len(groups)), layout='constrained')
    axis = figure.subplots()
    for y, (name, group) in enumerate(groups.items()):
        figures = group['value']
        colour = {ALONE: 'tab:gray', results['reference']: 'tab:red'}.get(name, 'tab:blue')
        axis.plot(figures, [y] * len(figures), 'o', color=colour, alpha=0.35, markeredgewidth=0)
        mean = figures.mean()
        axis.errorbar(mean, y, xerr=_margin(figures), fmt='|', color=colour, markersize=14, capsize=3)
        axis.annotate(f'{mean:.1f}', (mean, y), xytext=(0, 8), textcoords='offset points', ha='center', fontsize=8)
    axis.set_yticks(range(len(groups)), groups)
    axis.set_ylim(len(groups) - 0.4, -0.7)
    axis.set_xlabel(f'{results["metric"]}: every seed, the mean and its {100 * CONFIDENCE:.0f} % interval')
    axis.grid(axis='x', alpha=0.3)
    figure.savefig(path, dpi=110)


def tables(results: dict) -> str:
    """Lay out everything that is to be said of an experiment in words and figures.

    Args:
        results (dict): Of :func:`run_experiment`.

    Returns:
        str: The table of :func:`results_table`, and that of :func:`blocks_table` where there is one.
    """
    return '\n\n'.join(filter(None, [results_table(results), blocks_table(results)]))


def write_report(results: dict, folder: Path, stem: str = 'results') -> str:
    """Write tables and pictures of an experiment.

    Args:
        results (dict): Of :func:`run_experiment`.
        folder (Path): Takes the files: ``<stem>.md``, ``<stem>.png``, and where a method has Can blocks,
            ``<stem>_blocks.md`` and ``<stem>_blocks.png``.
        stem (str): What they are called. Defaults to 'results'.

    Returns:
        str: The tables, as :func:`tables` gives them.
    """
    (folder / f'{stem}.md').write_text(results_table(results) + '\n')
    if results['runs']:
        results_picture(results, folder / f'{stem}.png')
    of_blocks = blocks_table(results)
    if of_blocks:
        (folder / f'{stem}_blocks.md').write_text(of_blocks + '\n')
        blocks_picture(results, folder / f'{stem}_blocks.png')
    return tables(results)
