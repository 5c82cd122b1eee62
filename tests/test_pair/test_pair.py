"""`cankd pair`: what it finds out about two models, and the config that it writes."""

import re

import pytest
import torch
from mmengine.config import Config
from mmrazor.registry import MODELS

from cankd_mm.apis.pair import write_pair
from cankd_mm.apis.pair.data import data_text
from cankd_mm.apis.pair.zoo import find_model, zoo
from cankd_mm.config.read import load_config
from cankd_mm.config.write import literal
from cankd_mm.errors import SetupError
from cankd_mm.models.algorithms.parts import fitting_parts
from cankd_mm.models.builders import build_model
from tests.conftest import ROOT


def build(text):
    return build_model(Config.fromstring(f'model = {text}', '.py').model, 'student')


def written(folder, teacher, student, teacher_ckpt=None):
    """The model of the pair that the command writes, and what it says."""
    said = write_pair(teacher, student, str(folder / 'pair.py'), teacher_ckpt)
    return load_config(str(folder / 'pair.py')).model, said


def settings_of(distiller):
    return {key: value for key, value in distiller.items() if key not in ('type', 'loss')}


@pytest.mark.parametrize(
    'key, config, figure',
    [
        ('retinanet_r101_fpn_2x_coco', 'mmdet::retinanet/retinanet_r101_fpn_2x_coco.py', {'COCO': {'box AP': 38.9}}),
        ('yolox_l_8x8_300e_coco', 'mmdet::yolox/yolox_l_8xb8-300e_coco.py', {'COCO': {'box AP': 49.4}}),
        ('yolox_l_8xb8-300e_coco', 'mmdet::yolox/yolox_l_8xb8-300e_coco.py', {'COCO': {'box AP': 49.4}}),
        (
            'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
            'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
            {'Cityscapes': {'mIoU': 74.87, 'mIoU(ms+flip)': 76.04}},
        ),
    ],
)
def test_zoo_models_are_found_by_name_and_by_path(key, config, figure):
    model = find_model(key, 'student')
    assert model.config == config and model.figures == figure
    assert model.weights.startswith('https://') and model.weights.endswith('.pth')


def test_configs_that_no_metafile_names_are_found_too(tmp_path):
    assert find_model('retinanet_r101_fpn_8xb8-amp-lsj-200e_coco', 'teacher').weights is None
    path = tmp_path / 'mine.py'
    path.write_text('model = dict()')
    assert find_model(str(path), 'teacher') == ('mine', str(path), None, {})
    assert len(zoo()) > 1200


@pytest.mark.parametrize(
    'key, words',
    [
        ('retinanet_r101_fpn', r"neither a file nor a model .*; did you mean 'retinanet_r101_fpn_2x_coco' or "),
        ('nothing-like-it', r'neither a file nor a model .* give a name of theirs, or a config file'),
        ('none.py', r"'none.py' does not exist"),
        ('mmdet::retinanet/none.py', r'does not exist'),
        ('nowhere::none.py', r"of the package 'nowhere', which is not installed"),
    ],
)
def test_names_that_are_not_found(key, words):
    with pytest.raises(SetupError, match=words):
        find_model(key, 'teacher')


def test_name_of_two_models(monkeypatch):
    from cankd_mm.apis.pair import zoo as module

    twice = [module.ZooModel('same', f'{package}::a/same.py') for package in ('mmdet', 'mmseg')]
    monkeypatch.setattr(module, 'zoo', lambda: twice)
    with pytest.raises(SetupError, match='several models: give one of mmdet::a/same.py or mmseg::a/same.py'):
        find_model('same', 'teacher')


def test_pair_of_the_demo_is_planned_and_runs(pairs, tmp_path, monkeypatch):
    """With another student than the teacher's in width, and the teacher's weights in a file."""
    from cankd_mm.apis import check

    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(str(pairs['detection']))
    student = pairs['detection'].with_name('detection_student.py')
    lines = write_pair(cfg.model.teacher, str(student), 'made/pair.py', teacher_ckpt=cfg.model.teacher_ckpt)
    text = (tmp_path / 'made' / 'pair.py').read_text()
    assert len(text.splitlines()) <= 12 and max(map(len, text.splitlines())) <= 120 or 'pth' in text
    assert any(line.startswith("source: neck: the student's levels 0, 1, 2") for line in lines)
    assert lines[-1] == 'written: made/pair.py'
    assert any('no figure known' in line for line in lines)
    assert check('made/pair.py')[-1].startswith('doubtful')
    with pytest.raises(SetupError, match="'made/pair.py' is there already: name another file with --out"):
        write_pair(cfg.model.teacher, str(student), 'made/pair.py', teacher_ckpt=cfg.model.teacher_ckpt)


