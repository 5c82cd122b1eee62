"""The wheel, in an environment of its own, from an empty folder and without the clone."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from mmengine.fileio import load

from cankd_mm import __main__ as cli
from cankd_mm.config import paths as package
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
    """A virtual environment with the wheel, and the MM libraries of this one."""
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    for name in ('cankd_mm', 'configs', 'tools'):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '--quiet']
    build = ['wheel', '--no-build-isolation', '--no-deps', '--wheel-dir', folder, source]
    subprocess.run([*pip, *build], check=True)
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder / 'env'], check=True)
    python = folder / 'env' / 'bin' / 'python'
    (wheel,) = folder.glob('*.whl')
    subprocess.run([*pip, '--python', python, 'install', '--no-deps', '--no-index', wheel], check=True)
    (site,) = (folder / 'env').glob('lib/*/site-packages')
    # A path alone: the links of editable installations there are not followed.
    (site / 'libraries.pth').write_text(sysconfig.get_paths()['purelib'])
    shutil.rmtree(source)
    return folder / 'env' / 'bin'


COMMANDS = """
import contextlib, io, json, sys
from cankd_mm.__main__ import main
said = []
for words in json.load(open('commands.json')):
    sys.argv = ['cankd', *words]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main()
            status = 0
        except SystemExit as e:
            status = e.code
    said.append([status, out.getvalue()])
print(json.dumps(said))
"""


@pytest.fixture(scope='module')
def run(environment, tmp_path_factory):
    """Run a command of the environment in a folder that holds no clone."""
    empty = tmp_path_factory.mktemp('empty')
    variables = dict(os.environ, PYTHONPATH=str(ROOT / 'tests' / 'without'))
    variables.update(PATH=f'{environment}{os.pathsep}{os.environ["PATH"]}', OMP_NUM_THREADS='1')

    def run(*words, status=0):
        words = [str(word) for word in words]
        done = subprocess.run(words, cwd=empty, env=variables, capture_output=True, text=True)
        assert done.returncode == status, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout

    def commands(*commands):
        """Run commands one after another in one process, which imports the libraries once."""
        script = empty / 'commands.py'
        script.write_text(COMMANDS)
        (empty / 'commands.json').write_text(json.dumps(commands))
        return json.loads(run('python', '-W', 'ignore', script).splitlines()[-1])

    run.folder, run.commands = empty, commands
    return run


@pytest.fixture(scope='module')
def pair(run, digits):
    """A pair of the user's on top of one that ships, and its trained teacher."""
    small = (
        f"data = dict(data_root='{digits}/segmentation/')\n"
        "train_dataloader = dict(batch_size=4, dataset=dict(ann_file='train_small.txt', **data))\n"
        'val_dataloader = dict(batch_size=2, dataset=data)\n'
        'test_dataloader = val_dataloader\n'
        'train_cfg = dict(max_epochs=1, val_interval=1)\n'
    )
    (run.folder / 'teacher.py').write_text(f"_base_ = 'cankd_mm::demo/fpn-r18w32_digits.py'\n{small}")
    run('cankd', 'train', 'teacher.py')
    (run.folder / 'pair.py').write_text(
        f"_base_ = 'cankd_mm::demo/cankd_fpn-r18w32_fpn-r18w16_digits300.py'\n{small}"
        "model = dict(teacher_ckpt='work_dirs/teacher/epoch_1.pth')\n"
    )
    return 'pair.py'


@pytest.mark.full
def test_the_whole_way(run, pair):
    trained = 'work_dirs/pair/epoch_1.pth'
    student, weights = 'cankd_mm::demo/fpn-r18w16_digits300.py', 'work_dirs/teacher/epoch_1.pth'
    methods = ['--methods', 'cankd_mm::methods/pkd.py', '--seeds', '0', '--jobs', '1', '--no-longer']
    said = run.commands(
        ['check', pair],
        ['train', pair],
        ['test', pair, trained],
        ['test', pair, '--teacher'],
        ['export', pair, trained],
        ['results'],
        ['compare', pair, *methods],
        ['reproduce'],
        ['reproduce', '2', '--dry-run'],
        [
            'pair',
            'teacher.py',
            student,
            '--data',
            'teacher.py',
            '--teacher-ckpt',
            weights,
            '--out',
            'made.py',
        ],
        ['show', pair, trained, '-n', '1', '--no-eval', '--out', 'page'],
    )
    assert [status for status, _ in said] == [0] * 8 + [1, 0, 0], said
    assert "source: neck: the student's levels 0, 1, 2" in said[9][1]
    config, weights = said[4][1].split()[-2:]
    script = run.folder / 'plain.py'
    script.write_text(
        "import sys; sys.modules['mmrazor'] = None\n"
        "from mmseg.apis import init_model; print(type(init_model(*sys.argv[1:], device='cpu')).__module__)"
    )
    assert 'mmseg.models' in run('python', '-m', 'cankd_mm.plain', script, config, weights)
    assert '| work_dirs/pair | mIoU |' in re.sub(' +', ' ', said[5][1])
    assert all(f'| {name} ' in said[6][1] for name in ('student alone', 'cankd', 'pkd'))
    assert len(load(str(run.folder / 'work_dirs' / 'compare' / 'pair' / 'results.json'))['runs']) == 3
    rows = [model for folder in ('demo', 'detection', 'segmentation') for model in _metafile(folder)]
    assert len(said[7][1].splitlines()) == len(rows)
    assert "lacks 'data/coco/'" in said[8][1]


