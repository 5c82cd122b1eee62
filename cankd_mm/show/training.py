"""The run: what a training logged, as curves."""

import re
from numbers import Real
from pathlib import Path
from typing import Dict, List, Tuple

from cankd_mm.apis.work_dir import METRICS, read_scalars
from cankd_mm.show.page import Picture, Section
from cankd_mm.show.pictures import curves

Line = List[Tuple[float, float]]  # pairs of iteration and figure
_AT_MOST = 400  # points of a line
# By plot: what its figures are, whether on a logarithmic scale, and what they mean.
_PLOTS = dict(
    losses=('loss', True, "The student's task loss, and the distillation loss of every level, with its weight."),
    ratio=('ratio', False, 'The distillation losses over the task loss.'),
    metrics=('per cent', False, 'On the validation set: the student over the training, and the teacher.'),
    gates=('mean |weight|', False, "How far every block has left the identity: its batch norm's weight starts at 0."),
    rate=('learning rate', False, 'The learning rate of the first group of parameters.'),
)


def section(folder: Path) -> Section:
    """Show what a training logged.

    Args:
        folder (Path): Its work folder.

    Returns:
        Section: Its curves.
    """
    logged = _logged(folder)
    if not any(logged.values()):
        words = [f'There is no log of the training beside the checkpoint, in {folder}: its curves are left out.']
        return Section('The run', words)
    words = [] if logged['gates'] else ["Without CanBlockMonitorHook in the config, the blocks' gates were not logged."]
    drawn = []
    for name, (what, log, meaning) in _PLOTS.items():
        if logged[name]:
            thinned = {key: line[:: -(-len(line) // _AT_MOST)] for key, line in logged[name].items()}
            drawn.append(Picture(name, meaning, [[curves(thinned, what, log)]]))
    return Section('The run', words, pictures=drawn)


def _logged(work_dir: Path) -> Dict[str, Dict[str, Line]]:
    """The lines of every plot by their names."""
    plots: Dict[str, Dict[str, Line]] = {name: {} for name in _PLOTS}
    iteration = 0
    for entry in read_scalars(work_dir):
        if 'loss' not in entry:
            for whose, prefix in (('teacher', 'teacher/'), ('student', '')):
                for metric, factor in METRICS.values():
                    value = entry.get(prefix + metric)
                    if isinstance(value, Real):
                        plots['metrics'].setdefault(whose, []).append((iteration, value * factor))
            continue
        iteration = entry.get('iter', entry['step'])
        distill = {k.replace('distill.loss_', ''): v for k, v in entry.items() if k.startswith('distill.loss')}
        found = dict(
            losses={'task': entry['loss'] - sum(distill.values()), **distill},
            ratio={'distillation / task': entry.get('distill_to_task')},
            rate={'learning rate': entry.get('lr')},
            gates={m[1]: v for k, v in entry.items() if (m := re.fullmatch(r'can/(\w+)_weight', k))},
        )
        for plot, values in found.items():
            for name, value in values.items():
                if isinstance(value, Real) and abs(value) != float('inf'):
                    plots[plot].setdefault(name, []).append((iteration, value))
    return plots
