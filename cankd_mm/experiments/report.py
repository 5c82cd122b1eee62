"""What an experiment found: mean and spread over the seeds, and paired differences with their confidence intervals."""

import math
from pathlib import Path
from typing import Dict, Optional

import numpy as np
import pandas as pd
from mmengine.fileio import load

from cankd_mm.errors import SetupError, reason_of

ALONE = 'student alone'
LONGER = f'{ALONE}, for as much time'

_CONFIDENCE = 0.95
_MOST_SEEDS = 100  # beyond which a number of seeds is no plan
# Columns that show a median over the seeds: title, factor and format.
_MEDIANS = {
    'distill_to_task': ('distill / task', 1, '{:.2f}'),
    'parameters': ('parameters', 1e-6, '{:.2f} M'),
    'seconds_per_step': ('s/step', 1, '{:.2f}'),
    'peak_mb': ('peak MB', 1, '{:.0f}'),
}
# The quantities that CanBlockMonitorHook logs for each block, by the end of their keys.
_QUANTITIES = {'_weight': 'batch norm weight', '_ratio': 'what the block adds over its input'}


def method_of(loss: str) -> str:
    """Name the method that distils with a loss: ``'cankd'`` for ``'CanKDLoss'``."""
    return loss.replace('Loss', '').lower()


def markdown(table: pd.DataFrame, align: bool = True) -> str:
    """Lay out a table in Markdown, as wide as its widest cells if ``align``, without its empty columns."""
    table = table.fillna('').astype(str)
    words = dict(index=False, tablefmt='github', disable_numparse=True, stralign='left' if align else None)
    return table.loc[:, (table != '').any()].to_markdown(**words)


def paired_difference(values: pd.Series, others: pd.Series) -> str:
    """Compare the figures of two methods, by seed, over the seeds that both have.

    The words are the mean of the differences and half of Student's t interval at 95 %, which a single seed has not.
    """
    return _shown((values - others).dropna())


def _shown(differences: pd.Series) -> str:
    if differences.empty:
        return ''
    mean, margin = differences.mean(), _margin(differences)
    return f'{mean:+.1f}' + (f' ± {margin:.1f}' if len(differences) > 1 else '')


def _margin(values: pd.Series, count: Optional[int] = None) -> float:
    """Half the width of the mean's interval, or of that of ``count`` values which spread as these; NaN for one."""
    if len(values) < 2:
        return math.nan
    from scipy.stats import t  # where a seed has no other, and tables of runs, it is not waited for

    count = count or len(values)
    return float(t.ppf((1 + _CONFIDENCE) / 2, count - 1)) * values.std() / math.sqrt(count)


def verdicts(results: dict) -> str:
    """Say of each method, in a sentence, whether it pays: against the student alone, and that for as much time."""
    groups, better = _by_method(results), -1 if results.get('rule') == 'less' else 1
    others = [other for other in (ALONE, LONGER) if other in groups]
    lines = []
    for name, group in groups.items():
        clauses = (
            []
            if name in others
            else [
                _verdict((group['value'] - groups[other]['value']).dropna(), other, results['metric'], better)
                for other in others
            ]
        )
        if any(clauses):
            lines.append(f'{name} {"; it ".join(filter(None, clauses))}.')
    longer = results.get('longer')
    if lines and longer and (LONGER in groups or longer['length'] == longer['alone']):
        lengths = f'{longer["length"]} {longer["unit"]} in place of {longer["alone"]}'
        if longer['length'] == longer['alone']:
            lengths = f'{longer["alone"]} {longer["unit"]}, too, and is not trained again'
        times = f'a step of {longer["method"]} takes {longer["ratio"]:.2f} times as long'
        lines.append(f'The {_in_words(LONGER)} has {lengths}: {times}.')
    return '\n'.join(lines)


def _verdict(differences: pd.Series, other: str, metric: str, better: int) -> str:
    """Say by paired differences whether a method is better than another; nothing where they share no seed."""
    if differences.empty:
        return ''
    mean, margin, count = differences.mean(), _margin(differences), len(differences)
    other, shown = f'the {_in_words(other)}', f'{_shown(differences)} {metric}'
    if count == 1:
        return f'cannot be told from {other} with one seed ({shown}): it takes at least two more'
    if abs(mean) > margin:
        return f'{"pays" if better * mean > 0 else "does not pay"} against {other}: {shown}'
    enough = (more for more in range(1, _MOST_SEEDS + 1) if _margin(differences, count + more) < abs(mean))
    more = next((f'about {more}' for more in enough), f'more than {_MOST_SEEDS}')
    return f'cannot be told from {other} with these {count} seeds ({shown}): it takes {more} more'


def _in_words(method: str) -> str:
    return method.replace(',', '')


def _by_method(results: dict) -> Dict[str, pd.DataFrame]:
    """The trainings of each method by seed, in the order of the methods."""
    if not results['runs']:
        return {}
    groups = dict(iter(pd.DataFrame(results['runs']).set_index('seed').sort_index().groupby('method')))
    return {name: groups[name] for name in results['methods'] if name in groups}