def _metafile(folder):
    return load(str(ROOT / 'configs' / folder / 'metafile.yml'))['Models']


def test_tools_and_configs(run):
    code = (
        'import cankd_mm.config.paths as p; print(p.MIM); from mmengine.hub import get_config\n'
        "get_config('cankd_mm::detection/cankd_retinanet-r101_retinanet-r50_2x_coco.py').auto_scale_lr"
    )
    where = Path(run('python', '-W', 'ignore', '-c', code).splitlines()[0])
    assert ROOT not in where.parents
    assert os.access(where / 'tools' / 'dist_train.sh', os.X_OK)
    files = [path.relative_to(where / 'configs') for path in (where / 'configs').rglob('*.*') if path.suffix != '.pyc']
    assert sorted(files) == sorted(
        path.relative_to(ROOT / 'configs') for path in (ROOT / 'configs').rglob('*.*') if path.suffix != '.pyc'
    )


def test_help_is_there_in_a_moment_and_fits_on_a_screen(run):
    for command in ('', *(command.__name__ for command in cli.COMMANDS)):
        lines = run('cankd', *command.split(), '--help').splitlines()
        assert len(lines) <= (25 if command else 30) and all(len(line) <= 100 for line in lines), command
    code = (
        'import sys; sys.argv = ["cankd", "train", "--help"]\n'
        'from cankd_mm.__main__ import main\n'
        'try: main()\n'
        'finally: assert not {"torch", "mmengine", "numpy"} & set(sys.modules)'
    )
    run('python', '-c', f'import sys; sys.argv = ["cankd"]\n{code}')
    assert 'Everything that cankd_mm needs is here.' in run('cankd', 'doctor')


def test_a_config_is_based_on_those_of_the_package(tmp_path):
    """Without a scope of the package's name, in which MMDetection's data sets would not be found."""
    from mmengine.config import Config

    path = tmp_path / 'mine.py'
    path.write_text("_base_ = 'cankd_mm::_base_/cankd_fpn.py'\nx = _base_.distiller\n")
    assert Config.fromfile(str(path)).x == Config.fromfile(str(ROOT / 'configs/_base_/cankd_fpn.py')).distiller
    path.write_text("_base_ = 'cankd_mm::_base_/nothing.py'\n")
    with pytest.raises(FileNotFoundError, match='nothing.py'):
        Config.fromfile(str(path))


@pytest.mark.parametrize(
    'path', ['gn+ws/mask-rcnn_r50_fpn_gn-ws-all_2x_coco.py', 'legacy_1.x/retinanet_r50_fpn_1x_coco_v1.py']
)
def test_a_config_is_based_on_those_in_folders_with_a_sign_in_their_name(tmp_path, path):
    from mmengine.config import Config

    (tmp_path / 'mine.py').write_text(f"_base_ = ['mmdet::{path}', 'cankd_mm::_base_/cankd_fpn.py']\n")
    cfg = Config.fromfile(str(tmp_path / 'mine.py'))
    assert cfg.model._scope_ == 'mmdet' and cfg.distiller.source == 'neck'
    (tmp_path / 'mine.py').write_text("_base_ = 'mmdet::gn+ws/none.py'\n")
    with pytest.raises(ValueError, match='please specify the package name'):
        Config.fromfile(str(tmp_path / 'mine.py'))


def test_no_metafile_is_read_to_find_a_config(monkeypatch):
    from mmengine.config import Config, utils

    monkeypatch.setattr(utils, '_get_cfg_metainfo', lambda *args: pytest.fail(f'{args} is looked up'))
    pair = ROOT / 'configs' / 'detection' / 'cankd_retinanet-r101_retinanet-r50_2x_coco.py'
    assert Config.fromfile(str(pair)).model.architecture.type == 'RetinaNet'


def test_folders_are_shown_as_in_a_clone():
    assert str(package.folder('configs')) == 'configs'
    assert package.config_file('cankd_mm::methods/pkd.py') == 'configs/methods/pkd.py'
