"""A pair is trained and shown: the page, in a browser, and what it says."""

import copy
import os
import re
import shutil

import pytest
import torch

from cankd_mm.apis import train
from cankd_mm.config.read import load_config
from cankd_mm.errors import SetupError
from cankd_mm.models.distillers.recording import recording
from cankd_mm.show.show import show
from cankd_mm.show.stages import AFTER, ALONE, BEFORE, from_split, read_stages
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

TASKS = ['detection', 'segmentation']


@pytest.fixture(scope='module', params=TASKS)
def shown(request, pairs, tmp_path_factory):
    """A pair, its student alone, and the page of both."""
    task, folder = request.param, tmp_path_factory.mktemp('show')
    monitored = pairs[task].with_name(f'{task}_monitored.py')
    monitored.write_text(
        f"_base_ = '{pairs[task].name}'\n"
        "custom_hooks = [dict(type='CanBlockMonitorHook', interval=1)]\n"
        'default_hooks = dict(logger=dict(interval=1))\n'
        'randomness = dict(seed=1)\n'
    )
    train(str(monitored), work_dir=str(folder / 'cankd'))
    train(str(pairs[task].with_name(f'{task}_student.py')), work_dir=str(folder / 'alone'))
    page = show(
        str(monitored),
        str(folder / 'cankd' / 'epoch_2.pth'),
        count=2,
        against=str(folder / 'alone' / 'epoch_2.pth'),
    )
    return task, str(monitored), folder, page


def test_page_holds_all_that_there_is_to_see(shown):
    task, config, folder, page = shown
    html = page.read_text()
    levels = ['neck_0', 'neck_1', 'neck_2']
    names = ['classes', 'predictions', 'losses', 'ratio', 'rate', 'gates', 'metrics']
    names += [f'{level}_{what}' for level in levels for what in ('features', 'left', 'correlation', 'attention')]
    assert {path.stem for path in page.parent.glob('*.png')} == set(names)
    images = len(re.findall(r'<img src="data:image/(?:png|jpeg);base64,', html))
    # Of two images: predictions of three models, features and what is left of three stages, at most three points.
    assert 9 + 2 * 4 + 3 * 2 * (5 + 4 + 3) <= images <= 9 + 2 * 4 + 3 * 2 * (5 + 4 + 5)
    assert config in html and 'What RetinaNet' in html or task == 'segmentation'
    for word in ('every class', 'has stayed the identity', 'student alone', 'CKA, before'):
        assert word in html, word
    assert html.count('<figcaption>') == len(names)


def test_figures_of_a_level_are_what_the_loss_computes(shown):
    """Over the page's two images, of every stage."""
    task, config, folder, page = shown
    cfg = load_config(config)
    stages = read_stages(cfg, str(folder / 'cankd' / 'epoch_2.pth'), str(folder / 'alone' / 'epoch_2.pth'))
    of_first_level = dict(re.findall(r'<tr><td>left, ([^<]*)</td><td>([^<]*)</td>', page.read_text()))
    before, after, alone, through = map(of_first_level.get, ('before', 'after', 'student alone', 'through the block'))
    for stage, shown_figure in ((BEFORE, before), (AFTER, after), (ALONE, alone), (AFTER, through)):
        losses = []
        model = stages.at(stage)
        with torch.no_grad():
            loss = model.distiller.distill_losses['loss_neck_0']
            block, loss.can = loss.can, loss.can if shown_figure == through else None
            for sample in from_split(cfg, 'val', 2):
                data = model.data_preprocessor(copy.deepcopy(sample.data), False)
                recorders = model.distiller.student_recorders, model.distiller.teacher_recorders
                with recording(recorders[0], model, 'student'), recording(recorders[1], model.teacher, 'teacher'):
                    model.frozen_teacher(data['inputs'], data['data_samples'])
                    model.extract_feat(data['inputs'])
                losses.append(float(model.distiller.compute_distill_losses()['loss_neck_0']) / loss.loss_weight)
            loss.can = block
        assert float(shown_figure) == pytest.approx(sum(losses) / 2, abs=6e-4)
    assert len({before, after, alone}) == 3


