"""What a search ends with: a config of a few lines, and a page."""

from pathlib import Path
from typing import List

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from cankd_mm.errors import SetupError
from cankd_mm.show import pictures
from cankd_mm.show.page import Picture, Section, Table, write_page


def write_report(study: optuna.Study, root: Path, config: str) -> Path:
    """Write the config of the best trial, and a page of the search.

    Args:
        study (optuna.Study): The search.
        root (Path): The folder that holds the configs of the trials.
        config (str): The config that was searched around.

    Returns:
        Path: ``tuned.py``; ``report.html`` lies beside it.

    Raises:
        SetupError: If no trial is complete.
    """
    complete = study.get_trials(False, (TrialState.COMPLETE,))
    if not complete:
        raise SetupError(f'No trial of the search {study.study_name!r} is complete: give it more --trials or --hours.')
    metric, best = study.user_attrs['metric'], study.best_trial
    tuned = root / 'tuned.py'
    head = f'The best of {len(complete)} trials: {metric} {best.value:.2f} on the validation set that chose it.'
    text = _config_of(best, root).read_text(encoding='utf-8')
    tuned.write_text(f'# {head}\n{text}', encoding='utf-8')
    pruned = study.get_trials(False, (TrialState.PRUNED,))
    repeat = f'cankd compare {tuned} --seeds 11 12 13 14 15'
    words = [
        head,
        'The best of many is better than it will be the next time: luck is a part of what made it the best. What it is '
        f'worth, with an interval, on seeds that the search has not seen: {repeat}',
    ]
    ordered = sorted(complete, key=lambda t: t.value, reverse=True)
    names = list(study.user_attrs['search']['search'])
    rows = [[str(t.user_attrs['folder']), f'{t.value:.2f}', *(shown(t.params.get(n)) for n in names)] for t in ordered]
    table = Table(['trial', metric, *names], rows, 'All complete trials, the best first.')
    sections = [
        Section('The best', words, [], []),
        Section('What mattered', [], [], _importance(study, complete) + [_history(complete, metric)]),
        Section('The trials', [], [table], [_against(complete, name, metric) for name in names]),
    ]
    facts = [
        ('config', config),
        ('trials', f'{len(complete)} complete, {len(pruned)} given up early'),
        *((k, str(v)) for k, v in study.user_attrs['search']['cfg_options'].items()),
        ('best config', tuned.read_text(encoding='utf-8')),
    ]
    write_page(root, f'A search around {Path(config).stem}', facts, sections)
    return tuned


def _config_of(trial: FrozenTrial, root: Path) -> Path:
    return root / f'trial_{trial.user_attrs["folder"]:03d}.py'


def shown(value: object) -> str:
    """Lay out what was chosen.

    Args:
        value (object): A number, a word, or a switch.

    Returns:
        str: Numbers with three digits.
    """
    return f'{value:.3g}' if isinstance(value, float) else str(value)


def _importance(study: optuna.Study, complete: List[FrozenTrial]) -> List[Picture]:
    if len(complete) < 8 or len({t.value for t in complete}) < 2:
        return []
    found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    plot = pictures.bars({'importance': [100 * v for v in found.values()]}, list(found), 'importance in per cent')
    meaning = (
        'How much each choice tells the better trials from the others (PED-ANOVA), in per cent of all of them; of few '
        'trials it is a hint.'
    )
    return [Picture('importance', meaning, [[plot]])]


def _history(complete: List[FrozenTrial], metric: str) -> Picture:
    ordered = sorted(complete, key=lambda t: t.number)
    best = np.maximum.accumulate([t.value for t in ordered])
    lines = {
        'trial': [(t.number, t.value) for t in ordered],
        'best so far': [(t.number, float(v)) for t, v in zip(ordered, best)],
    }
    plot = pictures.curves(lines, metric, at='trial')
    return Picture('history', f'{metric} of every complete trial, and the best so far.', [[plot]])


def _against(complete: List[FrozenTrial], name: str, metric: str) -> Picture:
    pairs = [(t.params[name], t.value) for t in complete if name in t.params]
    return Picture(
        f'by_{"".join(c if c.isalnum() else "_" for c in name)}',
        f'{metric} by {name}, a point for each complete trial.',
        [[pictures.points(pairs, name, metric)]],
    )
