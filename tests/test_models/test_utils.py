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
