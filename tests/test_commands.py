"""Every command of README and site, run as it stands there, on a few small images and for an iteration or two."""

import contextlib
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.models.backbones import EfficientNet
from mmengine.config import Config
from mmengine.runner import save_checkpoint
from mmengine.utils import get_installed_path

from benchmarks import gpu, growth, loss, measure, operators, step
from cankd_mm import __main__ as cli
from cankd_mm.backbones import EfficientNetLite
from cankd_mm.config.read import load_model_cfg
from cankd_mm.experiments.jobs import Local
from cankd_mm.models.algorithms import feature_distill
from cankd_mm.models.builders import build_model
from tests.conftest import ROOT
from tests.test_configs.small import make_data, narrow, shrink
from tests.test_docs import PAGES, blocks

pytestmark = pytest.mark.slow

# What a page says in capitals, or what stands for it: files of the fixtures below.
NAMES = {
    'CONFIG': 'pair.py',
    'PAIR': 'pair.py',
    'TEACHER': 'teacher.py',
    'STUDENT': 'student.py',
    'PTH': 'teacher.pth',
    'FILE': 'made.py',
    'IMAGES': 'photos',
    'DIR': 'labels',
    'CHECKPOINT': 'work_dirs/run/epoch_1.pth',
    'STUDENT_ALONE.pth': 'work_dirs/alone/epoch_1.pth',
    'cankd_mm::detection/cankd_retinanet-r101_retinanet-r50_2x_coco.py': 'row.py',
}
SHORT = {
    'train_cfg.max_epochs': 1,
    'train_cfg.val_interval': 1,
    'train_dataloader.dataset.indices': 4,
    'val_dataloader.dataset.indices': 2,
    'test_dataloader.dataset.indices': 2,
}

TYPED = r'(?:cankd|make|torchrun|python) .*'
NOT_TYPED = r'(?:\w+=\d )?(?:pip|mim) .*|([A-Z]+)="?([^"#]*?)"?(?: *#.*)?|#.*|'  # it installs, sets, or says something


def lines_of(page):
    text = '\n'.join(block for name, block in blocks('bash') if name == page)
    return re.sub(r'\\\n\s*', ' ', text).splitlines()


def commands(page):
    """The commands of a page, with the values of the variables that it sets, as lists of words."""
    values = dict(found.groups() for line in lines_of(page) if (found := re.fullmatch(NOT_TYPED, line)))
    for line in filter(re.compile(TYPED).match, lines_of(page)):
        line = re.sub(r'\$([A-Z]+)', lambda name: values[name[1]], re.sub(r'\s+#.*', '', line))
        yield [found for word in shlex.split(line) for found in _files(word)]


def _files(word):
    if '*' in word:
        return sorted(map(str, Path().glob(word)))
    return [NAMES.get(word) or re.sub(r'epoch_\d+\.pth', 'epoch_1.pth', word)]


