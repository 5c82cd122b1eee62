"""Several comparisons in one table: how much of the gap to its teacher a method closes, over all pairs."""

from pathlib import Path
from typing import Dict, Tuple

import numpy as np
import pandas as pd

from cankd_mm.experiments.report import ALONE, markdown, method_of

_RESAMPLES = 10_000
_PERCENTILES = (2.5, 97.5)
_MEANING = (
    f'The share of the gap between the {ALONE} and its teacher that a method closes, as a mean over the pairs; in '
    'brackets its 95 % interval by bootstrap, of the seeds within each pair.'
)


def joint_table(stored: Dict[str, dict]) -> str:
    """Lay out the methods that several comparisons have, with a row for each, in Markdown.

    Args:
        stored (dict[str, dict]): The results of :func:`run_experiment`, by the paths of their files.

    Returns:
        str: The table, and a sentence for each comparison that is left out, as where the teacher's figure is missing.
    """
    pairs, sentences = {}, []
    for path, results in stored.items():
        figures, problem = _figures(results)
        if problem:
            sentences.append(f'{path} {problem}.')
        else:
            pairs[path] = figures, results['teacher']
    methods = dict.fromkeys(name for figures, _ in pairs.values() for name in figures if name != ALONE)
    rows = []
    for name in methods:
        having = {path: pair for path, pair in pairs.items() if name in pair[0]}
        paired = {path: (figures[[ALONE, name]].dropna(), teacher) for path, (figures, teacher) in having.items()}
        paired = {path: pair for path, pair in paired.items() if len(pair[0])}
        if len(paired) < 2:
            continue
        generator = np.random.default_rng(0)
        shares = {path: _shares(*pair, generator) for path, pair in paired.items()}
        share, *resampled = np.mean(list(shares.values()), 0)
        row = {'method': name, 'pairs': len(shares), 'of the gap': f'{share:.0%}'}
        if all(len(figures) > 1 for figures, _ in paired.values()):  # one seed tells nothing of others
            low, high = np.percentile(resampled, _PERCENTILES)
            row['of the gap'] += f' ({low:.0%} to {high:.0%})'
        rows.append({**row, **{_title(path): f'{found[0]:.0%}' for path, found in shares.items()}})
    table = f'{markdown(pd.DataFrame(rows))}\n\n{_MEANING}' if rows else 'No method is in several of these comparisons.'
    return '\n\n'.join([table, *sentences])


def _figures(results: dict) -> Tuple[pd.DataFrame, str]:
    """The figures of each method by seed; or why the gap is not known."""
    runs = pd.DataFrame(results['runs'], columns=['method', 'seed', 'value', 'loss'])
    figures = runs.pivot(index='seed', columns='method', values='value')
    if ALONE not in figures:
        return figures, f'has no {ALONE} and is left out'
    teacher, alone = results.get('teacher'), figures[ALONE].mean()
    if teacher is None:
        add = f'add "teacher": FIGURE, the {results["metric"]} that `cankd test PAIR --teacher` reports'
        return figures, f'has no figure of its teacher and is left out: {add}'
    if (teacher - alone) * (-1 if results.get('rule') == 'less' else 1) <= 0:
        return figures, f'is left out: its teacher, with {teacher}, is not ahead of the {ALONE} with {alone:.1f}'
    losses = set(runs.loc[runs['method'] == results['reference'], 'loss'].dropna())
    name = method_of(losses.pop()) if len(losses) == 1 else results['reference']
    if name not in figures:  # the reference was called by its file until 0.2.0
        figures = figures.rename(columns={results['reference']: name})
    return figures, ''


def _shares(figures: pd.DataFrame, teacher: float, generator: np.random.Generator) -> np.ndarray:
    """The share of the gap over the seeds of a pair, and then those over as many seeds that are drawn of them."""
    count = len(figures)
    drawn = np.concatenate([[np.arange(count)], generator.integers(count, size=(_RESAMPLES, count))])
    alone, values = figures.to_numpy(float)[drawn].mean(1).T
    return (values - alone) / (teacher - alone)


def _title(path: str) -> str:
    """What a comparison is called: its file, or the folder of a ``results.json``."""
    return Path(path).resolve().parent.name if Path(path).stem == 'results' else Path(path).stem
