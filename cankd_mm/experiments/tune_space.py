"""What a search may choose: by a word for what users guess, or by any key of the config."""

import ast
from functools import cached_property
from typing import Dict, List, Sequence

from mmengine.config import Config
from mmengine.registry import init_default_scope
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from cankd_mm.config.options import parse_options
from cankd_mm.errors import SetupError
from cankd_mm.models import FeatureDistill
from cankd_mm.models.algorithms.parts import fitting_parts
from cankd_mm.models.builders import build_model
from cankd_mm.models.layers.can_block import MODES

_WORDS = ('weight', 'level-weights', 'levels', 'init', 'mode')
_LEVELS, _LOSS = 'model.distiller.levels', 'model.distiller.loss'
_NONE = 'none'
DEFAULT = ('weight', 'levels', 'init')


class Space:
    """A search space: Optuna's ``distributions`` by parameter, and what their values mean in a config.

    Args:
        cfg (Config): The config of a pair, with the short form of :class:`CanKDDistiller`.
        words (Sequence[str]): ``'weight'``, ``'levels'``, ``'level-weights'``, ``'init'``, ``'mode'``, or a key of the
            config as ``'KEY=LOW..HIGH'``, ``'KEY=LOW..HIGH:log'`` or ``'KEY=A,B,C'``.

    Raises:
        SetupError: If a word is none of these, or does not suit the pair.
    """

    def __init__(self, cfg: Config, words: Sequence[str]) -> None:
        self._cfg = cfg
        self.distributions: Dict[str, BaseDistribution] = {}
        for word in words:
            key, _, values = word.partition('=')
            if values:
                self.distributions[key] = _distribution(key, values)
            elif word in _WORDS:
                self.distributions.update(self._distributions(word))
            else:
                raise SetupError(
                    f'There is nothing to search that is called {word!r}: name {", ".join(map(repr, _WORDS))}, or a '
                    'key of the config as KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=A,B,C.'
                )
        self._keys = {key for key, _, values in (word.partition('=') for word in words) if values}

    def options(self, values: Dict[str, object]) -> Dict[str, object]:
        """Turn the values of the parameters into entries of the config by their dotted keys."""
        options = {name: value for name, value in values.items() if name in self._keys}
        if 'levels' in values:
            options[_LEVELS] = list(map(int, values['levels'].split(',')))
        if 'mode' in values:
            options[f'{_LOSS}.mode'] = None if values['mode'] == _NONE else values['mode']
        factors = {int(name.split()[1]): value for name, value in values.items() if name.startswith('level ')}
        if factors:
            weight = values.get('weight', self._weight)
            kept = options.get(_LEVELS, factors)
            options[f'{_LOSS}.loss_weight'] = [_short(weight * factors[level]) for level in factors if level in kept]
        elif 'weight' in values:
            options[f'{_LOSS}.loss_weight'] = _short(values['weight'])
        if any(name.startswith('init ') for name in values):
            options['model.init_from_teacher'] = [part for part in self._parts if values.get(_init(part))]
        return options

    def _distributions(self, word: str) -> Dict[str, BaseDistribution]:
        """The parameters of a word, for this pair."""
        if word == 'weight':
            if self._weight == 0:
                searched = 'from a tenth to a hundred times that of the config'
                raise SetupError(f'The weight is searched {searched}, which is 0: give another.')
            # Ten times was too little: the best of two methods lay at nine times their authors' weight.
            return {'weight': FloatDistribution(self._weight / 10, self._weight * 100, log=True)}
        if word == 'level-weights':  # factors on the weight of all
            return {f'level {level}': FloatDistribution(0.1, 10.0, log=True) for level in self._levels}
        if word == 'levels':  # all that lie side by side, at an end: 0; 0,1; 0,1,2; 1,2; 2 of three
            levels = list(map(str, self._levels))
            runs = [levels[: i + 1] for i in range(len(levels))] + [levels[i:] for i in range(1, len(levels))]
            if len(runs) < 2:
                raise SetupError("'levels' has nothing to search: the source of this pair gives a single level.")
            return {'levels': CategoricalDistribution(list(map(','.join, runs)))}
        if word == 'init':
            if not self._parts:
                raise SetupError("'init' has nothing to search: no part of the student fits the teacher's weights.")
            return {_init(part): CategoricalDistribution([False, True]) for part in self._parts}
        if self._loss.type.split('.')[-1] != 'CanKDLoss':
            raise SetupError(f"'mode' is the affinity of CanKDLoss, and this pair has {self._loss.type}: leave it out.")
        return {'mode': CategoricalDistribution([*MODES, _NONE])}

    @property
    def _loss(self) -> dict:
        distiller = self._cfg.model.distiller
        if distiller.get('source') is None or distiller.get('loss') is None:
            raise SetupError(
                'The distiller of this config has the long form, in which nothing is called weight or levels: search '
                'its keys as KEY=LOW..HIGH, or give it source and loss.'
            )
        return distiller.loss

    @property
    def _weight(self) -> float:
        """The weight that the config has; the first if it has several."""
        weight = self._loss.get('loss_weight', 5.0)
        return float(weight[0] if isinstance(weight, (list, tuple)) else weight)

    @property
    def _levels(self) -> List[int]:
        """The student's levels that are distilled."""
        levels = self._cfg.model.distiller.get('levels')
        if levels is not None:
            return list(range(levels) if isinstance(levels, int) else levels)
        mappings = self._model.distiller.loss_forward_mappings.values()
        records = [record for mapping in mappings for record in mapping.values() if record['from_student']]
        return [record['data_idx'] for record in records if record.get('data_idx') is not None]

    @cached_property
    def _parts(self) -> List[str]:
        """The parts that can start from the teacher."""
        with self._model.student_alone() as student:
            return fitting_parts(student, self._model.teacher)

    @cached_property
    def _model(self) -> FeatureDistill:
        init_default_scope(self._cfg.get('default_scope', 'mmengine'))
        return build_model(self._cfg.model, 'model', self._cfg.get('data_preprocessor'))


def _init(part: str) -> str:
    """The parameter of a part: what fits of one neck or head is tried together."""
    return f'init {part.split(".")[0]}'


def _distribution(key: str, values: str) -> BaseDistribution:
    """Read ``LOW..HIGH``, ``LOW..HIGH:log`` or ``A,B,C``."""
    if '..' not in values:
        found = parse_options([f'{key}={values}'])[key]
        return CategoricalDistribution(found if isinstance(found, (list, tuple)) else [found])
    text, _, scale = values.partition(':')
    try:
        low, high = (ast.literal_eval(end) for end in text.split('..'))
        if low >= high or scale not in ('', 'log') or scale and low <= 0:
            raise ValueError
        kind = IntDistribution if isinstance(low, int) and isinstance(high, int) else FloatDistribution
        return kind(low, high, log=scale == 'log')
    except (ValueError, SyntaxError, TypeError) as e:
        raise SetupError(
            f'{values!r} is no range of {key}: write LOW..HIGH with LOW below HIGH, LOW..HIGH:log with LOW above 0, or '
            'A,B,C.'
        ) from e


def _short(value: float) -> float:
    """Three digits: more would say that a search knows them."""
    return float(f'{value:.3g}')
