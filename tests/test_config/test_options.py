"""A value that a user gives arrives as it was given, from the command line and through it."""

import pytest
from mmengine.config import DictAction

from cankd_mm.config.options import format_options, parse_options
from cankd_mm.errors import SetupError

VALUES = [
    1,
    2.5,
    1e-3,
    True,
    None,
    '',
    'a b',
    'my weights, new/r101.pth',
    "it's",
    '[not a list]',
    '(1,2)',
    '1',
    'None',
    [1, 2],
    (160, 128),
    [(1, 2), (3, 4)],
    ['a, b', 'c d'],
    {'a.b': 1, 'c': [None, 'x, y']},
    [],
    [dict(type='Resize', scale=(1, 2))],
]


@pytest.mark.parametrize('value', VALUES)
def test_every_value_arrives(value):
    found = parse_options(format_options({'model.x': value}))
    assert found == {'model.x': value} and type(found['model.x']) is type(value)


@pytest.mark.parametrize(
    'text',
    ['1', '1e-3', 'true', 'False', 'None', 'a', '1,2,3', '[a,b]', '(a,b)', '[(1,2),(3,4)]', '[[1,a],b]', "'quoted'"]
    + ['work_dirs/x.pth', '[1]', '(1,)', 'a=b', '-3', '[]'],
)
def test_what_users_type_means_what_it_means_to_mmengine(text):
    assert parse_options([f'key={text}']) == {'key': DictAction._parse_iterable(text)}


def test_paths_keep_blanks_and_commas(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_options(['a=my weights/x.pth']) == {'a': 'my weights/x.pth'}
    assert parse_options(['a="b, c.pth"']) == {'a': 'b, c.pth'}
    assert parse_options(['a=b, c.pth']) == {'a': ['b', 'c.pth']}, 'as in MMEngine, where no such file is there'
    (tmp_path / 'b, c.pth').touch()
    assert parse_options(['a=b, c.pth']) == {'a': 'b, c.pth'}


@pytest.mark.parametrize(
    'word, message',
    [
        ("a.b=[dict(type='L'),dict(type='R',scale=(128,96))]", r"got \"dict\(type='L'\)\", which is no literal"),
        ("a.b=dict(type='L')", 'which is no literal: give numbers, words, lists or tuples'),
        ('a.b', 'write KEY=VALUE'),
    ],
)
def test_mistakes(word, message):
    with pytest.raises(SetupError, match=message):
        parse_options([word])
