import pytest
import torch
from mmengine.registry import DefaultScope
from mmrazor.models import ConfigurableDistiller
from mmrazor.registry import MODELS
from torch import nn

from cankd_mm.errors import SetupError
from cankd_mm.models import CanKDDistiller, CanKDLoss
from cankd_mm.models.distillers.recording import recording


class Net(nn.Module):
    """A detector's skeleton: a backbone of two stages and a neck with two levels."""

    def __init__(self, width=4, levels=2, stride=2, dilated=False):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, width, 3, stride, 1), nn.BatchNorm2d(width))
        self.neck = Neck(width, levels, dilated)
        self.bbox_head = nn.Conv2d(width, 1, 1)

    def extract_feat(self, inputs):
        return self.neck(self.backbone(inputs))


class Neck(nn.Module):
    def __init__(self, width, levels, dilated):
        super().__init__()
        self.step = 1 if dilated else 2
        self.convs = nn.ModuleList([nn.Conv2d(width, width, 1) for _ in range(levels)])

    def forward(self, x):
        return tuple(conv(x)[..., :: self.step**i, :: self.step**i].contiguous() for i, conv in enumerate(self.convs))


def build(student, teacher, **cfg):
    with DefaultScope.overwrite_default_scope('mmrazor'):
        distiller = MODELS.build(dict(type='CanKDDistiller', **cfg))
        distiller.prepare_from_student(student)
        distiller.prepare_from_teacher(teacher)
    return distiller


def losses_of(distiller, student, teacher, image):
    with torch.no_grad(), recording(distiller.teacher_recorders, teacher, 'teacher'):
        teacher.extract_feat(image)
    with recording(distiller.student_recorders, student, 'student'):
        student.extract_feat(image)
    return distiller.compute_distill_losses()


class Mse(nn.Module):
    """What the losses below do with their arguments."""

    def of(self, a, b):
        return (a - b).square().mean()


@MODELS.register_module()
class OtherNames(Mse):
    def forward(self, a, b):
        return self.of(a, b)


@MODELS.register_module()
class ThreeArguments(Mse):
    def forward(self, s_feature, t_feature, mask):
        return self.of(s_feature, t_feature)


@MODELS.register_module()
class GivesDict(Mse):
    def forward(self, s_feature, t_feature):
        return dict(loss=self.of(s_feature, t_feature))


@MODELS.register_module()
def a_function(s_feature, t_feature):
    return (s_feature - t_feature).square().mean()


LOSS = dict(type='CanKDLoss', loss_weight=5.0)
IMAGE = torch.randn(2, 3, 20, 24)


def test_short_form_equals_long_form():
    student, teacher = Net(4), Net(6)
    torch.manual_seed(0)
    short = build(student, teacher, source='neck', levels=2, loss=LOSS)
    names = ('loss_neck_0', 'loss_neck_1')
    connector = dict(type='ConvModuleConnector', in_channel=4, out_channel=6, act_cfg=None)
    torch.manual_seed(0)
    long = build(
        student,
        teacher,
        student_recorders=dict(neck=dict(type='ModuleOutputs', source='neck')),
        teacher_recorders=dict(neck=dict(type='ModuleOutputs', source='neck')),
        connectors={name: connector for name in names},
        distill_losses={name: dict(in_channels=6, **LOSS) for name in names},
        loss_forward_mappings={
            name: dict(
                s_feature=dict(recorder='neck', from_student=True, data_idx=i, connector=name),
                t_feature=dict(recorder='neck', from_student=False, data_idx=i),
            )
            for i, name in enumerate(names)
        },
    )
    long.load_state_dict(short.state_dict())
    ours, theirs = (losses_of(distiller, student, teacher, IMAGE) for distiller in (short, long))
    assert set(ours) == set(names)
    torch.testing.assert_close(ours, theirs)
    assert all(loss > 0 for loss in ours.values())


