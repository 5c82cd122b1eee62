import pytest

from cankd_mm.errors import SetupError
from cankd_mm.experiments.rows import find_row, load_rows, table
from tests.conftest import ROOT

ROWS = load_rows(ROOT / 'configs')


@pytest.mark.parametrize(
    'key', ['2-init', 'cankd-init_retinanet-r101_retinanet-r50_2x_coco', 'configs/detection/{}.py', '{}.py']
)
def test_a_row_is_found_by_number_name_and_path(key):
    name = 'cankd-init_retinanet-r101_retinanet-r50_2x_coco'
    row = find_row(ROWS, key.format(name))
    assert (row.number, row.name, row.paper) == ('2-init', name, 39.8)
    assert row.config.exists() and row.teacher.figure == 38.9 and row.student.name == 'RetinaNet R50'


@pytest.mark.parametrize('key, words', [('15', "'1'"), ('cankd_retinanet', 'did you mean'), ('configs/x.py', 'mean')])
def test_a_row_that_is_not_there(key, words):
    with pytest.raises(SetupError, match=words) as error:
        find_row(ROWS, key)
    assert '\n' not in str(error.value)


def test_rows_of_the_paper_come_first():
    kinds = [(row.number is None, row.config.parent.name == 'demo') for row in ROWS]
    assert kinds == sorted(kinds)


def test_table_says_what_has_not_been_run():
    paper, demo = (table([find_row(ROWS, key)], ROOT / 'configs').splitlines()[-1] for key in ('8', 'demo-detection'))
    paper, demo = ([cell.strip() for cell in line.split('|')] for line in (paper, demo))
    assert paper[4:6] == ['49.7', 'not run yet'] and 'no public weights' in paper[3]
    assert demo[4:6] == ['-', '50.1'] and '(demo/cankd_' in demo[9]
