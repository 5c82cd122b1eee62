"""The recommended settings go on top of any pair."""

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmrazor.registry import MODELS

from cankd_mm.config.read import load_model_cfg
from cankd_mm.models.algorithms import feature_distill
from tests.conftest import ROOT
from tests.test_configs.small import narrow, offline

FOUR = [1, 1 / 4, 1 / 16, 1 / 64]
PAIRS = {
    'detection/cankd_retinanet-r101_retinanet-r50_2x_coco': (['neck', 'bbox_head'], FOUR),
    'detection/cankd_faster-rcnn-r101_faster-rcnn-r50_2x_coco': (['neck', 'rpn_head', 'roi_head'], FOUR),
    'detection/cankd_cascade-mask-rcnn-x101_faster-rcnn-r50_2x_coco': (['neck', 'rpn_head'], FOUR),
    'detection/cankd_fcos-x101_retinanet-r50_1x_coco': (
        ['neck.lateral_convs', *(f'neck.fpn_convs.{i}' for i in (0, 1, 2, 4))],
        FOUR,
    ),
    'segmentation/cankd_pspnet-r101_pspnet-r18_80k_cityscapes-512x1024': ([], [1]),
    'photos/cankd_retinanet-lite2_retinanet-lite0_bccd': (['neck.fpn_convs', 'bbox_head'], FOUR),
    'photos/cankd_fpn-lite2_fpn-lite0_nuclei': (['neck.lateral_convs.0', 'neck.fpn_convs', 'decode_head'], FOUR),
}


@pytest.mark.parametrize('pair, found', PAIRS.items(), ids=list(PAIRS))
def test_recommended(pair, found, monkeypatch):
    cfg = Config.fromfile(str(ROOT / f'configs/{pair}.py'))
    init_default_scope(cfg.default_scope)
    monkeypatch.setattr(feature_distill, 'load_pretrained', lambda *args: None)
    cfg.model = dict(
        cfg.model,
        teacher=narrow(offline(load_model_cfg(cfg.model.teacher))),
        architecture=narrow(offline(cfg.model.architecture.to_dict())),
    )
    cfg.merge_from_dict(Config.fromfile(str(ROOT / 'configs/methods/recommended.py')).to_dict())
    model = MODELS.build(cfg.model)
    assert (list(model.init_from_teacher), list(model.distiller._factors.values())) == found
