"""The metafiles agree with the configs, with the paper, and with the model zoos that the libraries install."""

import os.path as osp
from pathlib import Path
from urllib.parse import urlparse

import pytest
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.hub import get_config
from mmengine.utils import get_installed_path

from cankd_mm.config.paths import config_file
from cankd_mm.experiments.rows import load_rows, table
from tests.conftest import ROOT
from tests.test_configs.paper import DIFFERENCES, ROWS
from tests.test_configs.test_recipes import without_scope

CONFIGS = ROOT / 'configs'
ENTRIES = load_rows(CONFIGS)
PAIRS = [row for row in ENTRIES if row.config.parent.name != 'demo']


def by_name(row):
    return row.name


def zoo_figure(config, metric):
    """The figure of a config in the zoo that stands beside it."""
    package, _, path = config.partition('::')
    folder = Path(get_installed_path(package)) / '.mim' / 'configs' / osp.dirname(path)
    metafile = load(str(next(folder.glob('metafile.y*ml'))))
    models = metafile['Models'] if isinstance(metafile, dict) else metafile
    model = next(m for m in models if m['Name'].strip() == Path(path).stem)
    results = model['Results'] if isinstance(model['Results'], list) else [model['Results']]
    return next(r['Metrics'][metric] for r in results if metric in r['Metrics'])


def test_every_pair_is_in_its_metafile_and_the_other_way_round():
    for folder in ('detection', 'segmentation'):
        files = {path.stem for path in (CONFIGS / folder).glob('*.py')}
        assert files == {row.name for row in PAIRS if row.config.parent.name == folder}
    numbers = [row.number for row in ENTRIES if row.number]
    assert len(numbers) == len(set(numbers))
    wanted = {*ROWS, *(f'{number}-init' for number, row in ROWS.items() if row.with_init)}
    assert wanted == set(numbers) - {'3-authors', 'demo-detection', 'demo-segmentation'}


@pytest.mark.parametrize('row', ENTRIES, ids=by_name)
def test_metafile_says_what_the_config_does(row):
    cfg = Config.fromfile(str(row.config))
    teachers = (osp.realpath(config_file(path)) for path in (cfg.model.teacher, row.teacher.config))
    assert len({*teachers}) == 1
    demo = row.config.parent.name == 'demo'
    assert demo or cfg.model.teacher_ckpt == row.teacher.weights
    assert cfg.model.distiller.loss.loss_weight == row.mu
    assert cfg.train_dataloader.batch_size == row.batch_size
    assert cfg.auto_scale_lr.base_batch_size == max(row.gpus, 1) * row.batch_size
    if not demo:
        _, teacher, student, schedule, _ = row.name.split('_')
        assert row.schedule == schedule
        for slug, name in ((teacher, row.teacher.name), (student, row.student.name)):
            assert name.lower().replace('r-cnn', 'rcnn').replace(' ', '-').startswith(slug)


@pytest.mark.parametrize('number', ROWS)
def test_metafile_gives_the_papers_figures(number):
    paper = ROWS[number]
    for key, figure in ((number, paper.figure), (f'{number}-init', paper.with_init)):
        if figure is not None:
            row = next(row for row in ENTRIES if row.number == key)
            assert row.paper == figure
            assert row.name.split('_', 1)[1] == paper.config.split('_', 1)[1]
            assert (row.student.config, row.teacher.config) == (paper.student, paper.teacher)


@pytest.mark.parametrize('row', PAIRS, ids=by_name)
def test_figures_are_the_zoos(row):
    for model in (row.student, row.teacher):
        if (model.config or '').startswith(('mmdet::', 'mmseg::')):
            assert model.figure == zoo_figure(model.config, row.metric), model.config


@pytest.mark.parametrize('number', ROWS)
def test_the_papers_baselines_are_the_zoos_or_known_to_differ(number):
    paper = ROWS[number]
    metric = 'mIoU' if paper.crop else 'box AP'
    for config, figure in ((paper.student, paper.alone), (paper.teacher, paper.teacher_alone)):
        if config.startswith(('mmdet::', 'mmseg::')):
            zoo = zoo_figure(config, metric)
            assert figure == zoo or DIFFERENCES[config] == (figure, zoo), config


def test_known_differences_are_differences():
    for config, (paper, zoo) in DIFFERENCES.items():
        assert paper != zoo == zoo_figure(config, 'mIoU' if config.startswith('mmseg') else 'box AP')


@pytest.mark.parametrize('row', PAIRS, ids=by_name)
def test_teacher_weights_are_the_zoos(row):
    """A teacher without public weights has a config here that trains it."""
    if row.teacher.weights is None:
        assert (ROOT / config_file(row.teacher.config)).exists() and row.teacher.config.startswith('cankd_mm::models/')
    else:
        # The maintained fork has the same files on another host.
        weights = get_config(row.teacher.config, pretrained=True).model_path
        assert urlparse(row.teacher.weights).path == urlparse(weights).path


@pytest.mark.parametrize('folder', ['detection', 'segmentation'])
def test_readme_shows_the_metafile(folder):
    text = (CONFIGS / folder / 'README.md').read_text()
    rows = [row for row in PAIRS if row.config.parent.name == folder]
    for part in ([row for row in rows if row.number], [row for row in rows if not row.number]):
        if part:
            wanted = table(part, CONFIGS / folder)
            assert wanted in text, f'configs/{folder}/README.md should hold\n{wanted}'


def test_readme_of_all_shows_the_demo():
    text = (CONFIGS / 'README.md').read_text()
    demo = [row for row in ENTRIES if row.config.parent.name == 'demo']
    for row in demo:
        assert table([row], CONFIGS) in text, f'configs/README.md should hold\n{table([row], CONFIGS)}'
    assert len(demo) == 2


def test_plain_models_differ_from_the_zoos_in_the_backbone():
    for path in (CONFIGS / 'models').glob('*.py'):
        (base,) = Config._get_base_files(str(path))
        ours, stock = (without_scope(cfg.to_dict()) for cfg in (Config.fromfile(str(path)), get_config(base)))
        changed = {key for key in stock['model'] if ours['model'][key] != stock['model'][key]}
        for head in changed & {'decode_head', 'auxiliary_head'}:  # as wide as the backbone's stages ask for
            widths = ('in_channels', 'channels')
            assert all(
                ours['model'][head][key] == value for key, value in stock['model'][head].items() if key not in widths
            )
            changed.remove(head)
        assert changed <= {'backbone', 'neck', 'pretrained'} and 'backbone' in changed
        assert all(ours[key] == stock[key] for key in stock if key not in ('model', 'pretrained'))


def test_pspnet_r18_is_that_of_the_zoo_on_another_data_set():
    ours = Config.fromfile(str(CONFIGS / 'models' / 'pspnet_r18-d8_4xb4-80k_ade20k-512x512.py')).model
    stock = get_config('mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py').model
    assert ours.pretrained == stock.pretrained and ours.backbone.depth == stock.backbone.depth == 18
    for head in ('decode_head', 'auxiliary_head'):
        assert all(ours[head][key] == stock[head][key] for key in ('in_channels', 'channels'))
