import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from cankd_mm.stack import doctor
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def run(*arguments, **options):
    words = [sys.executable, *arguments, '-m', 'cankd_mm.stack.doctor']
    return subprocess.run(words, capture_output=True, text=True, **options)


def test_names_every_version_and_exits_zero():
    done = run()
    assert done.returncode == 0, done.stdout
    for name in ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmrazor', 'numpy', 'torchvision', 'mmcv.ops'):
        assert f'ok   {name}' in done.stdout
    assert 'components are registered' in done.stdout


def test_works_where_nothing_is_installed():
    done = run('-S')  # without site-packages
    assert done.returncode == 1, done.stderr
    assert 'BAD  torch: not installed' in done.stdout and 'repair: pip install' in done.stdout


@pytest.mark.skipif(sys.version_info < (3, 10), reason='Python does not tell what it runs')
def test_another_package_that_is_run_as_a_module_registers_everything(tmp_path):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / '__init__.py').write_text('import cankd_mm')
    (tmp_path / 'mine' / '__main__.py').write_text(
        'from mmrazor.registry import MODELS; print(MODELS.get("CanKDLoss"))'
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ['PYTHONPATH']]))
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-m', 'mine'], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert 'CanKDLoss' in done.stdout, done.stderr


def test_a_detection_only_installation_needs_nothing_of_mmseg(monkeypatch):
    missing = ('mmseg', 'ftfy', 'regex')
    monkeypatch.setattr(doctor, 'find_spec', lambda name: None if name in missing else find_spec(name))
    assert not any(finding.bad for finding in doctor.diagnose())


@pytest.mark.parametrize(
    'version, words, bad',
    [
        ('2.2.0', 'known bad, outside 2.1.0 and 2.3 to 2.4', True),
        ('2.1.0', 'mmcv 2.1.0', False),
        ('2.0.1', 'known bad', True),
        ('2.3.6', 'mmcv 2.3.6', False),
        ('2.4.0', 'known bad', True),
    ],
)
def test_judges_versions(monkeypatch, version, words, bad):
    import mmcv

    monkeypatch.setattr(mmcv, '__version__', version)
    (finding,) = (finding for finding in doctor.diagnose() if finding.text.startswith(f'mmcv {version}'))
    assert words in finding.text and finding.bad == bad
    assert bool(finding.repair) == bad


def test_names_a_package_that_does_not_import(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmseg', None)
    monkeypatch.setattr(doctor, 'find_spec', lambda name: name == 'mmseg' or find_spec(name))
    (finding,) = (finding for finding in doctor.diagnose() if finding.text.startswith('mmseg'))
    assert finding.bad and 'does not import' in finding.text


def test_names_a_torchvision_of_another_torch(tmp_path):
    """And the stack imports, as nothing of it needs torchvision."""
    (tmp_path / 'torchvision.py').write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (tmp_path / 'torchvision-0.1.0.dist-info').mkdir()
    (tmp_path / 'torchvision-0.1.0.dist-info' / 'METADATA').write_text('Name: torchvision\nVersion: 0.1.0')
    done = run(env=dict(os.environ, PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ['PYTHONPATH']])))
    assert done.returncode == 1
    assert 'BAD  torchvision 0.1.0: does not import (operator torchvision::nms does not exist)' in done.stdout
    assert 'repair: pip install --force-reinstall --no-deps torchvision==0.' in done.stdout
    assert done.stdout.count('BAD') == 1 and 'components are registered' in done.stdout
