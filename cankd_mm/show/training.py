"""What a training logged, as curves."""

import re
from numbers import Real
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from cankd_mm.apis.work_dir import read_scalars
from cankd_mm.config.metric import Metric

Line = List[Tuple[float, float]]
_AT_MOST = 400  # points of a line


def logged(work_dir: Path, metric: Optional[Metric]) -> Dict[str, Dict[str, Line]]:
    """Read the curves of a training.

    Args:
        work_dir (Path): Its work folder.
        metric (Metric, optional): What rates it.

    Returns:
        dict[str, dict[str, list[tuple[float, float]]]]: By plot and line, pairs of iteration and figure: ``'losses'``,
        ``'ratio'``, ``'rate'``, ``'gates'`` and ``'metrics'``, of which those without lines are left out.
    """
    plots: Dict[str, Dict[str, Line]] = dict(losses={}, ratio={}, rate={}, gates={}, metrics={})
    iteration = 0
    for entry in read_scalars(work_dir):
        if 'loss' not in entry:
            for key, value in entry.items():
                if metric and key.replace('teacher/', '', 1) == metric.key and isinstance(value, Real):
                    whose = 'teacher' if key.startswith('teacher/') else 'student'
                    plots['metrics'].setdefault(whose, []).append((iteration, value * metric.factor))
            continue
        iteration = entry.get('iter', entry['step'])
        distill = {k: v for k, v in entry.items() if k.startswith('distill.loss')}
        task = entry['loss'] - sum(distill.values())
        _add(plots['losses'], iteration, {'task': task})
        _add(plots['losses'], iteration, {k.replace('distill.loss_', ''): v for k, v in distill.items()})
        _add(plots['ratio'], iteration, {'distillation / task': entry.get('distill_to_task')})
        _add(plots['rate'], iteration, {'learning rate': entry.get('lr')})
        gates = {m[1]: v for k, v in entry.items() if (m := re.fullmatch(r'can/(\w+)_weight', k))}
        _add(plots['gates'], iteration, gates)
    return {plot: {name: _thinned(line) for name, line in lines.items()} for plot, lines in plots.items() if lines}


def _add(lines: Dict[str, Line], iteration: int, values: dict) -> None:
    for name, value in values.items():
        if isinstance(value, Real) and abs(value) != float('inf'):
            lines.setdefault(name, []).append((iteration, value))


def _thinned(line: Line) -> Line:
    return line[:: -(-len(line) // _AT_MOST)]
