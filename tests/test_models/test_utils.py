import pytest

from cankd_mm.errors import SetupError
from cankd_mm.models.builders import build_model
from cankd_mm.models.utils import heads_of


def test_heads_are_those_that_predict_the_classes_of_the_data():
    """STDC has one more, for the edges between them."""
    model = build_model('mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py', 'student')
    assert {name: head.num_classes for name, head in heads_of(model).items()} == {
        'decode_head': 19,
        'auxiliary_head.0': 19,
        'auxiliary_head.1': 19,
    }


def test_a_detector_of_regions_tells_no_classes():
    """It finds objects of any class, whatever the data calls them."""
    assert heads_of(build_model('mmdet::rpn/rpn_r50_fpn_1x_coco.py', 'student')) == {}


def test_batch_norm_that_is_built_in_distributed_trainings_alone():
    sentence = "student has mmcv's synchronized batch norm, .* set type='SyncBN' in place of 'MMSyncBN'"
    with pytest.raises(SetupError, match=sentence):
        build_model(
            'mmdet::strong_baselines/mask-rcnn_r50-caffe_fpn_rpn-2conv_4conv1fc_syncbn-all_lsj-100e_coco.py', 'student'
        )