def results_table(results: dict) -> str:
    """Lay out the results of :func:`run_experiment` as a table in Markdown, one row per method."""
    groups, reference = _by_method(results), results['reference']
    rows = []
    for name, group in groups.items():
        values = group['value']
        row = {
            'method': name,
            f'{results["metric"]} per seed': ' '.join(f'{value:.1f}' for value in values),
            'mean': f'{values.mean():.1f}',
            'std': f'{values.std():.1f}' if len(values) > 1 else '',
        }
        for title, other in ((f'to the {ALONE}', ALONE), (f'to {reference}', reference)):
            compared = other in groups and name not in (ALONE, other)
            row[title] = paired_difference(values, groups[other]['value']) if compared else ''
        for key, (title, factor, form) in _MEDIANS.items():
            known = group.get(key, pd.Series(dtype=float)).dropna()
            row[title] = '' if known.empty else form.format(factor * known.median())
        rows.append(row)
    return markdown(pd.DataFrame(rows)) if rows else 'No training has finished yet.'


def blocks_table(results: dict) -> str:
    """Lay out the state of an experiment's Can blocks at the end of the training, as means over the seeds.

    The table has one row per method whose loss is a ``CanKDLoss``; it is empty where no method has a block.
    """
    rows = []
    for name, group in _by_method(results).items():
        if 'loss' not in group:
            continue
        # A training that is too short to be logged has no distillation loss.
        group = group[(group['loss'] == 'CanKDLoss') & group['distill_loss'].notna()]
        if group.empty:
            continue
        # The last value of every curve, by block and quantity.
        ends = pd.DataFrame([{key: curve[-1][1] for key, curve in run.items()} for run in group['blocks']]).mean()
        row = {'method': name, results['metric']: f'{group["value"].mean():.1f}'}
        row['distillation loss'] = f'{group["distill_loss"].mean():.2f}'
        for end, title in _QUANTITIES.items():
            levels = [f'{value:.2f}' for key, value in ends.items() if key.endswith(end)]
            row[f'{title}, per level'] = ' '.join(levels)
        rows.append(row)
    table = pd.DataFrame(rows)
    return markdown(table) if table.filter(like=', per level').ne('').any(axis=None) else ''


def _draw_blocks(results: dict, path: Path) -> None:
    """Draw how the Can blocks leave the identity over the training: a line per seed, levels averaged."""
    from matplotlib.figure import Figure  # which tables do without

    figure = Figure(figsize=(10, 3.8), layout='constrained')
    axes = figure.subplots(1, len(_QUANTITIES))
    groups = {name: [run for run in group['blocks'] if run] for name, group in _by_method(results).items()}
    groups = {name: runs for name, runs in groups.items() if runs}
    for axis, (end, title) in zip(axes, _QUANTITIES.items()):
        for i, (name, runs) in enumerate(groups.items()):
            for run in runs:
                iterations, values = np.mean([curve for key, curve in run.items() if key.endswith(end)], 0).T
                axis.plot(iterations, values, color=f'C{i}', lw=1, label=name if run is runs[0] else None)
        axis.set(title=title, xlabel='iteration', yscale='log')
        axis.grid(alpha=0.3)
    axes[-1].legend(fontsize=7, loc='center left', bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=110)


def _draw_results(results: dict, path: Path) -> None:
    """Draw every seed as a dot, and each method's mean with its interval."""
    from matplotlib.figure import Figure

    groups = _by_method(results)
    figure = Figure(figsize=(8, 1.2 + 0.36 * len(groups)), layout='constrained')
    axis = figure.subplots()
    for y, (name, group) in enumerate(groups.items()):
        values, mean = group['value'], group['value'].mean()
        colour = {ALONE: 'tab:gray', results['reference']: 'tab:red'}.get(name, 'tab:blue')
        axis.plot(values, [y] * len(values), 'o', color=colour, alpha=0.35, markeredgewidth=0)
        axis.errorbar(mean, y, xerr=_margin(values), fmt='|', color=colour, markersize=14, capsize=3)
        axis.annotate(f'{mean:.1f}', (mean, y), xytext=(0, 8), textcoords='offset points', ha='center', fontsize=8)
    axis.set_yticks(range(len(groups)), groups)
    axis.set_ylim(len(groups) - 0.4, -0.7)
    axis.set_xlabel(f'{results["metric"]}: every seed, the mean and its {100 * _CONFIDENCE:.0f} % interval')
    axis.grid(axis='x', alpha=0.3)
    figure.savefig(path, dpi=110)


def tables(results: dict) -> str:
    """Lay out an experiment by :func:`results_table`, for Can blocks :func:`blocks_table`, and :func:`verdicts`."""
    return '\n\n'.join(filter(None, [results_table(results), blocks_table(results), verdicts(results)]))


def read_results(path: Path) -> dict:
    """Read a JSON file; a SetupError says where half of it is gone, as after a kill in older versions."""
    try:
        return load(str(path))
    except ValueError as e:
        problem = f'is no whole JSON file ({reason_of(e)})'
        raise SetupError(
            f'{str(path)!r} {problem}: put a whole one there, or take it away and have the comparison write it anew.'
        ) from e


def write_report(results: dict, folder: Path, stem: str = 'results') -> str:
    """Write tables and pictures of an experiment.

    Args:
        results (dict): The results of :func:`run_experiment`.
        folder (Path): Takes ``<stem>.md``, ``<stem>.png``, and for Can blocks ``<stem>_blocks.md`` and ``.png``.
        stem (str): The beginning of the names. Defaults to 'results'.

    Returns:
        str: The tables, as :func:`tables` gives them.
    """
    (folder / f'{stem}.md').write_text(results_table(results) + '\n')
    if results['runs']:
        _draw_results(results, folder / f'{stem}.png')
    blocks = blocks_table(results)
    if blocks:
        (folder / f'{stem}_blocks.md').write_text(blocks + '\n')
        _draw_blocks(results, folder / f'{stem}_blocks.png')
    return tables(results)