@pytest.fixture
def typed(tmp_path, monkeypatch, forked):
    """Type the commands of a page in a folder beside the configs; each has to end well. What they said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')
    for name in ('configs', 'tools'):
        (tmp_path / name).symlink_to(ROOT / name)

    def run(page):
        return {' '.join(words): execute(words) for words in commands(page)}

    def execute(words):
        # Loggers keep the stream, which is closed at no end of a test.
        with contextlib.redirect_stdout(io.StringIO()) as out:
            start(words)
        return out.getvalue()

    def start(words):
        if words[0] == 'make':
            subprocess.run(['make', '--dry-run', words[1]], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        elif words[0] == 'cankd':
            cankd(words[1:])
        elif words[0] == 'python':
            monkeypatch.setattr(sys, 'argv', words[2:])
            program(words[2])
        else:
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)

    def cankd(words):
        arguments = vars(cli._parser().parse_args(words))
        command, call, _ = (arguments.pop(key) for key in ('command', 'run', 'parser'))
        config = arguments.get('config') or arguments.get('pair', [''])[0]
        if config.startswith(('configs', 'work_dirs')) and 'cfg_options' in arguments:
            arguments['cfg_options'] = {**(arguments['cfg_options'] or {}), **SHORT}
        if command == 'compare':  # every method trains in tests/test_compare: of many, the configs are written
            arguments['seeds'], arguments['no_train'] = [0], arguments['no_train'] or len(arguments['methods']) > 1
        elif command == 'tune':
            arguments['trials'] = 1
        try:
            call(**arguments)
        except SystemExit as e:
            assert not e.code, e.code

    def program(name):
        if name.startswith('benchmarks.'):  # as it is imported here, with the sizes that a test gives it
            try:
                import_module(name).main()
            except SystemExit as e:
                assert not e.code, e.code
        else:
            runpy.run_module(name, run_name='__main__', alter_sys=True)

    return run


@pytest.fixture
def small(pairs, tmp_path, typed):
    """A pair, both of its models, and checkpoints of finished trainings, by the names of NAMES."""
    from cankd_mm.apis import train

    pair = pairs['segmentation']
    cfg = Config.fromfile(str(pair))
    bases = dict(pair=pair, teacher=cfg.model.teacher, student=pair.with_name('segmentation_student.py'))
    for name, base in bases.items():
        (tmp_path / f'{name}.py').write_text(f"_base_ = '{base}'\ntrain_cfg = dict(max_epochs=1, val_interval=1)\n")
    (tmp_path / 'teacher.pth').symlink_to(cfg.model.teacher_ckpt)
    (tmp_path / 'photos').symlink_to(Path(cfg.train_dataloader.dataset.data_root) / 'leftImg8bit' / 'val')
    train('pair.py', work_dir='work_dirs/run')
    train('student.py', work_dir='work_dirs/alone')


@pytest.fixture
def zoo(tmp_path, typed, monkeypatch):
    """What is written of the zoo's models and of the paper's rows is small, and its weights are not fetched."""
    from cankd_mm.apis.pair import write_pair

    make_data(tmp_path / 'data')
    row = 'configs/detection/cankd_retinanet-r101_retinanet-r50_2x_coco.py'

    def made_small(path, out):
        cfg = shrink(path, tmp_path / 'data')
        teacher = load_model_cfg(cfg.model.teacher)
        cfg.model.update(teacher=narrow(teacher), architecture=narrow(cfg.model.architecture.to_dict()))
        cfg.dump(str(out))

    def write(teacher, student, out, **options):
        said = write_pair(teacher, student, out, **options)
        made_small(out, out)
        return said

    monkeypatch.setattr('cankd_mm.apis.pair.write_pair', write)
    monkeypatch.setattr(feature_distill, 'load_pretrained', lambda *args: None)
    made_small(row, tmp_path / 'row.py')


@pytest.fixture
def cells(tmp_path):
    """The data set of the guide, in COCO format and as label maps, in an empty folder."""
    generator = np.random.default_rng(0)
    root = tmp_path / 'data' / 'cells'
    for split in ('train', 'val'):
        coco = dict(
            images=[],
            annotations=[],
            categories=[dict(id=i, name=n) for i, n in enumerate(['RBC', 'WBC', 'Platelets'])],
        )
        for folder in ('images', f'images/{split}', f'label_maps/{split}'):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(4):
            image, labels = generator.integers(0, 60, (300, 320, 3), np.uint8), np.zeros((300, 320), np.uint8)
            x, y, side = (int(n) for n in (*generator.integers(10, 200, 2), generator.integers(40, 90)))
            image[y : y + side, x : x + side] += 150
            labels[y : y + side, x : x + side] = 1
            cv2.imwrite(str(root / 'images' / f'{split}{i}.png'), image)
            cv2.imwrite(str(root / 'images' / split / f'{i}.png'), image)
            cv2.imwrite(str(root / 'label_maps' / split / f'{i}.png'), labels)
            coco['images'].append(dict(id=i, file_name=f'{split}{i}.png', width=320, height=300))
            box = dict(bbox=[x, y, side, side], area=side**2, iscrowd=0)
            coco['annotations'].append(dict(id=i + 1, image_id=i, category_id=i % 3, **box))
        (root / 'annotations').mkdir(exist_ok=True)
        (root / 'annotations' / f'{split}.json').write_text(json.dumps(coco))


def test_readme(typed, zoo, tmp_path):
    said = typed('README.md')
    assert 'row_student.pth' in said['cankd export row.py work_dirs/run/epoch_1.pth']
    assert (tmp_path / 'work_dirs/run/student/row_student.pth').exists()
    typed('CONTRIBUTING.md')


@pytest.mark.full
def test_get_started(typed, zoo, monkeypatch):
    """The demo itself is trained in tests/test_demo."""
    asked = []
    monkeypatch.setattr('cankd_mm.demo.run.run_demo', lambda *args: asked.append(args) or 'a table')
    said = typed('docs/get_started.md')
    assert 'Everything that cankd_mm needs is here.' in said['cankd doctor']
    assert said['cankd check my_pair.py'].splitlines()[-1].startswith(('ready: ', 'doubtful: '))
    typed('docs/demo.md')
    assert [length for *_, length, _ in asked] == ['quick', 'full']


ON_A_PAIR = ['docs/index.md', 'docs/show.md', *(f'docs/guides/{name}.md' for name in ('methods', 'pair', 'unlabeled'))]


@pytest.mark.full
@pytest.mark.parametrize('page', ON_A_PAIR)
def test_pages_on_a_pair(typed, small, page):
    assert typed(page)


def test_export(typed, small, tmp_path, monkeypatch):
    student = 'work_dirs/run/student/pair_student'
    monkeypatch.setitem(NAMES, 'TOOL', os.path.join(get_installed_path('mmseg'), '.mim', 'tools', 'test.py'))
    for suffix in ('.py', '.pth'):
        monkeypatch.setitem(NAMES, f'STUDENT{suffix}', f'{student}{suffix}')
    *_, said = typed('docs/guides/export.md').values()
    assert 'mIoU: ' in said


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_what_goes_to_onnx_gives_whole_batches(pairs, task):
    (code,) = (block for page, block in blocks('python') if page == 'docs/guides/export.md')
    found = {}
    exec(code.split('\nmodel = ')[0], found)  # noqa: S102
    model = build_model(str(pairs[task].with_name(f'{task}_student.py')), 'student').eval()
    maps = found['Network'](model)(torch.randn(2, 3, 128, 128))
    levels = maps if task == 'detection' else [maps]
    assert isinstance(levels, (tuple, list)) and all(level.ndim == 4 and len(level) == 2 for level in levels)


def test_onnx(pairs, tmp_path, monkeypatch):
    """The code of the page, with the student of a detector."""
    pytest.importorskip('onnxscript')
    from cankd_mm.apis import export_student, train

    monkeypatch.chdir(tmp_path)
    (tmp_path / 'pair.py').write_text(f"_base_ = '{pairs['detection']}'\ntrain_cfg = dict(max_epochs=1)\n")
    train('pair.py', work_dir='run')
    export_student('pair.py', 'run/epoch_1.pth', 'student')
    (code,) = (block for page, block in blocks('python') if page == 'docs/guides/export.md')
    exec(code, {})  # noqa: S102
    assert (tmp_path / 'student.onnx').exists()


@pytest.mark.full
def test_machines(typed, small, monkeypatch):
    """As jobs of a real Slurm: tests/test_slurm."""
    pytest.importorskip('submitit')
    asked = []
    monkeypatch.setattr('cankd_mm.experiments.slurm.Slurm', lambda *args: asked.append(args) or Local(1))
    monkeypatch.setenv('PATH', os.path.dirname(sys.executable), prepend=os.pathsep)
    monkeypatch.setenv('PYTHONPATH', str(ROOT), prepend=os.pathsep)
    typed('docs/guides/machines.md')
    assert [args[1:] for args in asked] == [(None, 'gpu', {'gres': 'gpu:1', 'time': '240'})]


@pytest.mark.parametrize('task', ['detection', pytest.param('segmentation', marks=pytest.mark.full)])
def test_a_data_set_from_nothing_to_an_exported_student(typed, cells, task, tmp_path):
    """The configs of the page, with no weights from the network."""
    configs = [block for page, block in blocks('python') if page == 'docs/guides/dataset.md']
    small = {
        'detection': (
            'model.update(backbone=dict(init_cfg=None, base_channels=16), neck=dict(in_channels=[16, 32, 64, 128]))\n'
            'train_cfg = dict(max_epochs=1)\n'
            "small = dict(type='Resize', scale=(96, 96), keep_ratio=True)\n"
            'train_pipeline = [*_base_.train_pipeline[:2], small, *_base_.train_pipeline[3:]]\n'
            'test_pipeline = [_base_.test_pipeline[0], small, *_base_.test_pipeline[2:]]\n'
            "train_dataloader['dataset'].update(pipeline=train_pipeline)\n"
            "val_dataloader['dataset'].update(pipeline=test_pipeline)\n"
        ),
        'segmentation': (
            'channels = [64, 128, 256, 512]\n'
            'model.update(pretrained=None, backbone=dict(base_channels=16), neck=dict(in_channels=channels))\n'
            "train_pipeline[2] = dict(type='RandomCrop', crop_size=(64, 64))\n"
            "model['data_preprocessor'] = dict(size=(64, 64))\n"
            "train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=1)\n"
            'default_hooks = dict(checkpoint=dict(by_epoch=True, interval=1))\n'
            "train_dataloader.update(sampler=dict(type='DefaultSampler', shuffle=True))\n"
        ),
    }[task]
    for loader in ('train', 'val'):
        small += f'{loader}_dataloader.update(num_workers=0, persistent_workers=False)\n'
    for name in ('student', 'teacher'):
        (tmp_path / f'{name}.py').write_text(configs[task == 'segmentation'] + small)
    typed('docs/guides/dataset.md')
    assert all((tmp_path / f'work_dirs/{run}/epoch_1.pth').exists() for run in ('teacher', 'pair', 'alone'))
    assert (tmp_path / 'work_dirs/pair/student/pair_student.pth').exists()


@pytest.mark.full
def test_comparison(typed, cells, digits, tmp_path, monkeypatch):
    """The whole page, from the teachers that the demo leaves to one cell of a table."""
    monkeypatch.setattr('cankd_mm.demo.run.run_demo', lambda *args: 'a table')
    monkeypatch.setattr(EfficientNetLite, 'init_weights', EfficientNet.init_weights)  # without the file of ImageNet
    (tmp_path / 'data' / 'digits').symlink_to(digits)
    (tmp_path / 'data' / 'bccd').symlink_to('cells')
    as_nuclei(tmp_path / 'data')
    as_aquarium(tmp_path / 'data')
    shutil.copytree(ROOT / 'docs' / 'results', tmp_path / 'docs' / 'results')
    pairs = (
        'demo/cankd_retinanet-r18w32_retinanet-r18w16_digits300.py',
        'demo/cankd_fpn-r18w32_fpn-r18w16_digits300.py',
        'photos/cankd_retinanet-lite2_retinanet-lite0_nuclei.py',
        'photos/cankd_retinanet-lite2_retinanet-lite0_bccd.py',
        'photos/cankd_retinanet-lite2_retinanet-lite0_aquarium.py',
        'photos/cankd_fpn-lite2_fpn-lite0_nuclei.py',
    )
    for pair in pairs:
        cfg = Config.fromfile(f'configs/{pair}').model
        weights = build_model(load_model_cfg(cfg.teacher), 'teacher').state_dict()
        checkpoint = tmp_path / cfg.teacher_ckpt
        save_checkpoint(dict(state_dict=weights), str(checkpoint))
        if not checkpoint.with_name('epoch_1.pth').exists():  # as what is typed calls it
            checkpoint.with_name('epoch_1.pth').symlink_to(checkpoint.name)
    before = (ROOT / 'docs/results/compare_digits-detection.md').read_text()
    typed('docs/comparison.md')
    assert (tmp_path / 'docs/results/compare_digits-detection.md').read_text() == before
    assert (tmp_path / 'work_dirs/cell/again/epoch_1.pth').exists()
    teachers = [f'retinanet-lite2_{data}' for data in ('nuclei', 'bccd', 'aquarium')]
    for teacher in (*teachers, 'fpn-lite2_nuclei'):
        assert (tmp_path / f'work_dirs/{teacher}/epoch_1.pth').exists()


def as_nuclei(data):
    """The cells in a folder for each split, all of one class, and their label maps."""
    (data / 'nuclei' / 'annotations').mkdir(parents=True)
    (data / 'nuclei' / 'label_maps').symlink_to(data / 'cells' / 'label_maps')
    for split in ('train', 'val'):
        coco = json.loads((data / 'cells' / 'annotations' / f'{split}.json').read_text())
        folder = data / 'nuclei' / 'images' / split
        folder.mkdir(parents=True)
        for image, box in zip(coco['images'], coco['annotations']):
            picture = cv2.imread(str(data / 'cells' / 'images' / image['file_name']))
            image['file_name'], box['category_id'] = f'{image["id"]}.jpg', 0
            cv2.imwrite(str(folder / image['file_name']), picture)
        coco['categories'] = [dict(id=0, name='nucleus')]
        (data / 'nuclei' / 'annotations' / f'{split}.json').write_text(json.dumps(coco))


def as_aquarium(data):
    """The cells as the first three of its classes."""
    (data / 'aquarium' / 'annotations').mkdir(parents=True)
    (data / 'aquarium' / 'images').symlink_to(data / 'cells' / 'images')
    names = Config.fromfile('configs/photos/_base_/aquarium.py').data.metainfo.classes
    for split in ('train', 'val'):
        coco = json.loads((data / 'cells' / 'annotations' / f'{split}.json').read_text())
        coco['categories'] = [dict(id=i, name=name) for i, name in enumerate(names)]
        (data / 'aquarium' / 'annotations' / f'{split}.json').write_text(json.dumps(coco))


@pytest.mark.full
def test_benchmarks(typed, tmp_path, monkeypatch):
    """On small maps and narrow models; what is for a GPU has tests of its own."""
    (tmp_path / 'docs/results').mkdir(parents=True)
    shutil.copy(ROOT / 'docs/results/benchmark_growth.json', tmp_path / 'docs/results')
    monkeypatch.setattr(measure, '_set_allocator', lambda **kwargs: None)  # is for the whole process
    monkeypatch.setattr(loss, 'SIZES', {'small': (32, [(12, 16), (6, 8)])})
    monkeypatch.setattr(growth, 'SIZES', [(4, 8), (8, 8), (8, 16), (16, 16)])
    monkeypatch.setattr(growth, 'CHANNELS', 32)
    (name, pair), *_ = step.PAIRS.items()
    monkeypatch.setattr(step, 'PAIRS', {name: dict(pair, size=(128, 192))})
    (name, detector), *_ = operators.DETECTORS.items()
    monkeypatch.setattr(operators, 'DETECTORS', {name: detector})
    monkeypatch.setattr(operators, 'SIZE', (64, 96))
    for module in (step, operators):
        monkeypatch.setattr(module, 'load_model_cfg', lambda model: narrow(load_model_cfg(model)))
    monkeypatch.setattr(gpu, 'main', lambda: None)
    said = typed('docs/benchmarks.md')
    for module in (loss, growth, step, operators):
        assert said[f'python -m {module.__name__}'].count('|') >= 20
    assert (tmp_path / 'docs/growth.png').stat().st_size > 10000


@pytest.mark.parametrize('page', PAGES)
def test_nothing_is_left_out(page):
    assert all(re.fullmatch(f'{TYPED}|{NOT_TYPED}', line) for line in lines_of(page))
    here = Path(__file__).read_text()
    elsewhere = [*ON_A_PAIR, 'docs/guides/own.md']  # the latter in `test_own.py`, with the files that it names
    assert not list(commands(page)) or f"typed('{page}')" in here or page in elsewhere