def test_long_paths_with_quotes_stay_as_they_are(pairs, tmp_path):
    cfg = Config.fromfile(str(pairs['detection']))
    checkpoint = tmp_path / ("it's " + 'long' * 20) / "the 'best'.pth"
    checkpoint.parent.mkdir()
    checkpoint.symlink_to(cfg.model.teacher_ckpt)
    student = str(pairs['detection'].with_name('detection_student.py'))
    model, _ = written(tmp_path, cfg.model.teacher, student, str(checkpoint))
    assert model.teacher_ckpt == str(checkpoint)


def test_pair_is_written_as_python_alone(pairs, tmp_path):
    cfg = Config.fromfile(str(pairs['detection']))
    out = tmp_path / 'pair.json'
    with pytest.raises(SetupError, match=r"'.*pair.json' does not end in .py: name another file with --out"):
        write_pair(cfg.model.teacher, str(pairs['detection'].with_name('detection_student.py')), str(out))
    assert not out.exists()


def as_pure_python(path, config):
    """Write the detector of a text config as a pure Python one, in which types are classes and no scope is named."""
    cfg = load_config(str(config))
    path.write_text(
        'from mmdet.datasets import CocoDataset\n'
        'from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, Resize\n'
        'from mmdet.evaluation import CocoMetric\n'
        'from mmdet.models import FPN, ResNet, RetinaHead, RetinaNet\n\n'
        'default_scope = None\n'
        + ''.join(
            f'{key} = {literal(value)}\n'
            for key, value in cfg.to_dict().items()
            if key not in ('default_scope', 'work_dir', 'launcher')
        )
    )
    classes = 'CocoDataset|LoadAnnotations|PackDetInputs|Resize|CocoMetric|FPN|ResNet|RetinaHead|RetinaNet'
    path.write_text(re.sub(rf"type='({classes})'", r'type=\1', path.read_text()))
    assert 'type=RetinaNet' in path.read_text() and 'type=CocoDataset' in path.read_text()
    return str(path)


def as_json(path, config):
    Config(load_config(str(config)).to_dict()).dump(str(path))
    return str(path)


def as_text(path, config):
    return str(config)


FORMS = dict(python=(as_pure_python, '.py'), json=(as_json, '.json'), yaml=(as_json, '.yml'), text=(as_text, '.py'))


@pytest.fixture
def in_form(pairs, tmp_path):
    """The teacher and the student of the demo's detectors, each in a form of config, and the teacher's checkpoint."""
    cfg = Config.fromfile(str(pairs['detection']))
    configs = dict(teacher=cfg.model.teacher, student=pairs['detection'].with_name('detection_student.py'))

    def write(teacher, student):
        found = []
        for whose, form in (('teacher', teacher), ('student', student)):
            convert, suffix = FORMS[form]
            found.append(convert(tmp_path / f'{whose}_{form}{suffix}', configs[whose]))
        return (*found, cfg.model.teacher_ckpt)

    return write


@pytest.mark.parametrize(
    'teacher, student',
    [('python', 'python'), ('json', 'json'), ('text', 'python'), ('python', 'json'), ('json', 'yaml')],
)
def test_forms_of_config(teacher, student, in_form, tmp_path):
    teacher, student, checkpoint = in_form(teacher, student)
    model, said = written(tmp_path, teacher, student, checkpoint)
    assert any(line.startswith("source: neck: the student's levels 0, 1, 2 (strides 8, 16, 32)") for line in said)
    assert any('of 128x128 pixels' in line for line in said)
    built = MODELS.build(model)
    assert type(built.teacher).__name__ == 'RetinaNet' and built.bbox_head.num_classes == 10


