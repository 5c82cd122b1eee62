"""Configs of every form are read into one, and what cannot be read is one sentence."""

import pytest
from mmengine.config import Config

from cankd_mm.config.read import load_config, read_config, read_dumped
from cankd_mm.config.types import library_of, type_name
from cankd_mm.errors import SetupError
from tests.conftest import ROOT

PURE = """
from mmdet.datasets.transforms import Resize
from mmdet.evaluation import CocoMetric
from mmdet.models import FPN, RetinaNet
from torch.nn import BatchNorm2d
default_scope = None
model = dict(type=RetinaNet, neck=dict(type=FPN, norm_cfg=dict(type=BatchNorm2d)))
val_evaluator = dict(type=CocoMetric)
train_dataloader = dict(dataset=dict(pipeline=[dict(type=Resize, scale=(128, 96))]))
"""


def test_classes_become_names_that_every_registry_finds(tmp_path):
    from mmdet.registry import METRICS, MODELS

    (tmp_path / 'pure.py').write_text(PURE)
    cfg = read_config(str(tmp_path / 'pure.py'), {'model.neck.in_channels': [1]})
    assert cfg.default_scope == 'mmdet' and cfg.model.neck.in_channels == [1]
    assert MODELS.get(cfg.model.type).__name__ == 'RetinaNet' and METRICS.get(cfg.val_evaluator.type) is not None
    assert MODELS.get(cfg.model.neck.norm_cfg.type).__name__ == 'BatchNorm2d'
    assert cfg.train_dataloader.dataset.pipeline[0].scale == (128, 96)
    assert 'FPN' not in cfg, 'imported names are no entries'
    # What is written of it is read again, as MMEngine's own dump.
    cfg.dump(str(tmp_path / 'dumped.py'))
    assert read_config(str(tmp_path / 'dumped.py')).to_dict() == cfg.to_dict()


def test_a_config_of_bases_extends_a_pure_python_one(tmp_path):
    (tmp_path / 'pure.py').write_text(PURE)
    (tmp_path / 'text.py').write_text(
        "_base_ = ['pure.py', 'cankd_mm::_base_/cankd_fpn.py']\n"
        'model = dict(neck=dict(num_outs=3))\nx = _base_.model.type\n'
    )
    cfg = read_config(str(tmp_path / 'text.py'))
    assert type_name(cfg.x) == 'RetinaNet' and cfg.model.neck.num_outs == 3 and cfg.default_scope == 'mmdet'
    assert cfg.distiller.type == 'CanKDDistiller'


CONFIGS = sorted((ROOT / 'configs').glob('*/cankd*.py'))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_what_a_run_keeps_of_its_config_is_read_without_running_it(path, tmp_path):
    cfg = read_config(str(path))
    cfg.odd = [{'a key': dict(b=(1,), c=-1e-5)}, {1: None}, dict(inner={'no-name': dict(d="it's")}), [-float('inf')]]
    cfg.dump(str(tmp_path / 'dumped.py'))
    assert read_dumped(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()


@pytest.mark.parametrize('text', ["import os\nos.mkdir('made')\n", "a = __import__('os').mkdir('made')\n", 'a = (\n'])
def test_a_program_is_no_config_of_a_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'program.py').write_text(text)
    with pytest.raises(SetupError, match=r"program.py' is not as MMEngine keeps that of a run \(.*\): put there"):
        read_dumped(tmp_path / 'program.py')
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize('ending', ['json', 'yml', 'yaml'])
def test_sizes_are_tuples_again(tmp_path, ending):
    pipeline = [
        dict(type='RandomChoiceResize', scales=[(640, 128), (800, 128)]),
        dict(type='RandomChoice', transforms=[[dict(type='RandomCrop', crop_size=(64, 32))]]),
        dict(type='RandomChoiceResize', scales=[64, 96]),  # two short sides to choose from, and no size
    ]
    model = dict(neck=dict(in_channels=[8, 16]))
    Config(dict(model=model, train_dataloader=dict(dataset=dict(pipeline=pipeline)))).dump(
        str(tmp_path / f'a.{ending}')
    )
    (tmp_path / 'b.py').write_text(f"_base_ = 'a.{ending}'\n")
    for path in (tmp_path / f'a.{ending}', tmp_path / 'b.py'):
        cfg = read_config(str(path))
        found = cfg.train_dataloader.dataset.pipeline
        assert found[0].scales == [(640, 128), (800, 128)] and found[1].transforms[0][0].crop_size == (64, 32)
        assert found[2].scales == [64, 96] and cfg.model.neck.in_channels == [8, 16]


def test_a_class_of_the_users_own_is_of_the_library_that_it_extends(tmp_path, monkeypatch):
    (tmp_path / 'my_models.py').write_text('from mmseg.models import EncoderDecoder\nclass Mine(EncoderDecoder): ...\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    assert library_of('my_models.Mine') == 'mmseg' == library_of('mmseg.EncoderDecoder')
    assert library_of('mmdet.models.detectors.RetinaNet') == 'mmdet' and library_of('RetinaNet') is None


@pytest.mark.parametrize(
    'text, words',
    [
        ('model = dict(', r"The config '.*broken.py' cannot be read \(SyntaxError"),
        ('x = 1 / 0', 'cannot be read .*ZeroDivisionError'),
        ("_base_ = 'nowhere.py'", 'cannot be read|based on a file that does not exist'),
        ("custom_imports = dict(imports=['my_project.hooks'])", 'imports what is not found .*my_project.*PYTHONPATH'),
        ('# façade'.encode('latin-1'), 'is not in UTF-8: save it as UTF-8'),
        (
            'model = dict(type="X")\ndata = dict()\nrunner = dict()\noptimizer = dict()\n',
            'is of version 2 of MMDetection',
        ),
        ('x = 1', 'has no model: give a whole config'),
    ],
)
def test_mistakes(tmp_path, text, words):
    path = tmp_path / 'broken.py'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SetupError, match=words):
        load_config(str(path))