@pytest.mark.parametrize(
    'connector, plain',
    [
        (None, True),
        (dict(type='ConvModuleConnector', act_cfg=None, bias=False), True),
        (dict(type='ConvModuleConnector', norm_cfg=dict(type='BN'), act_cfg=None), False),
        (dict(type='ConvModuleConnector'), False),  # a ReLU
        (dict(type='ConvModuleConnector', kernel_size=3, padding=1, act_cfg=None), False),
    ],
)
def test_products_go_through_a_plain_connector(connector, plain):
    """One matrix for connector and block: what MMRazor's own way gives, with less work."""
    student, teacher = Net(4).double(), Net(32).double()
    distiller = build(student, teacher, source='neck', connector=connector, loss=LOSS).double()
    for parameter in distiller.parameters():
        nn.init.normal_(parameter, std=0.5)
    image, found, taken = IMAGE.double(), [], []
    for loss in distiller.distill_losses.values():
        loss.can.register_forward_hook(lambda *call: taken.append(call[2]['projected']), with_kwargs=True)
    for cls in (CanKDDistiller, ConfigurableDistiller):
        with torch.no_grad(), recording(distiller.teacher_recorders, teacher, 'teacher'):
            teacher.extract_feat(image)
        with recording(distiller.student_recorders, student, 'student'):
            student.extract_feat(image)
        losses = cls.compute_distill_losses(distiller)
        parameters = [*distiller.parameters(), *student.backbone.parameters(), *student.neck.parameters()]
        found.append((losses, torch.autograd.grad(sum(losses.values()), parameters)))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
    assert [entry is not None for entry in taken] == [plain, plain, False, False]


def test_no_connector_where_channels_are_equal():
    assert not build(Net(4), Net(4), source='neck', loss=LOSS).connectors


def test_connector_of_mmrazor_where_channels_differ_and_where_not():
    for width in (4, 6):
        connector = dict(type='MGDConnector', lambda_mgd=0.5)
        loss = dict(type='MGDLoss', alpha_mgd=0.1)
        student, teacher = Net(4), Net(width)
        distiller = build(student, teacher, source='neck', connector=connector, loss=loss)
        generation = distiller.connectors['loss_neck_0'].generation
        assert generation[0].in_channels == width and distiller.connectors['loss_neck_0'].lambda_mgd == 0.5
        assert (distiller.connectors['loss_neck_0'].align is None) == (width == 4)
        losses = losses_of(distiller, student, teacher, IMAGE)
        assert sorted(losses) == ['loss_neck_0', 'loss_neck_1'] and all(loss > 0 for loss in losses.values())


def test_every_level_has_weights_of_its_own():
    losses = build(Net(4), Net(4), source='neck', loss=LOSS).distill_losses
    assert losses['loss_neck_0'] is not losses['loss_neck_1']
    assert all(isinstance(loss, CanKDLoss) for loss in losses.values())


@pytest.mark.parametrize('kind', ['CanKDLoss', 'PKDLoss'])
def test_every_level_has_a_weight_of_its_own(kind):
    student, teacher = Net(4), Net(4)
    torch.manual_seed(0)
    single = build(student, teacher, source='neck', loss=dict(type=kind, loss_weight=1.0))
    torch.manual_seed(0)
    weighted = build(student, teacher, source='neck', loss=dict(type=kind, loss_weight=[0.5, 3]))
    ones, found = losses_of(single, student, teacher, IMAGE), losses_of(weighted, student, teacher, IMAGE)
    for level, weight in ((0, 0.5), (1, 3)):
        torch.testing.assert_close(found[f'loss_neck_{level}'], weight * ones[f'loss_neck_{level}'])


