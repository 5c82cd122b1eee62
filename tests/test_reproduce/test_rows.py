import pytest

from cankd_mm.config.read import load_config, read_dumped
from cankd_mm.errors import SetupError
from cankd_mm.experiments.rows import deviation, find_row, load_rows, table
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


def deviates(key, gpus=2, **options):
    row = find_row(ROWS, key)
    return deviation(row, load_config(str(row.config), options), gpus)


@pytest.mark.parametrize('row', [row for row in ROWS if row.paper], ids=lambda row: row.number)
def test_a_row_as_it_is_trained_is_by_its_recipe(row, tmp_path):
    """With the config that a training keeps in its folder, data elsewhere, and another seed."""
    cfg = load_config(str(row.config), {'randomness.seed': 3, 'train_dataloader.num_workers': 1})
    data = cfg.train_dataloader.dataset
    while 'dataset' in data:
        data = data.dataset
    data.data_root = f'/mnt/{data.data_root}'
    if row.teacher.weights is None:
        cfg.model.teacher_ckpt = 'my_teacher.pth'
    cfg.auto_scale_lr.enable = True
    cfg.dump(str(tmp_path / 'kept.py'))
    assert deviation(row, read_dumped(tmp_path / 'kept.py'), row.gpus) == ''


@pytest.mark.parametrize(
    'key, gpus, options, words',
    [
        ('2-init', 8, {}, ''),  # epochs, to which the learning rate is scaled
        ('2-init', 1, {'train_dataloader.batch_size': 4}, ''),
        ('2-init', 2, {'train_dataloader.batch_size': 4}, 'train_dataloader.batch_size was 2 and is 4'),
        ('2-init', None, {'train_cfg.max_epochs': 1}, 'train_cfg.max_epochs was 24 and is 1'),
        ('2-init', 2, {'train_dataloader.dataset.pipeline.2.scale': (160, 128)}, 'scale was [1333, 800] and is [160,'),
        ('2-init', 2, {'model.distiller.loss.loss_weight': 9.0}, 'loss_weight was 5.0 and is 9.0'),
        ('2-init', 2, {'model.test_cfg.score_thr': 0.3}, 'model.test_cfg.score_thr was'),
        ('11', 8, {}, 'batches of 16 in place of 4 see 4 times as many images'),
        ('11', 1, {}, 'batches of 2 in place of 4 see 0.5 times as many images'),
        ('11', 1, {'train_dataloader.batch_size': 4}, ''),
        (
            '11',
            4,
            {'train_cfg.max_iters': 20000},
            'in place of 4 see 0.5 times as many images, train_cfg.max',
        ),
    ],
)
def test_another_recipe_is_said(key, gpus, options, words):
    said = deviates(key, gpus, **options)
    assert words in said and bool(words) == bool(said)
