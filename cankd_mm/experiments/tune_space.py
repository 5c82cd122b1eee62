"""What a search may choose: by a word for what users guess, or by any key of the config."""

import ast
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from mmengine.config import Config
from mmengine.registry import init_default_scope
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from cankd_mm.errors import SetupError
from cankd_mm.models import FeatureDistill
from cankd_mm.models.algorithms.parts import fitting_parts
from cankd_mm.models.builders import build_model
from cankd_mm.models.layers.can_block import MODES

_LOSS = 'model.distiller.loss'
_WEIGHT = f'{_LOSS}.loss_weight'
_NONE = 'none'
DEFAULT = ('weight', 'levels', 'init')


class Space(NamedTuple):
    """A search space, and what its values mean in a config.

    Args:
        distributions (dict[str, BaseDistribution]): Optuna's, by parameter.
        options (Callable): Takes the values by parameter, gives config entries by key.
    """

    distributions: Dict[str, BaseDistribution]
    options: Callable[[Dict[str, object]], Dict[str, object]]


def make_space(cfg: Config, words: Sequence[str]) -> Space:
    """Read what is to be searched.

    Args:
        cfg (Config): The config of a pair, with the short form of :class:`CanKDDistiller`.
        words (Sequence[str]): ``'weight'``, ``'levels'``, ``'level-weights'``, ``'init'``, ``'mode'``, or a key of the
            config as ``'KEY=LOW..HIGH'``, ``'KEY=LOW..HIGH:log'`` or ``'KEY=A,B,C'``.

    Returns:
        Space: The space.

    Raises:
        SetupError: If a word is none of these, or does not suit the pair.
    """
    found: Dict[str, BaseDistribution] = {}
    keys: Dict[str, str] = {}
    pair = _Pair(cfg)
    for word in words:
        name, _, values = word.partition('=')
        if values:
            keys[name] = name
            found[name] = _of_key(name, values)
        elif word in _SHORTCUTS:
            found.update(_SHORTCUTS[word](pair))
        else:
            raise SetupError(
                f'There is nothing to search that is called {word!r}: name {", ".join(map(repr, _SHORTCUTS))}, or a '
                'key of the config as KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=A,B,C.'
            )
    return Space(found, lambda values: _options(values, keys, pair))


class _Pair:
    """What of a pair the words refer to; the models are built where one does."""

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self._model: Optional[FeatureDistill] = None

    @property
    def loss(self) -> dict:
        """The config of the loss."""
        distiller = self.cfg.model.distiller
        if distiller.get('source') is None or distiller.get('loss') is None:
            raise SetupError(
                'The distiller of this config has the long form, in which nothing is called weight or levels: search '
                'its keys as KEY=LOW..HIGH, or give it source and loss.'
            )
        return distiller.loss

    @property
    def weight(self) -> float:
        """The weight that the config has, or of several the first."""
        weight = self.loss.get('loss_weight', 5.0)
        return float(weight[0] if isinstance(weight, (list, tuple)) else weight)

    @property
    def levels(self) -> List[int]:
        """The student's levels that are distilled."""
        levels = self.cfg.model.distiller.get('levels')
        if isinstance(levels, int):
            return list(range(levels))
        if levels is not None:
            return list(levels)
        model = self._distilled()
        return [
            record['data_idx']
            for mapping in model.distiller.loss_forward_mappings.values()
            for record in mapping.values()
            if record['from_student'] and record.get('data_idx') is not None
        ]

    @property
    def parts(self) -> List[str]:
        """The parts that can start from the teacher."""
        model = self._distilled()
        with model.student_alone() as student:
            return fitting_parts(student, model.teacher)

    def _distilled(self) -> FeatureDistill:
        if self._model is None:
            init_default_scope(self.cfg.get('default_scope', 'mmengine'))
            self._model = build_model(self.cfg.model, 'model', self.cfg.get('data_preprocessor'))
        return self._model


