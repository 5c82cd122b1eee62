"""What is searched, and what its values mean in the config."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from cankd_mm.config.read import load_config
from cankd_mm.config.write import write_changes
from cankd_mm.errors import SetupError
from cankd_mm.experiments.tune_space import Space
from cankd_mm.models.builders import build_model

WEIGHT = 'model.distiller.loss.loss_weight'


def test_words_and_keys(pairs):
    cfg = load_config(str(pairs['detection']))
    words = ['weight', 'levels', 'mode', 'optim_wrapper.optimizer.lr=1e-4..1e-2:log', 'train_cfg.max_epochs=1..4']
    space = Space(cfg, [*words, 'model.distiller.loss.norm=instance,layer,None'])
    found = space.distributions
    assert found['weight'] == FloatDistribution(0.5, 500, log=True)
    assert found['levels'] == CategoricalDistribution(['0', '0,1', '0,1,2', '1,2', '2'])
    assert found['train_cfg.max_epochs'] == IntDistribution(1, 4)
    assert found['model.distiller.loss.norm'] == CategoricalDistribution(['instance', 'layer', None])
    chosen = {'weight': 1.23456, 'levels': '1,2', 'mode': 'none', 'train_cfg.max_epochs': 3}
    assert space.options(chosen) == {
        'train_cfg.max_epochs': 3,
        'model.distiller.levels': [1, 2],
        'model.distiller.loss.mode': None,
        WEIGHT: 1.23,
    }


def test_weights_of_the_levels_that_are_chosen(pairs):
    space = Space(load_config(str(pairs['detection'])), ['level-weights', 'levels'])
    assert list(space.distributions) == ['level 0', 'level 1', 'level 2', 'levels']
    factors = {'level 0': 0.1, 'level 1': 2.0, 'level 2': 10.0}
    assert space.options({**factors, 'levels': '1,2'})[WEIGHT] == [10.0, 50.0]
    assert Space(load_config(str(pairs['detection'])), ['level-weights']).options(factors)[WEIGHT] == [0.5, 10, 50]


def test_entries_of_lists(pairs, tmp_path):
    """A config inherits lists as they are or replaces them: what changes an entry replaces the list."""
    base = str(pairs['detection'])
    before = load_config(base)
    options = {'param_scheduler.1.T_max': 7, 'param_scheduler.0.end': 3, 'default_hooks.logger.interval': 9}
    write_changes(tmp_path / 'trial.py', base, {**options, WEIGHT: 2.0})
    after = load_config(str(tmp_path / 'trial.py'))
    expected = load_config(base, {**options, WEIGHT: 2.0})
    expected.work_dir = after.work_dir
    assert after.to_dict() == expected.to_dict() != before.to_dict()
    assert after.param_scheduler[1].T_max == 7 and after.model.distiller.loss.loss_weight == 2.0


def test_parts_that_fit(pairs):
    """Of a teacher of another width the head, and what of the neck takes nothing from the backbone."""
    space = Space(load_config(str(pairs['detection'])), ['init'])
    assert list(space.distributions) == ['init neck', 'init bbox_head']
    for neck, head, parts in (
        (False, False, []),
        (False, True, ['bbox_head']),
        (True, True, ['neck.fpn_convs', 'bbox_head']),
    ):
        assert space.options({'init neck': neck, 'init bbox_head': head}) == {'model.init_from_teacher': parts}


def test_written_config_is_read_and_built(pairs, tmp_path):
    space = Space(load_config(str(pairs['segmentation'])), ['weight', 'levels', 'level-weights', 'init', 'mode'])
    values = {name: getattr(kind, 'choices', [1.5])[-1] for name, kind in space.distributions.items()}
    write_changes(tmp_path / 'trial.py', str(pairs['segmentation']), {**space.options(values), 'a.0.b': 1})
    text = (tmp_path / 'trial.py').read_text()
    assert len(text.splitlines()) <= 4, text
    cfg = load_config(str(tmp_path / 'trial.py'))
    assert cfg.model.distiller.levels == [2] and cfg.model.distiller.loss.loss_weight == [2.25]
    model = build_model(cfg.model, 'model')
    assert list(model.distiller.distill_losses) == ['loss_neck_2']
    assert model.distiller.distill_losses['loss_neck_2'].can is None and model.init_from_teacher


@pytest.mark.parametrize(
    'words, message',
    [
        (['wieght'], "nothing to search that is called 'wieght': name 'weight', 'level-weights'"),
        (['a.b=3..1'], "'3..1' is no range of a.b: write LOW..HIGH with LOW below HIGH"),
        (['a.b=0..1:log'], 'with LOW above 0'),
        (['a.b=1..2:lin'], 'is no range'),
        (['a.b=x..y'], 'is no range'),
    ],
)
def test_mistakes(pairs, words, message):
    with pytest.raises(SetupError, match=message):
        Space(load_config(str(pairs['detection'])), words)


@pytest.mark.parametrize(
    'options, word, message',
    [
        ({WEIGHT: 0}, 'weight', 'which is 0: give another'),
        ({'model.distiller.loss': dict(_delete_=True, type='PKDLoss')}, 'mode', 'this pair has PKDLoss: leave it out'),
        ({'model.distiller.source': None}, 'weight', 'has the long form'),
        ({'model.distiller.source': 'backbone.layer4'}, 'levels', 'gives a single level'),
    ],
)
def test_words_that_do_not_suit_a_pair(pairs, options, word, message):
    with pytest.raises(SetupError, match=message):
        Space(load_config(str(pairs['detection']), options), [word])
