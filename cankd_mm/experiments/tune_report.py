"""What a search ends with: a config of a few lines, and a page."""

import re
from pathlib import Path
from typing import List

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from cankd_mm.errors import SetupError
from cankd_mm.show import page
from cankd_mm.show.page import Picture, Section, Table, write_page


def write_report(study: optuna.Study, work_dir: Path, config: str) -> Path:
    """Write the config of the best trial, and a page of the search.

    Args:
        study (optuna.Study): The search.
        work_dir (Path): The folder that holds the configs of the trials.
        config (str): The config that was searched around.

    Returns:
        Path: ``tuned.py``; ``report.html`` lies beside it.

    Raises:
        SetupError: If no trial is complete, or all of several are at 0: the page is there, and no ``tuned.py``.
    """
    complete, pruned = (study.get_trials(False, (state,)) for state in (TrialState.COMPLETE, TrialState.PRUNED))
    if not complete:
        raise SetupError(f'No trial of the search {study.study_name!r} is complete: give it more --trials or --hours.')
    metric, best, tuned = study.user_attrs['metric'], study.best_trial, work_dir / 'tuned.py'
    nothing = len(complete) > 1 and not any(t.value for t in complete)
    if nothing:
        head = f'All {len(complete)} trials have {metric} 0, and there is no best'
    else:
        head = f'The best of {len(complete)} trials: {metric} {best.value:.2f} on the validation set that chose it.'
        text = (work_dir / f'trial_{best.user_attrs["folder"]:03d}.py').read_text(encoding='utf-8')
        tuned.write_text(f'# {head}\n{text}', encoding='utf-8')
    luck = (
        'The best of many is better than it will be the next time: luck is a part of what made it the best. What it is '
        'worth, with an interval, on seeds that the search has not seen: '
        f'cankd compare {tuned} --seeds 11 12 13 14 15'
    )
    values = [(t.number, t.value) for t in complete]
    greater = study.direction == optuna.study.StudyDirection.MAXIMIZE
    so_far = (np.maximum if greater else np.minimum).accumulate([value for _, value in values]).tolist()
    lines = {'trial': values, 'best so far': [(number, best) for (number, _), best in zip(values, so_far)]}
    meaning = f'{metric} of every complete trial, and the best so far.'
    history = Picture('history', meaning, [[page.curves(lines, metric, at='trial')]])
    names = list(study.user_attrs['search']['search'])
    ordered = sorted(complete, key=lambda t: t.value, reverse=greater)
    rows = [[str(t.user_attrs['folder']), f'{t.value:.2f}', *(shown(t.params.get(n)) for n in names)] for t in ordered]
    table = Table(['trial', metric, *names], rows, 'All complete trials, the best first.')
    by_choice = []
    for name in names:
        plot = page.points([(t.params[name], t.value) for t in complete if name in t.params], name, metric)
        file, meaning = re.sub(r'\W', '_', name), f'{metric} by {name}, a point for each complete trial.'
        by_choice.append(Picture(f'by_{file}', meaning, [[plot]]))
    sections = [
        Section('The best', [f'{head}.'] if nothing else [head, luck]),
        Section('What mattered', pictures=[*_importance(study, complete), history]),
        Section('The trials', tables=[table], pictures=by_choice),
    ]
    facts = [('config', config), ('trials', f'{len(complete)} complete, {len(pruned)} given up early')]
    facts += [(key, str(value)) for key, value in study.user_attrs['search']['cfg_options'].items()]
    if not nothing:
        facts.append(('best config', tuned.read_text(encoding='utf-8').rstrip()))
    page_file = write_page(work_dir, f'A search around {Path(config).stem}', facts, sections)
    if nothing:
        raise SetupError(f'{head}: train for longer, or look at the pair by cankd check (the page: {page_file}).')
    return tuned


def shown(value: object) -> str:
    """Lay out what was chosen, numbers with three digits."""
    return f'{value:.3g}' if isinstance(value, float) else str(value)


def _importance(study: optuna.Study, complete: List[FrozenTrial]) -> List[Picture]:
    if len(complete) < 8 or len({t.value for t in complete}) < 2:
        return []
    found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    plot = page.bars({'importance': [100 * v for v in found.values()]}, list(found), 'importance in per cent')
    meaning = 'How much each choice tells the better trials from the others (PED-ANOVA), in per cent of all of them; '
    return [Picture('importance', meaning + 'of few trials it is a hint.', [[plot]])]