def _weight(pair: _Pair) -> Dict[str, BaseDistribution]:
    if pair.weight == 0:
        raise SetupError(
            'The weight is searched from a tenth to a hundred times that of the config, which is 0: give another.'
        )
    # Ten times was too little: the best of two methods lay at nine times their authors' weight.
    return {'weight': FloatDistribution(pair.weight / 10, pair.weight * 100, log=True)}


def _level_weights(pair: _Pair) -> Dict[str, BaseDistribution]:
    """Of every level, as factors on the weight of all."""
    return {f'level {level}': FloatDistribution(0.1, 10.0, log=True) for level in pair.levels}


def _levels(pair: _Pair) -> Dict[str, BaseDistribution]:
    """All that lie side by side, at an end: ``0``, ``0,1``, ``0,1,2``, ``1,2``, ``2`` of three."""
    levels = pair.levels
    runs = [levels[: i + 1] for i in range(len(levels))] + [levels[i:] for i in range(1, len(levels))]
    if len(runs) < 2:
        raise SetupError("'levels' has nothing to search: the source of this pair gives a single level.")
    return {'levels': CategoricalDistribution([','.join(map(str, run)) for run in runs])}


def _init(pair: _Pair) -> Dict[str, BaseDistribution]:
    if not pair.parts:
        raise SetupError("'init' has nothing to search: no part of the student fits the teacher's weights.")
    return {f'init {_owner(part)}': CategoricalDistribution([False, True]) for part in pair.parts}


def _owner(part: str) -> str:
    """The neck or the head that a part is of: what fits of it is tried as one."""
    return part.split('.')[0]


def _mode(pair: _Pair) -> Dict[str, BaseDistribution]:
    if pair.loss.type.split('.')[-1] != 'CanKDLoss':
        raise SetupError(f"'mode' is the affinity of CanKDLoss, and this pair has {pair.loss.type}: leave it out.")
    return {'mode': CategoricalDistribution([*MODES, _NONE])}


_SHORTCUTS: Dict[str, Callable[[_Pair], Dict[str, BaseDistribution]]] = {
    'weight': _weight,
    'level-weights': _level_weights,
    'levels': _levels,
    'init': _init,
    'mode': _mode,
}


def _of_key(key: str, values: str) -> BaseDistribution:
    text, _, scale = values.partition(':')
    try:
        if '..' in text:
            low, high = (ast.literal_eval(end) for end in text.split('..'))
            if low >= high or scale not in ('', 'log') or scale and low <= 0:
                raise ValueError
            kind = IntDistribution if isinstance(low, int) and isinstance(high, int) else FloatDistribution
            return kind(low, high, log=scale == 'log')
        return CategoricalDistribution([_literal(value) for value in text.split(',')])
    except (ValueError, SyntaxError, TypeError) as e:
        raise SetupError(
            f'{values!r} is no range of {key}: write LOW..HIGH with LOW below HIGH, LOW..HIGH:log with LOW above 0, or '
            'A,B,C.'
        ) from e


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _options(values: Dict[str, object], keys: Dict[str, str], pair: _Pair) -> Dict[str, object]:
    """Turn what was chosen into entries of the config."""
    options = {keys[name]: value for name, value in values.items() if name in keys}
    if 'levels' in values:
        options['model.distiller.levels'] = [int(level) for level in str(values['levels']).split(',')]
    if 'mode' in values:
        options[f'{_LOSS}.mode'] = None if values['mode'] == _NONE else values['mode']
    factors: Sequence[Tuple[str, object]] = [(n, v) for n, v in values.items() if n.startswith('level ')]
    if factors:
        kept = options.get('model.distiller.levels')
        chosen = [factor for name, factor in factors if kept is None or int(name.split()[1]) in kept]
        weight = values.get('weight', pair.weight)
        options[_WEIGHT] = [_short(weight * factor) for factor in chosen]
    elif 'weight' in values:
        options[_WEIGHT] = _short(values['weight'])
    if any(name.startswith('init ') for name in values):
        options['model.init_from_teacher'] = [part for part in pair.parts if values.get(f'init {_owner(part)}')]
    return options


def _short(value: float) -> float:
    """Three digits: more would say that a search knows them."""
    return float(f'{value:.3g}')