def test_in_a_browser(shown):
    """At the widths of a phone and of a desk: nothing is fetched, nothing fails, all pictures are there."""
    webdriver = pytest.importorskip('selenium.webdriver')
    binary, driver_path = shutil.which('chromium'), shutil.which('chromedriver')
    if not binary or not driver_path:
        if os.environ.get('REQUIRE_CHROMIUM'):
            pytest.fail('there is no chromium')
        pytest.skip('needs chromium and chromedriver')
    from selenium.webdriver.chrome.service import Service

    *_, page = shown
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for word in ('headless=new', 'no-sandbox', 'disable-gpu', 'disable-background-networking', 'no-first-run'):
        options.add_argument(f'--{word}')
    options.set_capability('goog:loggingPrefs', dict(browser='ALL'))
    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    try:
        for width in (390, 1200):
            driver.set_window_size(width, 900)
            driver.get(page.as_uri())
            pictures = driver.execute_script('return [...document.images].map(i => [i.complete, i.naturalWidth])')
            assert len(pictures) > 10 and all(done and size > 0 for done, size in pictures)
            fetched = driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
            assert [name for name in fetched if not name.startswith('data:')] == []
            assert driver.get_log('browser') == []
            wide, inner = driver.execute_script('return [document.documentElement.scrollWidth, window.innerWidth]')
            tables = "return [...document.querySelectorAll('table')].map(t => t.getBoundingClientRect().width)"
            widest = max([wide, *driver.execute_script(tables)])
            assert widest <= inner, f'the page or a table is wider than the window of {width} pixels'
    finally:
        driver.quit()


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(images=['nowhere.jpg']), "image 'nowhere.jpg' does not exist"),
        (dict(images=[str(ROOT / 'setup.py')]), "setup.py' cannot be decoded"),
        (dict(at=(9999, 3)), 'x=9999, y=3 lies outside of'),
        (dict(at=(3, -1)), r'x=3, y=-1 lies outside of .* pixels: give --at a point inside'),
        (dict(split='nowhere'), "no data called 'nowhere': give --split val, test or train"),
        (dict(count=0), 'no image to look at'),
        (dict(against='nowhere.pth'), "checkpoint 'nowhere.pth' does not exist"),
    ],
)
def test_mistakes(shown, options, words):
    _, config, folder, _ = shown
    with pytest.raises(SetupError, match=words):
        show(config, str(folder / 'cankd' / 'epoch_2.pth'), evaluate=False, **options)


def test_checkpoint_of_another_config(shown, pairs):
    task, config, folder, _ = shown
    with pytest.raises(SetupError, match='lacks .* of the .* parameters .*: give the checkpoint of this config'):
        show(config, str(folder / 'alone' / 'epoch_2.pth'))
    with pytest.raises(SetupError, match='Only pairs with FeatureDistill can be shown'):
        show(str(pairs[task].with_name(f'{task}_student.py')), str(folder / 'alone' / 'epoch_2.pth'))


def test_files_without_annotations_and_without_data(shown, tmp_path):
    """No log, no data, an image of a user's own, and a pixel to look from."""
    task, config, folder, _ = shown
    checkpoint = shutil.copy(folder / 'cankd' / 'epoch_2.pth', tmp_path)
    image = next((ROOT / 'docs').glob('comparison.jpg'))
    options = {'val_dataloader.dataset.data_root': 'nowhere/'}
    page = show(config, checkpoint, images=[str(image)], at=(40, 30), cfg_options=options, out=str(tmp_path / 'page'))
    html = page.read_text()
    assert 'By column: image, teacher, student' in html and 'ground truth' not in html
    assert 'validation set needs nowhere/' in html and 'There is no log of the training' in html
    assert page == tmp_path / 'page' / 'report.html' and (tmp_path / 'page' / 'neck_0_attention.png').exists()