def test_every_pixel_of_every_level_counts_the_same():
    """The sum over the pixels of all levels, by the number of the finest's."""
    student, teacher, image = Net(4, 3), Net(4, 3), torch.randn(2, 3, 32, 48)
    loss = dict(type='CanKDLoss', mode=None, norm=None, loss_weight=1.0)
    options = dict(source='neck', loss=loss, level_weights='pixels')
    found = losses_of(build(student, teacher, **options), student, teacher, image)
    pairs = list(zip(student.extract_feat(image), teacher.extract_feat(image)))
    squares = torch.cat([(ours - theirs).square().flatten() for ours, theirs in pairs])
    torch.testing.assert_close(sum(found.values()), squares.sum() / pairs[0][0].numel())
    coarse = losses_of(build(student, teacher, levels=[-1], **options), student, teacher, image)
    torch.testing.assert_close(coarse['loss_neck_2'], 16 * found['loss_neck_2'])


def test_single_feature_map():
    student, teacher = Net(4), Net(6)
    distiller = build(student, teacher, source='backbone.0', loss=LOSS)
    assert list(losses_of(distiller, student, teacher, IMAGE)) == ['loss_backbone_0_0']


def test_other_teacher_source_and_levels():
    student, teacher = Net(4), Net(4, levels=3)
    distiller = build(student, teacher, source='neck', levels=[1], teacher_levels=[1], loss=LOSS)
    assert list(losses_of(distiller, student, teacher, IMAGE)) == ['loss_neck_1']


def pairs_of(distiller):
    """The numbers of the levels of student and teacher that are compared."""
    mappings = distiller.loss_forward_mappings.values()
    return [tuple(record['data_idx'] for record in mapping.values()) for mapping in mappings]


@pytest.mark.parametrize(
    'student, teacher, cfg, pairs',
    [
        (Net(4, 3, stride=4), Net(4, 3, stride=2), {}, [(0, 1), (1, 2)]),
        (Net(4, 3, stride=2), Net(4, 3, stride=4), {}, [(1, 0), (2, 1)]),
        (Net(4, 3, stride=4), Net(4, 5, stride=2), dict(levels=2), [(0, 1), (1, 2)]),
        (Net(4, 2, stride=4), Net(4, 5, stride=2), dict(levels=[-1]), [(1, 2)]),
        (Net(4, 3), Net(4, 3), dict(levels=[-1, 0]), [(2, 2), (0, 0)]),
        (Net(4, 2), Net(4, 4), dict(teacher_levels=2), [(0, 0), (1, 1)]),
        # several levels of one size, as of a dilated backbone: those of one number, then the deepest
        (Net(4, 3, dilated=True), Net(4, 3, dilated=True), {}, [(0, 0), (1, 1), (2, 2)]),
        (Net(4, 1), Net(4, 3, dilated=True), {}, [(0, 0)]),
        (Net(4, 3, dilated=True), Net(4, 2), {}, [(0, 0)]),
        (Net(4, 3, dilated=True), Net(4, 2), dict(levels=[2]), [(2, 0)]),
        # a loss that resizes pairs equal strides where there are some, and otherwise equal numbers
        (
            Net(4, 3, stride=4),
            Net(4, 3, stride=2),
            dict(loss=dict(type='CanKDLoss', resize='student')),
            [(0, 1), (1, 2)],
        ),
        (
            Net(4, 2, stride=3),
            Net(4, 2, stride=2),
            dict(loss=dict(type='CanKDLoss', resize='teacher')),
            [(0, 0), (1, 1)],
        ),
    ],
)
def test_levels_of_equal_stride_are_pairs(student, teacher, cfg, pairs):
    distiller = build(student, teacher, **{'source': 'neck', 'loss': LOSS, **cfg})
    assert pairs_of(distiller) == pairs
    assert all(value > 0 for value in losses_of(distiller, student, teacher, torch.randn(2, 3, 48, 96)).values())


def test_strides_are_compared_on_an_image_that_both_models_take():
    """The teacher takes none as small as that on which the student's shapes are found first."""
    student, teacher = Net(4, 3, stride=4), Net(4, 3, stride=2)
    take = teacher.extract_feat
    teacher.extract_feat = lambda image: take(image) if image.shape[2] > 200 else image.fails
    distiller = build(student, teacher, source='neck', loss=LOSS)
    assert pairs_of(distiller) == [(0, 1), (1, 2)]
    assert not any('student' in name for name in vars(distiller) if callable(vars(distiller)[name]))


