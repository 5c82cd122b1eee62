"""Teachers that are a backbone from outside: a user's own module, and those of timm where it is installed."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import save_checkpoint
from mmrazor.registry import MODELS
from torch import nn
from torch.nn import functional as F

from cankd_mm.apis import check, train
from cankd_mm.apis import test as evaluate
from cankd_mm.errors import SetupError
from cankd_mm.models.builders import build_model
from cankd_mm.models.distillers.recording import recording
from tests.test_models.test_algorithms.test_feature_distill import build

MEAN, STD = [10.0, 20.0, 30.0], [40.0, 50.0, 60.0]


@MODELS.register_module(force=True)
class OwnPyramid(nn.Module):
    """Two maps of strides 8 and 16, of images whose sides are multiples of 48."""

    def __init__(self, channels=6):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, channels, 8, 8), nn.Conv2d(channels, channels, 2, 2)])

    def forward(self, image):
        assert image.shape[2] % 48 == 0 and image.shape[3] % 48 == 0
        first = self.convs[0](image)
        return first, self.convs[1](first)


OWN = dict(type='mmrazor.BackboneTeacher', backbone=dict(type='mmrazor.OwnPyramid'), mean=MEAN, std=STD, multiple=48)
DISTILLER = dict(
    type='CanKDDistiller',
    source='neck',
    levels=2,
    teacher_source='backbone',
    teacher_levels=2,
    loss=dict(type='CanKDLoss', resize='teacher'),
)


@pytest.fixture
def own_weights(tmp_path):
    """Of the backbone alone, as its own library writes them."""
    torch.manual_seed(5)
    path = tmp_path / 'own.pth'
    save_checkpoint(dict(state_dict=OwnPyramid().state_dict()), str(path))
    return str(path)


@pytest.fixture
def own_pair(pairs, own_weights, tmp_path):
    cfg = Config.fromfile(str(pairs['detection']))
    cfg.model.update(teacher=OWN, teacher_ckpt=own_weights, distiller=dict(_delete_=True, **DISTILLER))
    cfg.model.distiller = DISTILLER
    cfg.dump(str(tmp_path / 'own.py'))
    return tmp_path / 'own.py'


def test_features_are_those_of_the_module_on_its_own_input(own_pair, own_weights):
    model = build(own_pair)
    image = torch.randint(0, 256, (3, 128, 100)).float()  # BGR, as it is loaded
    batch = model.data_preprocessor(dict(inputs=[image]), True)['inputs']
    with torch.no_grad():
        found = model.teacher.extract_feat(model.teacher_input(batch))
    own = OwnPyramid()
    own.load_state_dict(torch.load(own_weights)['state_dict'])
    rgb = (image.flip(0) - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    # Where the student's batch is padded there is the teacher's zero, and 128 becomes the next multiple of 48.
    padded = F.pad(rgb, (0, batch.shape[3] - 100))[None]
    if batch.shape[3] > 100:
        sample = type('Sample', (), dict(metainfo=dict(img_shape=(128, 100))))
        found = model.teacher.extract_feat(model.teacher_input(batch, [sample]))
    expected = own(F.interpolate(padded, (144, -(-batch.shape[3] // 48) * 48), mode='bilinear', antialias=True))
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_pair_trains_resumes_and_is_evaluated(own_pair, tmp_path):
    options = {'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1, 'train_dataloader.dataset.indices': 4}
    runner = train(str(own_pair), work_dir=str(tmp_path / 'run'), cfg_options=options)
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert 'teacher BackboneTeacher' in log and 'teacher/' not in log and 'no gradient' not in log
    options['train_cfg.max_epochs'] = 2
    assert train(str(own_pair), work_dir=str(tmp_path / 'run'), cfg_options=options, resume='auto').iter == 2
    assert not any(parameter.grad is not None for parameter in runner.model.teacher.parameters())
    with pytest.raises(SetupError, match='is a backbone alone, which gives features, no predictions'):
        evaluate(str(own_pair), teacher=True)
    with pytest.raises(SetupError, match='is a backbone alone, which gives features, no predictions'):
        check(str(own_pair), teacher_eval=2)


def test_keys_stay_on_the_grid_of_the_teacher(own_pair):
    """The block attends to as many pixels as the teacher has, whatever the student's map is."""
    model = build(own_pair)
    seen = []
    for loss in model.distiller.distill_losses.values():
        loss.can.register_forward_pre_hook(lambda module, args: seen.append([tuple(f.shape[2:]) for f in args]))
    image = torch.randn(2, 3, 128, 128)
    with torch.no_grad(), recording(model.distiller.teacher_recorders, model.teacher, 'teacher'):
        model.teacher.extract_feat(image)
    with recording(model.distiller.student_recorders, model, 'student'):
        model.extract_feat(image)
    losses = model.distiller.compute_distill_losses()
    assert seen == [[(16, 16), (18, 18)], [(8, 8), (9, 9)]] and all(value > 0 for value in losses.values())


def test_images_of_one_size():
    teacher = build_model({**OWN, 'image_size': (96, 144)}, 'teacher')
    with torch.no_grad():
        maps = teacher.extract_feat(torch.randn(1, 3, 100, 300))
    assert [tuple(f.shape[2:]) for f in maps] == [(12, 18), (6, 9)]


