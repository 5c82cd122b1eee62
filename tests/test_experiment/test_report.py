"""What is made of an experiment's figures."""

import math
import statistics

import pandas as pd
import pytest

from cankd_mm.experiments.logged import blocks as blocks_of
from cankd_mm.experiments.report import ALONE, LONGER, blocks_table, paired_difference, verdicts, write_report


def cells(table):
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in table.strip().splitlines()]


def test_paired_difference_is_students_t():
    ours, theirs = pd.Series({0: 3.0, 1: 5.0, 2: 4.5, 7: 9.0}), pd.Series({0: 1.0, 1: 4.0, 2: 4.0})
    differences = [2.0, 1.0, 0.5]
    margin = 4.3027 * statistics.stdev(differences) / math.sqrt(3)  # Student's t for two degrees of freedom
    assert paired_difference(ours, theirs) == f'+1.2 ± {margin:.1f}' == '+1.2 ± 1.9'
    assert paired_difference(pd.Series({0: 1.0}), pd.Series({0: 3.0})) == '-2.0'
    assert paired_difference(pd.Series({0: 1.0}), pd.Series({1: 3.0})) == ''


def experiment(**values):
    """Results with the figures of each method, one for each seed."""
    names = {name.replace('_', ' '): figures for name, figures in values.items()}
    names = {LONGER if name == 'longer' else name: figures for name, figures in names.items()}
    runs = [dict(method=name, seed=s, value=v) for name, figures in names.items() for s, v in enumerate(figures)]
    return dict(reference='cankd', metric='mIoU', methods=dict.fromkeys(names), runs=runs)


@pytest.mark.parametrize(
    'figures, rule, verdict',
    [
        ([12, 13, 14], 'greater', 'pays against the student alone: +3.0 ± 2.5 mIoU'),
        ([12, 13, 14], 'less', 'does not pay against the student alone: +3.0 ± 2.5 mIoU'),
        ([8, 7, 6], 'greater', 'does not pay against the student alone: -3.0 ± 2.5 mIoU'),
        # The standard deviation is 1 and the mean difference 1: 2.776 / sqrt(5) > 1, 2.571 / sqrt(6) > 1 and
        # 2.447 / sqrt(7) < 1 with Student's t for 4, 5 and 6 degrees of freedom.
        ([10, 11, 12], 'greater', 'with these 3 seeds (+1.0 ± 2.5 mIoU): it takes about 4 more'),
        ([10, 9, 8], 'greater', 'with these 3 seeds (-1.0 ± 2.5 mIoU): it takes about 4 more'),
        ([10, 10, 10], 'greater', 'with these 3 seeds (+0.0 ± 0.0 mIoU): it takes more than 100 more'),
        ([12], 'greater', 'cannot be told from the student alone with one seed (+2.0 mIoU): it takes at least two'),
    ],
)
def test_a_sentence_says_whether_a_method_pays(figures, rule, verdict):
    results = dict(experiment(student_alone=[10, 10, 10], cankd=figures), rule=rule)
    (sentence,) = verdicts(results).splitlines()
    assert sentence.startswith('cankd ') and verdict in sentence


def test_as_much_time_is_compared_with_too():
    results = experiment(student_alone=[10, 10], longer=[14, 14], cankd=[12, 12], x=[20, 20])
    results['longer'] = dict(method='x', ratio=1.44, alone=10, length=14, unit='epochs')
    assert verdicts(results).splitlines() == [
        'cankd pays against the student alone: +2.0 ± 0.0 mIoU; it does not pay against the student alone for as much '
        'time: -2.0 ± 0.0 mIoU.',
        'x pays against the student alone: +10.0 ± 0.0 mIoU; it pays against the student alone for as much time: '
        '+6.0 ± 0.0 mIoU.',
        'The student alone for as much time has 14 epochs in place of 10: a step of x takes 1.44 times as long.',
    ]
    assert verdicts(experiment(cankd=[1, 2])) == '', 'without labels nothing is alone'


def test_report_is_made_again_from_its_json(tmp_path):
    def run(method, seed, value):
        return dict(method=method, seed=seed, value=value, seconds_per_step=0.1, peak_mb=10.0, distill_to_task=None)

    runs = [run(ALONE, 0, 10.0), run(ALONE, 1, 12.0), run('cankd', 0, 20.0), run('cankd', 1, 24.0), run('x', 0, 21.0)]
    results = dict(reference='cankd', metric='mIoU', methods=dict.fromkeys([ALONE, 'cankd', 'x']), runs=runs)
    text = write_report(results, tmp_path, 'again')
    assert cells(text.split('\n\n')[0])[2:] == [
        [ALONE, '10.0 12.0', '11.0', '1.4', '', '', '0.10', '10'],
        ['cankd', '20.0 24.0', '22.0', '2.8', '+11.0 ± 12.7', '', '0.10', '10'],
        ['x', '21.0', '21.0', '', '+11.0', '+1.0', '0.10', '10'],
    ]
    assert 'distill / task' not in text, 'of which nothing is known'
    assert (tmp_path / 'again.png').exists() and (tmp_path / 'again.md').exists()


def test_blocks_are_followed_over_the_training(tmp_path):
    """Measured every 20 iterations and logged every 10: at most some ten points, and the last."""
    logged = {'loss': 1.0, 'can/neck_0_ratio': 0.1}
    steps = [{**logged, 'step': 10 * i, 'can/neck_0_weight': 0.01 * (i // 2)} for i in range(2, 51)]
    blocks = blocks_of([{'step': 10, 'loss': 1.0}, *steps])
    assert blocks['neck_0_weight'][:2] == [[20, 0.01], [60, 0.03]] and blocks['neck_0_weight'][-1] == [500, 0.25]
    assert len(blocks['neck_0_ratio']) == 13 and blocks_of([{'step': 10, 'loss': 1.0}]) == blocks_of([]) == {}
    run = dict(seed=0, value=50.0, seconds_per_step=0.1, peak_mb=10.0, distill_to_task=2.0, distill_loss=3.0)
    runs = [
        dict(run, method='cankd', loss='CanKDLoss', blocks=blocks),
        dict(run, method='no-block', loss='CanKDLoss', blocks={}),
        dict(run, method='pkd', loss='PKDLoss', blocks={}),
    ]
    results = dict(reference='cankd', metric='mIoU', methods=dict.fromkeys(['cankd', 'no-block', 'pkd']), runs=runs)
    text = write_report(results, tmp_path)
    of_blocks = cells(text.split('\n\n')[1])[2:]
    assert of_blocks == [['cankd', '50.0', '3.00', '0.25', '0.10'], ['no-block', '50.0', '3.00', '', '']]
    assert (tmp_path / 'results_blocks.png').exists()
    assert blocks_table(dict(results, runs=runs[1:])) == ''
    assert blocks_table(dict(results, runs=[dict(runs[0], distill_loss=None, blocks={})])) == ''
