"""Several comparisons in one table."""

import sys

import pytest
from mmengine.fileio import dump

from cankd_mm.__main__ import main
from tests.test_experiment.test_report import cells, experiment


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """Have comparisons laid out together: the cells of the table, and the sentences below it."""

    def run(*stored):
        paths = [tmp_path / f'pair{number}' / 'results.json' for number, _ in enumerate(stored)]
        for path, results in zip(paths, stored):
            path.parent.mkdir()
            dump(results, str(path))
        monkeypatch.setattr(sys, 'argv', ['cankd', 'compare', *map(str, paths)])
        main()
        table, *sentences = capsys.readouterr().out.strip().split('\n\n')
        return cells(table), sentences

    return run


def pair(teacher, alone, **methods):
    return dict(experiment(student_alone=alone, **methods), teacher=teacher)


SIXTY = pair(20, [10, 10], x=[15, 17])


@pytest.mark.parametrize(
    'pairs, row',
    [
        # Shares of 50 and 70 %, and of 10 and 30 %: the least and the greatest have a chance of one in 16 each.
        (
            [pair(20, [10, 10], x=[15, 17]), pair(50, [30, 30], x=[32, 36])],
            ['x', '2', '40% (30% to 50%)', '60%', '20%'],
        ),
        # Of six draws all are the lesser with a chance of one in 64, and five or more of 7 in 64.
        ([SIXTY] * 3, ['x', '3', '60% (53% to 67%)', '60%', '60%', '60%']),
        # A seed is drawn for both: 5 of 11, of 10 and of 9.
        ([pair(21, [10, 12], x=[15, 17])] * 2, ['x', '2', '50% (45% to 56%)', '50%', '50%']),
        ([SIXTY, pair(20, [10, 10], x=[15])], ['x', '2', '55%', '60%', '50%']),
        # What is less is better.
        ([dict(pair(1, [3, 3], x=[2, 2]), rule='less')] * 2, ['x', '2', '50% (50% to 50%)', '50%', '50%']),
    ],
)
def test_share_of_the_gap_with_an_interval_by_bootstrap_within_each_pair(said, pairs, row):
    (head, _, *rows), sentences = said(*pairs)
    assert rows == [row] and len(sentences) == 1
    assert head == ['method', 'pairs', 'of the gap', *(f'pair{number}' for number, _ in enumerate(pairs))]


def test_what_is_left_out_is_said(said):
    whole = pair(20, [10, 10], cankd=[15, 15], x=[16, 16])
    # The reference was called by its file.
    renamed = dict(pair(20, [10, 10], retinanet=[14, 14]), reference='retinanet')
    renamed['runs'] = [dict(run, loss='CanKDLoss') for run in renamed['runs']]
    unknown, behind, apart = pair(None, [10], cankd=[15]), pair(9, [10], cankd=[15]), experiment(cankd=[15])
    (_, _, *rows), sentences = said(whole, renamed, unknown, behind, apart)
    assert rows == [['cankd', '2', '45% (45% to 45%)', '50%', '40%']], 'x is in one of them'
    words = ['pair2/results.json has no figure of its teacher', 'pair3/results.json is left out: its teacher, with 9,']
    for word, sentence in zip([*words, 'pair4/results.json has no student alone'], sentences[1:]):
        assert word in sentence


def test_a_pair_is_compared_by_itself(pairs, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['cankd', 'compare', *map(str, pairs.values())])
    with pytest.raises(SystemExit, match='several results.json make one table'):
        main()