def test_image_size_of_a_config_of_version_0_2_is_shown_to_both_models():
    student, teacher, seen = Net(4), Net(4), []
    for model in (student, teacher):
        model.backbone.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape[2:])))
    build(student, teacher, source='neck', loss=LOSS, image_size=[48, 64])
    assert seen == [(48, 64), (48, 64)]


def test_losses_of_mmrazor():
    student, teacher = Net(4), Net(6)
    for loss in ('PKDLoss', 'L2Loss', 'ChannelWiseDivergence'):
        values = losses_of(build(student, teacher, source='neck', loss=dict(type=loss)), student, teacher, IMAGE)
        assert len(values) == 2 and all(v.isfinite() and v > 0 for v in values.values())


@pytest.mark.parametrize(
    'loss', [dict(resize='student', **LOSS), dict(resize='teacher', **LOSS), dict(type='PKDLoss', resize_stu=True)]
)
def test_sizes_that_differ_are_resized_where_the_loss_is_told_to(loss):
    student, teacher = Net(4, stride=2), Net(6, stride=1)
    distiller = build(student, teacher, source='neck', levels=2, teacher_levels=2, loss=loss)
    values = losses_of(distiller, student, teacher, IMAGE)
    assert len(values) == 2 and all(v.isfinite() and v > 0 for v in values.values())


def test_explicit_entries_win_and_add():
    student, teacher = Net(4), Net(6)
    distiller = build(
        student,
        teacher,
        source='neck',
        loss=LOSS,
        connectors=dict(
            loss_neck_0=dict(type='ConvModuleConnector', in_channel=4, out_channel=6, norm_cfg=dict(type='BN'))
        ),
        student_recorders=dict(stem=dict(type='ModuleOutputs', source='backbone.0')),
        teacher_recorders=dict(stem=dict(type='ModuleOutputs', source='backbone.0')),
        distill_losses=dict(loss_stem=dict(type='ATLoss', loss_weight=1.0)),
        loss_forward_mappings=dict(
            loss_stem=dict(
                s_feature=dict(recorder='stem', from_student=True), t_feature=dict(recorder='stem', from_student=False)
            )
        ),
    )
    assert set(losses_of(distiller, student, teacher, IMAGE)) == {'loss_neck_0', 'loss_neck_1', 'loss_stem'}
    norms = [any(isinstance(m, nn.BatchNorm2d) for m in c.modules()) for c in distiller.connectors.values()]
    assert norms == [True, False]


def test_features_are_let_go_after_the_losses():
    student, teacher = Net(4), Net(4)
    distiller = build(student, teacher, source='neck', loss=LOSS)
    losses_of(distiller, student, teacher, IMAGE)
    managers = (distiller.student_recorders, distiller.teacher_recorders)
    assert not any(r.data_buffer for manager in managers for r in manager.recorders.values())


def test_probing_leaves_the_model_as_it_was():
    student = Net(4).train()
    student.backbone.eval()
    before = {k: v.clone() for k, v in student.state_dict().items()}
    build(student, Net(4), source='neck', loss=LOSS)
    assert student.training and student.neck.training and not student.backbone[1].training
    torch.testing.assert_close(student.state_dict(), before)


