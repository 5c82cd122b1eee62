import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmseg.models import SegDataPreProcessor

from cankd_mm.errors import SetupError
from cankd_mm.models.algorithms.frozen_teacher import TeacherInput, spread_grey

PYTORCH = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)
PLAIN = dict()


def det(style, **kwargs):
    return DetDataPreprocessor(pad_size_divisor=32, **style, **kwargs)


def batch():
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((40, 50), (64, 33))]
    samples = [DetDataSample(metainfo=dict(img_shape=image.shape[1:])) for image in images]
    return dict(inputs=images, data_samples=samples)


@pytest.mark.parametrize('student', [PYTORCH, CAFFE, PLAIN])
@pytest.mark.parametrize('teacher', [PYTORCH, CAFFE, PLAIN])
@pytest.mark.parametrize('pad_value', [0, 114])
def test_equals_what_the_teacher_would_have_made_of_the_image(student, teacher, pad_value):
    data = batch()
    student, teacher = det(student), det(teacher, pad_value=pad_value)
    expected = teacher(data)['inputs']
    given = student(batch_copy(data))
    ours = TeacherInput(student, teacher)(given['inputs'], given['data_samples'])
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-4)


def batch_copy(data):
    return dict(inputs=[image.clone() for image in data['inputs']], data_samples=data['data_samples'])


def test_segmentor():
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    sample = SegDataSample(metainfo=dict(img_shape=(20, 30)))
    sample.gt_sem_seg = PixelData(data=torch.zeros(1, 20, 30, dtype=torch.long))
    student, teacher = (SegDataPreProcessor(size=(32, 32), **style) for style in (PYTORCH, CAFFE))
    given = student(dict(inputs=[image], data_samples=[sample]), training=True)
    expected = torch.zeros(1, 3, 32, 32)
    expected[0, :, :20, :30] = image.float() - torch.tensor(CAFFE['mean']).view(3, 1, 1)
    ours = TeacherInput(student, teacher)(given['inputs'], given['data_samples'])
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-4)


def test_batch_itself_where_both_normalize_alike():
    inputs = torch.randn(2, 3, 8, 8)
    assert TeacherInput(det(PYTORCH), det(PYTORCH))(inputs) is inputs


def test_student_batch_is_not_changed():
    data = batch()
    given = det(PYTORCH)(data)
    before = given['inputs'].clone()
    TeacherInput(det(PYTORCH), det(CAFFE))(given['inputs'], given['data_samples'])
    assert torch.equal(before, given['inputs'])


def test_grey_images_are_spread_over_the_channels_of_a_teacher_for_colour(pairs_of_grey):
    """In training and in validation alike."""
    student, teacher, grey = pairs_of_grey
    expected = teacher(dict(inputs=[image.expand(3, -1, -1) for image in grey['inputs']]))['inputs']
    given = student(batch_copy(grey))
    torch.testing.assert_close(
        TeacherInput(student, teacher)(given['inputs'], given['data_samples']), expected, rtol=1e-5, atol=1e-4
    )
    spread_grey(teacher)
    torch.testing.assert_close(teacher(dict(inputs=grey['inputs']), False)['inputs'], expected)
    stacked = dict(inputs=torch.stack([grey['inputs'][0]] * 2))
    assert teacher(stacked, False)['inputs'].shape[1] == 3


@pytest.fixture
def pairs_of_grey():
    data = batch()
    grey = dict(inputs=[image[:1] for image in data['inputs']], data_samples=data['data_samples'])
    return det(dict(mean=[127.0], std=[60.0], bgr_to_rgb=False)), det(PYTORCH), grey


def test_teacher_for_fewer_channels_is_refused():
    with pytest.raises(SetupError, match='teacher is for images of 1 channels and the student for 3'):
        TeacherInput(det(PYTORCH), det(dict(mean=[127.0], std=[60.0], bgr_to_rgb=False)))
    TeacherInput(det(PYTORCH), det(PLAIN))  # which is for any