def test_teacher_without_weights_stops(own_pair):
    with pytest.raises(SetupError, match='BackboneTeacher has no trained weights: set model.teacher_ckpt'):
        build(own_pair, teacher_ckpt=None).init_weights()


@pytest.mark.parametrize(
    'backbone',
    [
        dict(type='mmpretrain.ResNet', depth=18, out_indices=[2, 3]),
        dict(type='mmpretrain.VisionTransformer', arch='deit-tiny', img_size=224, out_type='featmap'),
        dict(type='mmdet.ResNet', depth=18, out_indices=[2, 3]),
    ],
)
def test_backbones_of_other_libraries(backbone):
    pytest.importorskip(backbone['type'].split('.')[0])
    teacher = build_model(dict(type='mmrazor.BackboneTeacher', backbone=backbone), 'teacher')
    with torch.no_grad():
        maps = teacher.extract_feat(torch.randn(1, 3, 100, 130))
    assert maps[-1].dim() == 4 and tuple(maps[-1].shape[2:]) in ((4, 5), (8, 10))


@pytest.mark.parametrize(
    'backbone, words',
    [
        (dict(type='nowhere.ResNet'), "backbone 'nowhere.ResNet' is of the package 'nowhere', which is not installed"),
        ('resnet50', r"backbone 'resnet50' is not known: name one of timm as 'timm::NAME'"),
        ('timm::no_such_model', r"timm has no model 'no_such_model'|is a model of timm, which is not installed"),
    ],
)
def test_mistakes_are_one_clear_sentence(backbone, words):
    with pytest.raises(SetupError, match=words):
        build_model(dict(type='mmrazor.BackboneTeacher', backbone=backbone), 'teacher')


TIMM = {'test_vit2': 16, 'test_convnext': 32}  # a transformer with a class and a register token, and a hierarchy


@pytest.fixture(params=list(TIMM))
def of_timm(request, monkeypatch):
    """A model of timm with random weights, and what its own library makes of an image."""
    timm = pytest.importorskip('timm')
    torch.manual_seed(3)
    module = timm.create_model(request.param, num_classes=0)

    def create(name, pretrained=False, original=timm.create_model, **options):
        model = original(name, **options)
        if pretrained:  # stands in for the file that timm would fetch
            inner = getattr(model, 'model', model)
            found = {
                key.replace('stages.', 'stages_').replace('stem.', 'stem_'): v for key, v in module.state_dict().items()
            }
            inner.load_state_dict(module.state_dict() if hasattr(model, 'model') else found, strict=False)
        return model

    monkeypatch.setattr(timm, 'create_model', create)
    return request.param, module, timm


def test_features_of_timm_are_those_of_its_own_preprocessing(pairs, of_timm):
    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    name, module, timm = of_timm
    cfg = Config.fromfile(str(pairs['detection'])).model
    cfg.update(teacher=f'timm::{name}', teacher_ckpt=None)
    with DefaultScope.overwrite_default_scope('mmdet'):
        distiller = dict(DISTILLER, levels=1, teacher_levels=[-1])
        model = MODELS.build({**cfg, 'distiller': distiller})
    assert model.teacher_ckpt == f'timm::{name}'
    side = 160
    image = torch.randint(0, 256, (side, side, 3), dtype=torch.uint8)  # RGB
    config = dict(resolve_data_config({}, model=module), input_size=(3, side, side), crop_pct=1.0)
    expected_input = create_transform(**config)(Image.fromarray(image.numpy()))[None]
    inputs = model.data_preprocessor(dict(inputs=[image.permute(2, 0, 1).flip(0)]), True)['inputs']
    with torch.no_grad():
        found = model.teacher.extract_feat(model.teacher_input(inputs))
        module.eval()
        if hasattr(module, 'set_input_size'):
            module.set_input_size(img_size=side)
        expected = module.forward_intermediates(expected_input, intermediates_only=True)
    torch.testing.assert_close(found[-1], expected[-1], rtol=1e-3, atol=1e-3)
    assert found[-1].shape[2:] == (side // TIMM[name], side // TIMM[name])


def test_stages_of_timm_that_are_asked_for():
    pytest.importorskip('timm')
    cfg = dict(type='mmrazor.BackboneTeacher', backbone='timm::test_convnext', out_indices=[1, 3])
    with torch.no_grad():
        maps = build_model(cfg, 'teacher').extract_feat(torch.randn(1, 3, 100, 130))
    assert [tuple(f.shape[2:]) for f in maps] == [(16, 20), (4, 5)]


def test_weights_that_cannot_be_fetched_are_one_sentence(monkeypatch):
    pytest.importorskip('timm')
    teacher = build_model('timm::test_vit', 'teacher')
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    with pytest.raises(SetupError, match=r"weights 'timm::test_vit' are not in timm's cache and cannot be fetched"):
        teacher.load_own_weights()


def test_maps_of_timm_that_have_their_channels_last(monkeypatch):
    pytest.importorskip('timm')
    teacher = build_model('timm::swin_tiny_patch4_window7_224', 'teacher')
    with torch.no_grad():
        maps = teacher.extract_feat(torch.randn(1, 3, 120, 200))
    assert [tuple(f.shape[1:]) for f in maps] == [(96 * 2**i, 32 // 2**i, 56 // 2**i) for i in range(4)]