@pytest.mark.slow
@pytest.mark.parametrize(
    'student, data', [('python', None), ('python', 'python'), ('python', 'json'), ('json', 'python'), ('text', 'json')]
)
def test_pair_of_any_form_trains(student, data, in_form, tmp_path):
    from cankd_mm.apis import train

    teacher, student, checkpoint = in_form('python', student)
    data = data and in_form('text', data)[1]
    write_pair(teacher, student, str(tmp_path / 'pair.py'), checkpoint, data)
    runner = train(str(tmp_path / 'pair.py'), work_dir=str(tmp_path / 'run'), cfg_options={'train_cfg.max_epochs': 1})
    assert runner.iter >= 1 and list((tmp_path / 'run').glob('epoch_1.pth'))


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_recommended_settings_are_written(pairs, tmp_path, task):
    cfg = Config.fromfile(str(pairs[task]))
    student, out = str(pairs[task].with_name(f'{task}_student.py')), str(tmp_path / 'pair.py')
    lines = write_pair(cfg.model.teacher, student, out, cfg.model.teacher_ckpt, recommended=True)
    file = dict(detection='recommended.py', segmentation='recommended-450.py')[task]
    assert any(file in line for line in lines)
    expected = Config.fromfile(str(ROOT / f'configs/methods/{file}')).model
    model = Config.fromfile(out).model
    assert model.init_from_teacher == expected.init_from_teacher
    assert model.distiller.level_weights == expected.distiller.level_weights and model.distiller.source == 'neck'
    assert model.distiller.loss == dict(type='CanKDLoss', loss_weight=expected.distiller.loss.loss_weight)


def test_recommended_weight_where_a_segmentors_head_does_not_fit(pairs, tmp_path):
    cfg = Config.fromfile(str(pairs['segmentation']))
    student, out = tmp_path / 'student.py', str(tmp_path / 'pair.py')
    student.write_text(
        f"_base_ = '{pairs['segmentation'].with_name('segmentation_student.py')}'\n"
        'model = dict(decode_head=dict(channels=24))\n'
    )
    write_pair(cfg.model.teacher, str(student), out, cfg.model.teacher_ckpt, recommended=True)
    assert Config.fromfile(out).model.distiller.loss.loss_weight == 50.0


def test_a_work_folder_that_the_student_names_is_not_the_pairs(pairs, tmp_path):
    """Or each of both trainings would write over the checkpoints of the other."""
    cfg, student, out = Config.fromfile(str(pairs['detection'])), tmp_path / 'own.py', str(tmp_path / 'my_pair.py')
    student.write_text(
        f"_base_ = {str(pairs['detection'].with_name('detection_student.py'))!r}\nwork_dir = 'runs/student'\n"
    )
    data = str(pairs['detection'].with_name('detection_student.py'))
    write_pair(cfg.model.teacher, str(student), out, cfg.model.teacher_ckpt, data=data)
    assert load_config(out).work_dir == 'work_dirs/my_pair'
    assert load_config(str(tmp_path / 'own_detection_student.py')).work_dir == 'work_dirs/own_detection_student'


@pytest.mark.parametrize(
    'name, levels',
    [
        ('deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024', [0, 3]),
        ('segformer_mit-b0_8xb2-160k_ade20k-512x512', [0, 1, 2, 3]),
        ('pspnet_r18-d8_4xb2-80k_cityscapes-512x1024', [-1]),
    ],
)
def test_all_levels_that_a_head_without_labels_reads_are_distilled(name, levels, tmp_path):
    """It is as the teacher has it, and nothing else makes its inputs the teacher's."""
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / '1.jpg').touch()
    out = str(tmp_path / 'pair.py')
    write_pair(name, name, out, unlabeled=str(tmp_path / 'images'), recommended=True)
    model = Config.fromfile(out).model
    assert (model.distiller.source, model.distiller.levels, model.frozen_parts) == ('backbone', levels, ['decode_head'])