@pytest.mark.parametrize(
    'cfg, words',
    [
        (dict(source='nekc'), r"student Net has no module 'nekc'; did you mean 'neck'"),
        (dict(source='neck', teacher_source='fpn_neck'), r"teacher Net has no module 'fpn_neck'"),
        (dict(source='bbox_head'), r"'bbox_head' is not run by extract_feat .*, nor by a head"),
        (dict(source='neck', levels=4), r"student's 'neck' has no level 2: it gives 2 levels, 0 to 1"),
        (dict(source='neck', levels=[-3]), r'no level -3: it gives 2 levels, 0 to 1; leave levels out for all'),
        (dict(source='neck', levels=[1, -1]), r'none twice'),
        (dict(source='neck', levels=[]), r'at least one level'),
        (dict(source='neck', levels=[0, 0]), r'none twice'),
        (dict(source='backbone', levels=2), r'single feature map'),
        (
            dict(source='neck', levels=[0], teacher_levels=[1]),
            r"level 0 of the student's 'neck' \(1, 4, 64, 96\) and level 1 .* differ in .* the student has strides "
            r'2, 4, the teacher 2, 4; set levels=\[0, 1\] and leave teacher_levels out',
        ),
        (dict(source='neck', levels=[0, 1], teacher_levels=[1]), r'levels of one length|one length'),
        (dict(source='neck', loss=dict(type='CanKDLos')), r"'CanKDLos' is not registered; did you mean 'CanKDLoss'"),
        (
            dict(source='neck', loss=dict(type='FocalLoss')),
            r"'FocalLoss' is not registered; did you mean 'mmdet.FocalL",
        ),
        (dict(source='neck', loss=dict(type='Mine')), r"'Mine' is not registered; does custom_imports lack the module"),
        (dict(source='neck', loss=dict(type='OtherNames')), r'OtherNames takes a and b, .* or give loss_forward_mapp'),
        (dict(source='neck', loss=dict(type='ThreeArguments')), r'takes mask beside two features, and nothing gives'),
        (dict(source='neck', loss=dict(type='a_function')), r"'a_function' is no class of torch.nn.Module: register"),
        (dict(source='neck', loss=None), r'no loss: give one'),
        (dict(source='neck', connector=dict(type='MGD')), r"connector type 'MGD' is not registered; did you mean"),
        (dict(source=None, connector=dict(type='MGDConnector')), r'got connector but no source'),
        (dict(source=None, levels=4), r'got levels but no source'),
        (
            dict(source='neck', loss=dict(type='CanKDLoss', loss_weight=[1, 2, 3])),
            r'3 weights, \[1, 2, 3\], for 2 levels: give one weight for each level, or a single one',
        ),
        (dict(source='neck', level_weights=[1, 2]), r"level_weights=\[1, 2\]: set 'pixels', .* a list as the loss's"),
    ],
)
def test_mistakes_are_one_clear_sentence(cfg, words):
    with pytest.raises(SetupError, match=words) as error:
        build(Net(4), Net(4), **{'loss': LOSS if cfg.get('source') else None, **cfg})
    assert '\n' not in str(error.value)


def test_own_loss_by_given_mappings_and_what_it_returns():
    student, teacher = Net(4), Net(4)
    a, b = (dict(recorder='neck', from_student=whose, data_idx=1) for whose in (True, False))
    mappings = dict(loss_neck_1=dict(a=a, b=b))
    given = build(
        student, teacher, source='neck', levels=[1], loss=dict(type='OtherNames'), loss_forward_mappings=mappings
    )
    assert losses_of(given, student, teacher, IMAGE)['loss_neck_1'] > 0
    returns = build(student, teacher, source='neck', loss=dict(type='GivesDict'))
    with pytest.raises(SetupError, match='loss_neck_0, GivesDict, returned dict: its forward has to return a tensor'):
        losses_of(returns, student, teacher, IMAGE)


@pytest.mark.parametrize(
    'student, teacher, cfg, words',
    [
        (
            Net(4, 2, stride=3),
            Net(4, 2),
            {},
            r'have no stride in common: the student has strides .*, the teacher 2, 4; name',
        ),
        (
            Net(4, 3, stride=4),
            Net(4, 3, stride=2),
            dict(levels=3),
            r"no level of the stride of level 2 of the student's 'neck' .*: the student has strides 4, 8, 16, the "
            r'teacher 2, 4, 8; set levels=\[0, 1\] and leave teacher_levels out, which pairs equal strides',
        ),
    ],
)
def test_message_names_the_levels_that_would_fit(student, teacher, cfg, words):
    with pytest.raises(SetupError, match=words) as error:
        build(student, teacher, source='neck', loss=LOSS, **cfg)
    assert '\n' not in str(error.value)
