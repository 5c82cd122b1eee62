import os
import subprocess
import sys

import pytest

from cankd_mm.stack import doctor
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def run(*arguments):
    return subprocess.run([sys.executable, *arguments, '-m', 'cankd_mm.stack.doctor'], capture_output=True, text=True)


def test_names_every_version_and_exits_zero():
    done = run()
    assert done.returncode == 0, done.stdout
    for name in ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmrazor', 'numpy', 'mmcv.ops'):
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
    find_spec = doctor.importlib.util.find_spec
    missing = ('mmseg', 'ftfy', 'regex')
    monkeypatch.setattr(doctor.importlib.util, 'find_spec', lambda name: None if name in missing else find_spec(name))
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
    package = next(package for package in doctor.PACKAGES if package[0] == 'mmcv')
    found, finding = doctor.check_package(*package)
    assert found == version and words in finding.text and finding.bad == bad
    assert bool(finding.repair) == bad


def test_names_a_package_that_does_not_import(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmseg', None)
    monkeypatch.setattr(doctor.importlib.util, 'find_spec', lambda name: object())
    version, finding = doctor.check_package('mmseg', 'mmsegmentation', (('1.2.2', '1.3'),), ('1.2.2',))
    assert version is None and finding.bad and 'does not import' in finding.text
