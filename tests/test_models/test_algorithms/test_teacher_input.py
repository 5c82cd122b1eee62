import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmseg.models import SegDataPreProcessor
from torch import nn

from cankd_mm.errors import SetupError
from cankd_mm.models.algorithms.frozen_teacher import FrozenTeacher, TeacherInput

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
    ours = TeacherInput(student, teacher, 3, 3)(given['inputs'], given['data_samples'])
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
    ours = TeacherInput(student, teacher, 3, 3)(given['inputs'], given['data_samples'])
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-4)


def test_batch_itself_where_both_normalize_alike():
    inputs = torch.randn(2, 3, 8, 8)
    assert TeacherInput(det(PYTORCH), det(PYTORCH), 3, 3)(inputs) is inputs


def test_student_batch_is_not_changed():
    data = batch()
    given = det(PYTORCH)(data)
    before = given['inputs'].clone()
    TeacherInput(det(PYTORCH), det(CAFFE), 3, 3)(given['inputs'], given['data_samples'])
    assert torch.equal(before, given['inputs'])


def model(preprocessor, channels):
    """A model as far as its input goes."""
    found = nn.Module()
    found.data_preprocessor, found.stem = preprocessor, nn.Conv2d(channels, 2, 3)
    return found


# One mean may be for all channels, and none says nothing of them.
ONE, NONE = dict(mean=[127.0], std=[60.0], bgr_to_rgb=False), PLAIN


@pytest.mark.parametrize('student', [ONE, NONE])
@pytest.mark.parametrize('teacher', [PYTORCH, CAFFE, ONE, NONE])
def test_grey_images_are_spread_over_the_channels_of_a_teacher_for_colour(student, teacher):
    """In training and in validation alike."""
    data = batch()
    grey = dict(inputs=[image[:1] for image in data['inputs']], data_samples=data['data_samples'])
    student, teacher = model(det(student), 1), model(det(teacher), 3)
    expected = teacher.data_preprocessor(dict(inputs=[image.expand(3, -1, -1) for image in grey['inputs']]))['inputs']
    given = student.data_preprocessor(batch_copy(grey))
    frozen = FrozenTeacher(teacher, student)
    torch.testing.assert_close(frozen.input(given['inputs'], given['data_samples']), expected, rtol=1e-5, atol=1e-4)
    preprocess = teacher.data_preprocessor
    torch.testing.assert_close(preprocess(dict(inputs=grey['inputs']), False)['inputs'], expected)
    stacked = dict(inputs=torch.stack([grey['inputs'][0]] * 2))
    assert preprocess(stacked, False)['inputs'].shape[1] == 3


@pytest.mark.parametrize('student', [PYTORCH, ONE, NONE])
@pytest.mark.parametrize('teacher', [ONE, NONE])
def test_teacher_for_fewer_channels_is_refused(student, teacher):
    student, teacher = model(det(student), 3), model(det(teacher), 1)
    with pytest.raises(SetupError, match='teacher is for images of 1 channels and the student for 3'):
        FrozenTeacher(teacher, student)
    FrozenTeacher(model(teacher.data_preprocessor, 3), student)