@pytest.mark.slow
@pytest.mark.parametrize(
    'teacher, student, settings, resize',
    [
        ('yolox_s_8xb8-300e_coco', 'yolox_tiny_8xb8-300e_coco', dict(source='neck', levels=3), None),
        ('faster-rcnn_r50_fpn_1x_coco', 'retinanet_r18_fpn_1x_coco', dict(source='neck', levels=4), None),
        (
            'segformer_mit-b1_8xb2-160k_ade20k-512x512',
            'segformer_mit-b0_8xb2-160k_ade20k-512x512',
            dict(source='backbone', levels=[-1]),
            None,
        ),
        (
            'segformer_mit-b1_8xb2-160k_ade20k-512x512',
            'pspnet_r18-d8_4xb2-80k_cityscapes-512x1024',
            dict(source='backbone', levels=[-1], teacher_levels=[-1]),
            'student',
        ),
        (
            'pspnet_r18-d8_4xb2-80k_cityscapes-512x1024',
            'segformer_mit-b0_8xb2-160k_ade20k-512x512',
            dict(source='backbone', levels=[-1]),
            'teacher',
        ),
        # more branches while it trains, of which the second is the one that is evaluated
        (
            'pidnet-m_2xb6-120k_1024x1024-cityscapes',
            'pidnet-s_2xb6-120k_1024x1024-cityscapes',
            dict(source='backbone', levels=[1]),
            None,
        ),
    ],
)
def test_sources_of_the_zoos(teacher, student, settings, resize, tmp_path):
    model, _ = written(tmp_path, teacher, student)
    assert settings_of(model.distiller) == settings and model.distiller.loss.get('resize') == resize
    assert model.teacher_ckpt == find_model(teacher, 'teacher').weights


def test_parts_that_fit_are_the_largest():
    head = "dict(type='mmdet.RetinaHead', num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1)"
    model = (
        "dict(type='mmdet.RetinaNet', backbone=dict(type='mmdet.ResNet', depth=18, base_channels={}), "
        "neck=dict(type='mmdet.FPN', in_channels=[{}, {}, {}, {}], out_channels=16, num_outs=5), "
        f'bbox_head={head})'
    )
    small, large = (build(model.format(c, *(c * 2**i for i in range(4)))) for c in (4, 8))
    assert fitting_parts(small, large) == ['neck.fpn_convs', 'bbox_head']
    assert fitting_parts(small, small) == ['backbone', 'neck', 'bbox_head']
    model = model.replace('num_outs=5', "start_level=1, add_extra_convs='on_input', num_outs=5")
    small, large = (build(model.format(c, *(c * 2**i for i in range(4)))) for c in (4, 8))
    assert fitting_parts(small, large) == [f'neck.fpn_convs.{i}' for i in (0, 1, 2, 4)] + ['bbox_head']


