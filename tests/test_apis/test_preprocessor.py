"""The student under distillation sees what it sees alone, and what is exported is what was trained."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from cankd_mm.apis import export_student, train
from cankd_mm.apis import test as evaluate
from cankd_mm.config.pair import student_config
from cankd_mm.work_dir import read_scalars
from tests.test_models.test_algorithms.test_feature_distill import batch

OTHER = dict(type='SegDataPreProcessor', mean=[9.0] * 3, std=[2.0] * 3, size=(160, 160), pad_val=3, seg_pad_val=254)

WHERE = {
    'both name one': (dict(mean=[1.0, 2.0, 3.0], size=(192, 192), seg_pad_val=11), OTHER, None),
    'the config alone': (None, OTHER, None),
    'the student alone': (dict(mean=[1.0, 2.0, 3.0], size=(192, 192)), None, None),
    'the algorithm, as in MMRazor': (None, None, OTHER),
}


def with_preprocessors(pair, student, config, algorithm):
    """The pair's config, with a preprocessor in each place or none."""
    cfg = Config.fromfile(str(pair))
    cfg.pop('data_preprocessor', None)
    if student is None:
        cfg.model.architecture.pop('data_preprocessor')
    else:
        cfg.model.architecture.data_preprocessor.update(student)
    if config is not None:
        cfg.data_preprocessor = copy.deepcopy(config)
    if algorithm is not None:
        cfg.model.data_preprocessor = copy.deepcopy(algorithm)
    return cfg


@pytest.mark.parametrize('where', WHERE)
def test_student_sees_what_it_sees_alone(pairs, tmp_path, where):
    cfg = with_preprocessors(pairs['segmentation'], *WHERE[where])
    seen = []
    for name, each in dict(distilled=cfg, alone=student_config(cfg)).items():
        each.work_dir = str(tmp_path / name)
        torch.manual_seed(0)
        data = batch('segmentation', size=(100, 120))
        data = Runner.from_cfg(each).model.data_preprocessor(data, training=True)
        seen.append((data['inputs'], [sample.gt_sem_seg.data for sample in data['data_samples']]))
    torch.testing.assert_close(*seen, rtol=0, atol=0)
    student, config, algorithm = WHERE[where]
    height, width = (student or config or algorithm)['size']
    assert seen[0][0].shape[2:] == (height, width)


@pytest.mark.parametrize('where', ['both name one', 'the config alone', 'the algorithm, as in MMRazor'])
def test_exported_student_scores_what_the_validation_said(pairs, tmp_path, where):
    cfg = with_preprocessors(pairs['segmentation'], *WHERE[where])
    for preprocessor in (cfg.get('data_preprocessor'), cfg.model.get('data_preprocessor')):
        if preprocessor:
            preprocessor.update(size=(128, 128), seg_pad_val=255)
    if 'data_preprocessor' in cfg.model.architecture:
        cfg.model.architecture.data_preprocessor.update(size=(128, 128), seg_pad_val=255)
    pair = tmp_path / 'pair.py'
    cfg.dump(str(pair))
    train(str(pair), work_dir=str(tmp_path / 'run'))
    validated = [entry for entry in read_scalars(tmp_path / 'run') if 'mIoU' in entry][-1]
    student = export_student(str(pair), str(tmp_path / 'run' / 'epoch_2.pth'))
    exported = evaluate(*student, work_dir=str(tmp_path / 'test'))
    for key in ('aAcc', 'mIoU', 'mAcc'):
        assert exported[key] == pytest.approx(validated[key], abs=1e-6)