def test_memory_is_what_the_loss_keeps(tmp_path):
    from cankd_mm.models import CanKDLoss
    from cankd_mm.models.utils import saved_bytes

    _, said = written(tmp_path, 'yolox_s_8xb8-300e_coco', 'yolox_tiny_8xb8-300e_coco')
    held = []
    for stride in (8, 16, 32):
        student, teacher = (torch.randn(8, 128, 640 // stride, 640 // stride) for _ in range(2))
        with saved_bytes() as saved:
            CanKDLoss(in_channels=128)(student.requires_grad_(), teacher)
        held.append(f'{sum(saved.values()) / 2**20:.0f}')
    assert f'memory of the loss, 8 images of 640x640 pixels: {" + ".join(held)} MB' in said


@pytest.mark.parametrize(
    'config, size',
    [
        ('mmdet::retinanet/retinanet_r50_fpn_2x_coco.py', (800, 1333)),
        ('mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py', (800, 1333)),
        ('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', (640, 640)),
        ('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', (640, 640)),
        ('mmdet::ssd/ssd300_coco.py', (300, 300)),
        ('mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py', (512, 1024)),
        ('mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', (512, 512)),
    ],
)
def test_size_of_the_images(config, size, tmp_path):
    (tmp_path / 'teacher.pth').touch()
    _, said = written(tmp_path, config, config, str(tmp_path / 'teacher.pth'))
    assert any(re.match(rf'memory of the loss, \d+ images of {size[0]}x{size[1]} pixels', line) for line in said)


@pytest.mark.parametrize(
    'teacher, student, words',
    [
        (
            'pspnet_r18-d8_4xb2-80k_cityscapes-512x1024',
            'retinanet_r18_fpn_1x_coco',
            'is a model of mmseg and the student .* one of mmdet: give two of one task',
        ),
        (
            'mmdet::retinanet/retinanet_r50_fpn_8xb8-amp-lsj-200e_coco.py',
            'retinanet_r18_fpn_1x_coco',
            r'zoo has no weights of the teacher .*: give its checkpoint with --teacher-ckpt PATH',
        ),
    ],
)
def test_mistakes_are_one_clear_sentence(teacher, student, words, tmp_path):
    with pytest.raises(SetupError, match=words) as error:
        write_pair(teacher, student, str(tmp_path / 'pair.py'))
    assert '\n' not in str(error.value) and not any(tmp_path.iterdir())


@pytest.mark.slow
def test_teacher_that_is_smaller_or_worse_is_a_warning(tmp_path):
    _, said = written(tmp_path, 'retinanet_r18_fpn_1x_coco', 'retinanet_r50_fpn_1x_coco')
    warnings = [line for line in said if line.startswith('warning: ')]
    assert re.search(r'the teacher has \d+\.\d M parameters and the student \d+\.\d M', warnings[0])
    assert 'the teacher has 31.7 box AP on COCO and the student alone 36.5: there is nothing to learn' in warnings[1]


@pytest.fixture
def own_data(tmp_path):
    """A data set of two classes, as its user would write it down."""
    path = tmp_path / 'mine.py'
    path.write_text(
        "data = dict(type='CocoDataset', data_root='mine/', metainfo=dict(classes=('cat', 'dog')),\n"
        "            data_prefix=dict(img='images/'))\n"
        "train_dataloader = dict(dataset=dict(**data, ann_file='train.json'))\n"
        "val_dataloader = dict(dataset=dict(**data, ann_file='val.json'))\n"
        'test_dataloader = val_dataloader\n'
        "val_evaluator = dict(type='CocoMetric', ann_file='mine/val.json', metric='bbox')\n"
        'test_evaluator = val_evaluator\n'
    )
    return path


@pytest.mark.parametrize(
    'student, wrapped, classes',
    [
        ('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', True, lambda m: [m.bbox_head.num_classes]),
        ('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', False, lambda m: [m.bbox_head.num_classes]),
        (
            'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
            False,
            lambda m: [*(head.num_classes for head in m.roi_head.bbox_head), m.roi_head.mask_head.num_classes],
        ),
        (
            'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
            False,
            lambda m: [
                m.panoptic_head.num_things_classes,
                m.panoptic_fusion_head.num_things_classes,
                len(m.panoptic_head.loss_cls.class_weight) - 1,
            ],
        ),
    ],
)
def test_student_on_a_data_set_of_its_own(student, wrapped, classes, own_data, tmp_path):
    path = tmp_path / 'student.py'
    path.write_text(data_text(student, student, str(own_data)))
    assert len(path.read_text().splitlines()) <= 12
    cfg, stock = Config.fromfile(str(path)), load_config(student)
    dataset = cfg.train_dataloader.dataset
    dataset, before = (dataset.dataset, stock.train_dataloader.dataset.dataset) if wrapped else (dataset, None)
    assert (dataset.data_root, dataset.ann_file, dataset.data_prefix.img) == ('mine/', 'train.json', 'images/')
    assert dataset.metainfo.classes == ('cat', 'dog')
    assert cfg.val_dataloader.dataset.ann_file == cfg.test_dataloader.dataset.ann_file == 'val.json'
    assert cfg.val_evaluator.ann_file == cfg.test_evaluator.ann_file == 'mine/val.json'
    assert set(classes(cfg.model)) == {2}
    # how images are loaded and augmented, and the rest of the evaluation
    assert dataset.pipeline == (before or stock.train_dataloader.dataset).pipeline
    assert cfg.train_dataloader.batch_size == stock.train_dataloader.batch_size
    assert cfg.val_evaluator.metric == stock.val_evaluator.metric


OWN_TYPE = """
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

@DATASETS.register_module(force=True)
class OwnFolds(CocoDataset):
    def __init__(self, *args, fold=0, **kwargs):
        super().__init__(*args, **kwargs)
"""


def test_all_that_says_which_images_and_how_they_are_rated_is_taken(own_data, tmp_path, monkeypatch):
    """Of a config whose test has an evaluator of its own, and whose type is its user's."""
    with own_data.open('a') as f:
        f.write(
            'train_dataloader.update(drop_last=True)\n'
            'train_dataloader["dataset"].update(filter_cfg=dict(filter_empty_gt=False), indices=40)\n'
            "test_dataloader = dict(dataset=dict(**data, ann_file='test.json'))\n"
            'val_evaluator.update(classwise=True, proposal_nums=(1, 10, 50))\n'
            "test_evaluator = dict(type='CocoMetric', ann_file='mine/test.json', metric='bbox')\n"
            "custom_imports = dict(imports=['own_folds'])\n"
        )
    own_data.write_text(own_data.read_text().replace("'CocoDataset'", "'OwnFolds', fold=2"))
    (tmp_path / 'own_folds.py').write_text(OWN_TYPE)
    monkeypatch.syspath_prepend(str(tmp_path))
    student, path = tmp_path / 'before.py', tmp_path / 'student.py'
    student.write_text(
        "_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'\nval_dataloader = dict(dataset=dict(indices=24))\n"
    )
    path.write_text(data_text(str(student), './before.py', str(own_data)))
    cfg = Config.fromfile(str(path))
    assert cfg.custom_imports.imports == ['own_folds']
    assert cfg.train_dataloader.dataset.fold == cfg.val_dataloader.dataset.fold == 2
    assert cfg.val_dataloader.dataset.indices is None
    dataset, rating = cfg.train_dataloader.dataset, cfg.val_evaluator
    assert (dataset.filter_cfg.filter_empty_gt, dataset.indices, cfg.train_dataloader.drop_last) == (False, 40, True)
    assert (rating.ann_file, rating.classwise, rating.proposal_nums) == ('mine/val.json', True, (1, 10, 50))
    assert cfg.test_dataloader.dataset.ann_file == 'test.json' and 'indices' not in cfg.test_dataloader.dataset
    assert cfg.test_evaluator.ann_file == 'mine/test.json' and not cfg.test_evaluator.get('classwise')


def test_segmentor_on_a_data_set_of_its_own(tmp_path):
    data = tmp_path / 'mine.py'
    data.write_text(
        "data = dict(type='BaseSegDataset', data_root='mine/', seg_map_suffix='.png', img_suffix='.jpg',\n"
        "            metainfo=dict(classes=('a', 'b'), palette=[[0, 0, 0], [1, 1, 1]]))\n"
        "train_dataloader = dict(dataset=dict(**data, data_prefix=dict(img_path='train/a', seg_map_path='train/b')))\n"
        "val_dataloader = dict(dataset=dict(**data, data_prefix=dict(img_path='val/a', seg_map_path='val/b')))\n"
        'test_dataloader = val_dataloader\n'
        "val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])\n"
    )
    path = tmp_path / 'student.py'
    student = 'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'
    path.write_text(data_text(student, student, str(data)))
    cfg = Config.fromfile(str(path))
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 2
    assert cfg.train_dataloader.dataset.type == 'BaseSegDataset' and cfg.val_evaluator.type == 'IoUMetric'
    assert cfg.test_dataloader.dataset.data_prefix.seg_map_path == 'val/b'


DATA = dict(mmdet=('CocoDataset', "img='a'"), mmseg=('BaseSegDataset', "img_path='a', seg_map_path='b'"))


def data_config(path, library, train, test=()):
    """The config of a data set whose pipelines have some steps between loading and packing."""
    kind, prefix = DATA[library]
    pack = dict(mmdet='PackDetInputs', mmseg='PackSegInputs')[library]
    loads = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    path.write_text(
        f"data = dict(type='{kind}', data_root='mine/', metainfo=dict(classes=('a', 'b')), data_prefix=dict({prefix}),"
        f" ann_file='c')\ntrain_dataloader = dict(batch_size=3, num_workers=0, dataset=dict(**data, pipeline="
        f'{[*loads, *train, dict(type=pack)]}))\n'
        f'val_dataloader = dict(batch_size=1, dataset=dict(**data, pipeline={[loads[0], *test, loads[1]]}))\n'
        'test_dataloader = val_dataloader\n'
    )
    return str(path)


RESIZE, CROP, PAD = (
    dict(type='Resize', scale=(320, 240), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(128, 96)),
    dict(type='Pad', size=(128, 96)),
)


@pytest.mark.parametrize(
    'student, train, test, kinds, evaluated',
    [
        (
            'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
            [CROP],
            [],
            'LoadImageFromFile LoadAnnotations RandomCrop RandomFlip PhotoMetricDistortion PackSegInputs',
            'LoadImageFromFile LoadAnnotations PackSegInputs',
        ),
        (
            'mmseg::vit/vit_vit-b16_mln_upernet_8xb2-80k_ade20k-512x512.py',
            [RESIZE, CROP, PAD],
            [RESIZE],
            'LoadImageFromFile LoadAnnotations Resize RandomCrop Pad RandomFlip PhotoMetricDistortion PackSegInputs',
            'LoadImageFromFile Resize LoadAnnotations PackSegInputs',
        ),
        (
            'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
            [RESIZE],
            [RESIZE],
            'LoadImageFromFile LoadAnnotations Resize RandomFlip PackDetInputs',
            'LoadImageFromFile Resize LoadAnnotations PackDetInputs',
        ),
        (
            'mmdet::detr/detr_r50_8xb2-150e_coco.py',
            [RESIZE],
            [RESIZE],
            'LoadImageFromFile LoadAnnotations RandomFlip Resize PackDetInputs',
            'LoadImageFromFile Resize LoadAnnotations PackDetInputs',
        ),
    ],
)
def test_sizes_and_batch_are_those_of_the_data(student, train, test, kinds, evaluated, tmp_path):
    library = student[:5]
    data = data_config(tmp_path / 'mine.py', library, train, test)
    (tmp_path / 'student.py').write_text(data_text(student, student, data))
    cfg, stock = load_config(str(tmp_path / 'student.py')), load_config(student)
    loader, before = cfg.train_dataloader, stock.train_dataloader
    assert (loader.batch_size, loader.num_workers, loader.persistent_workers) == (3, 0, False)
    assert cfg.val_dataloader.batch_size == 1 and loader.sampler.type == before.sampler.type
    pipelines = [loader.dataset.pipeline, cfg.val_dataloader.dataset.pipeline]
    assert [[step.type for step in pipeline] for pipeline in pipelines] == [kinds.split(), evaluated.split()]
    assert [step for step in pipelines[0] if step.type in ('Resize', 'RandomCrop', 'Pad')] == train
    load, stock_load = loader.dataset.pipeline[1], before.dataset.pipeline[1]
    assert load.get('with_mask') == stock_load.get('with_mask')  # where the student learns masks
    if CROP in train:
        assert cfg.model.data_preprocessor.size == (128, 96)
        if stock.model.test_cfg.mode == 'slide':
            assert cfg.model.test_cfg.crop_size == (128, 96) and cfg.model.test_cfg.stride == (85, 63)


def test_sizes_of_a_student_that_mixes_images_stay(tmp_path):
    student = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
    (tmp_path / 'student.py').write_text(
        data_text(student, student, data_config(tmp_path / 'a.py', 'mmdet', [RESIZE], [RESIZE]))
    )
    cfg, stock = load_config(str(tmp_path / 'student.py')), load_config(student)
    for split in ('train', 'val'):
        pipelines = [each[f'{split}_dataloader'].dataset.pipeline for each in (cfg, stock)]
        assert pipelines[0] == pipelines[1]


@pytest.mark.parametrize(
    'train, student, words',
    [
        pytest.param(
            [CROP],
            'pspnet_r18-d8_4xb2-80k_cityscapes-512x1024',
            'nothing; .* 80000 iterations of 3 images$',
            marks=pytest.mark.full,
        ),
        (
            [dict(type='RandomRotate', prob=0.5, degree=9)],
            'pspnet_r18-d8_4xb2-80k_cityscapes-512x1024',
            'RandomRotate; ',
        ),
        (
            [RESIZE],
            'rtmdet_tiny_8xb32-300e_coco',
            'image sizes, as those of the student.* hang together; .* 300 epochs$',
        ),
        pytest.param([RESIZE], 'retinanet_r18_fpn_1x_coco', 'nothing; .* 12 epochs$', marks=pytest.mark.full),
    ],
)
def test_what_was_not_taken_of_the_data_is_said(train, student, words, tmp_path):
    library = 'mmseg' if 'pspnet' in student else 'mmdet'
    data = data_config(tmp_path / 'mine.py', library, train)
    teacher = dict(mmseg='pspnet_r50-d8_4xb2-80k_cityscapes-512x1024', mmdet='retinanet_r50_fpn_1x_coco')[library]
    said = write_pair(teacher, student, str(tmp_path / 'pair.py'), data=data)
    assert any(re.search(f'^not taken from {data}: {words}', line) for line in said), said
    batch = next(line for line in said if line.startswith('schedule: '))
    assert '3 images per GPU' in batch


def test_how_long_the_schedule_is_on_the_data_is_said(pairs, tmp_path):
    """The images are counted where they are there."""
    data = str(pairs['detection'].with_name('detection_student.py'))
    names = ('retinanet_r50_fpn_1x_coco', 'retinanet_r18_fpn_1x_coco')
    said = write_pair(*names, str(tmp_path / 'pair.py'), data=data)
    note = next(line for line in said if line.startswith('not taken from '))
    assert 'DefaultSampler' not in note and 'train_cfg, optim_wrapper, param_scheduler' in note
    assert '12 epochs, which are 24 iterations of these 8 images' in note and 'pixels' not in note
    assert 'memory of the loss, 4 images of 128x128 pixels' in '\n'.join(said)


def test_kind_of_data_set_that_takes_less_than_the_students(own_data, tmp_path):
    """Nothing is left of the student's that the other kind does not take."""
    student = 'mmdet::openimages/retinanet_r50_fpn_32xb2-1x_openimages.py'
    path = tmp_path / 'student.py'
    path.write_text(data_text(student, student, str(own_data)))
    cfg, stock = Config.fromfile(str(path)), load_config(student)
    dataset, before = cfg.train_dataloader.dataset, stock.train_dataloader.dataset
    assert dataset.type == 'CocoDataset' and 'label_file' in before and 'label_file' not in dataset
    assert dataset.pipeline == before.pipeline and cfg.model.bbox_head.num_classes == 2


def test_label_maps_that_count_from_zero(tmp_path):
    student = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'
    data = tmp_path / 'mine.py'
    data.write_text(
        "data = dict(type='BaseSegDataset', data_root='mine/', metainfo=dict(classes=('a', 'b')), img_suffix='.jpg',\n"
        "            seg_map_suffix='.png', data_prefix=dict(img_path='a', seg_map_path='b'))\n"
        'train_dataloader = dict(dataset=data)\nval_dataloader = dict(dataset=data)\ntest_dataloader = val_dataloader\n'
    )
    (tmp_path / 'student.py').write_text(data_text(student, student, str(data)))
    dataset, stock = (Config.fromfile(str(tmp_path / 'student.py')), load_config(student))
    steps = [c.train_dataloader.dataset.pipeline[1] for c in (dataset, stock)]
    assert [step.reduce_zero_label for step in steps] == [False, True]


def test_label_maps_that_their_type_counts_from_one(tmp_path):
    """As ADE20K's, whose config need not say so."""
    student = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'
    (tmp_path / 'student.py').write_text(data_text(student, student, 'mmseg::_base_/datasets/ade20k.py'))
    cfg = Config.fromfile(str(tmp_path / 'student.py'))
    assert cfg.train_dataloader.dataset.pipeline[1].reduce_zero_label is True


@pytest.mark.parametrize(
    'kind, words', [('NoDataset', "type 'NoDataset' is not registered among those of the student")]
)
def test_data_that_is_not_registered(own_data, kind, words):
    own_data.write_text(own_data.read_text().replace('CocoDataset', kind))
    student = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
    with pytest.raises(SetupError, match=words):
        data_text(student, student, str(own_data))


def test_data_that_cannot_be_exchanged(own_data):
    voc = 'mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py'
    with pytest.raises(SetupError, match='joins several data sets in train_dataloader'):
        data_text(voc, voc, str(own_data))


@pytest.mark.parametrize(
    'teacher, student, settings, resize',
    [
        (
            'timm::test_vit2',
            'retinanet_r18_fpn_1x_coco',
            dict(source='neck', teacher_source='backbone', levels=[1]),
            None,
        ),
        (
            'timm::test_convnext',
            'retinanet_r18_fpn_1x_coco',
            dict(source='neck', teacher_source='backbone', levels=3),
            None,
        ),
        (
            'timm::test_convnext',
            'pspnet_r18-d8_4xb2-80k_cityscapes-512x1024',
            dict(source='backbone', levels=[-1], teacher_levels=[-1]),
            'teacher',
        ),
    ],
)
def test_backbones_of_timm(teacher, student, settings, resize, tmp_path):
    pytest.importorskip('timm')
    model, said = written(tmp_path, teacher, student)
    assert settings_of(model.distiller) == settings and model.distiller.loss.get('resize') == resize
    assert 'teacher_ckpt' not in model and not any('warning' in line for line in said)
