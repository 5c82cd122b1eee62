"""A whole training step: the student alone, with PKD, with CanKD, and with naive CanKD in MMRazor's stock algorithm."""

import copy
from contextlib import nullcontext

import torch
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmrazor.registry import MODELS

import benchmarks.naive  # noqa: F401  registers it
from benchmarks.measure import Clock, compare, finish, parse_arguments
from cankd_mm.config.read import load_model_cfg

BATCH = 2
PAIRS = {
    'RetinaNet R101 -> R50, 800x1216': dict(
        scope='mmdet',
        student='mmdet::retinanet/retinanet_r50_fpn_2x_coco.py',
        teacher='mmdet::retinanet/retinanet_r101_fpn_2x_coco.py',
        source='neck',
        levels=4,
        size=(800, 1216),
        quick=dict(
            name='RetinaNet R18 -> R18, 64x96',
            student='mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
            teacher='mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
            levels=2,
            size=(64, 96),
        ),
        optimizer=dict(type='SGD', lr=0.005, momentum=0.9, weight_decay=0.0001),
    ),
    'PSPNet R101 -> R18, 512x1024': dict(
        scope='mmseg',
        student='mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
        teacher='mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py',
        source='backbone.layer4',
        levels=None,
        size=(512, 1024),
        quick=dict(
            name='PSPNet R50 -> R18, 64x96',
            teacher='mmseg::pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py',
            size=(64, 96),
        ),
        optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0005),
    ),
}
NONE, PKD, OURS, STOCK = 'student alone', 'PKD', 'CanKD', 'CanKD, naive, MMRazor stock'
# What --variants adds: the kind, whether in mixed precision, and options of FeatureDistill.
VARIANTS = {
    f'{NONE}, AMP': (NONE, True, {}),
    f'{PKD}, AMP': (PKD, True, {}),
    f'{OURS}, AMP': (OURS, True, {}),
    f'{OURS}, teacher in bfloat16': (OURS, False, dict(teacher_dtype='bfloat16')),
}


def main():
    arguments = parse_arguments(__doc__, repeats=3, variants='mixed precision and a teacher in bfloat16, too')
    kinds = {key: (key, False, {}) for key in (NONE, PKD, OURS, STOCK)}
    kinds.update(VARIANTS if arguments.variants else {})
    results = []
    for name, pair in pairs(arguments.quick).items():
        size = pair['size']
        sides = {
            key: side(build(pair, kind, options), pair, size, arguments.device, amp)
            for key, (kind, amp, options) in kinds.items()
        }
        (measured,) = compare([sides], 1 if arguments.quick else arguments.repeats, warm=not arguments.quick)
        results.append(dict(pair=name, size=size, sides=measured))
    finish(arguments, dict(benchmark='step', batch=BATCH, results=results), table(results))


def pairs(quick):
    """The pairs by name, or small ones of the same kinds."""
    return {pair['quick']['name']: {**pair, **pair['quick']} for pair in PAIRS.values()} if quick else PAIRS


def build(pair, kind, options=None):
    """The model of one side, with random weights."""
    student, teacher = (offline(load_model_cfg(pair[key])) for key in ('student', 'teacher'))
    if 'size' in student.data_preprocessor:  # to which MMSegmentation pads, whatever the batch has
        student.data_preprocessor.size = pair['size']
    with DefaultScope.overwrite_default_scope(pair['scope']):
        if kind == NONE:
            return MODELS.build(student)
        if kind == STOCK:
            distiller = long_form(pair)
            cfg = dict(type='mmrazor.SingleTeacherDistill', distiller=distiller, teacher=teacher, architecture=student)
            with DefaultScope.overwrite_default_scope('mmrazor'):
                return MODELS.build(ConfigDict(cfg))
        loss = dict(type='PKDLoss', loss_weight=6.0) if kind == PKD else dict(type='CanKDLoss', loss_weight=5.0)
        distiller = dict(type='CanKDDistiller', source=pair['source'], levels=pair['levels'], loss=loss)
        return MODELS.build(
            ConfigDict(
                type='mmrazor.FeatureDistill',
                architecture=student,
                teacher=teacher,
                distiller=distiller,
                **(options or {}),
            )
        )


def offline(model):
    """The model's config with nothing to fetch."""
    model = copy.deepcopy(model)
    model.pop('pretrained', None)
    model.backbone.pop('init_cfg', None)
    return model


def long_form(pair):
    """MMRazor's ConfigurableDistiller, as its users write it."""
    source, segmentation = pair['source'], pair['levels'] is None
    recorder = dict(feature=dict(type='ModuleOutputs', source=source))
    names = ['loss_0'] if segmentation else [f'loss_{i}' for i in range(pair['levels'])]
    loss = dict(type='NaiveCanKDLoss', in_channels=2048 if segmentation else 256, loss_weight=5.0)
    connectors, mappings = None, {}
    for i, name in enumerate(names):
        student = dict(from_student=True, recorder='feature', data_idx=None if segmentation else i)
        if segmentation:
            connector = dict(type='ConvModuleConnector', in_channel=512, out_channel=2048, act_cfg=None)
            connectors, student['connector'] = dict(connector=connector), 'connector'
        teacher = dict(from_student=False, recorder='feature', data_idx=student['data_idx'])
        mappings[name] = dict(s_feature=student, t_feature=teacher)
    return dict(
        type='ConfigurableDistiller',
        student_recorders=recorder,
        teacher_recorders=recorder,
        distill_losses=dict.fromkeys(names, loss),
        connectors=connectors,
        loss_forward_mappings=mappings,
    )


def side(model, pair, size, device, amp=False, images=BATCH):
    model.to(device)
    model.train()  # which the stock algorithm does not return
    on_gpu = amp and device == 'cuda'
    wrapper = dict(type='AmpOptimWrapper' if on_gpu else 'OptimWrapper', optimizer=pair['optimizer'])
    optimizer = build_optim_wrapper(model, ConfigDict(wrapper))
    data = batch(pair['scope'], size, images)

    def run():
        clock = Clock()
        # MMEngine has mixed precision for accelerators alone.
        with torch.autocast('cpu', torch.bfloat16) if amp and not on_gpu else nullcontext():
            model.train_step(copy.deepcopy(data), optim_wrapper=optimizer)
        clock.phase('step')
        return clock.phases

    return run


def batch(scope, size, images=BATCH):
    inputs = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in range(images)]
    samples = []
    for _ in inputs:
        meta = dict(img_shape=size, ori_shape=size, scale_factor=(1, 1))
        if scope == 'mmdet':
            from mmdet.structures import DetDataSample
            from mmengine.structures import InstanceData

            corner = torch.rand(7, 2) * torch.tensor([size[1], size[0]]) / 2
            boxes = torch.cat([corner, corner + 20 + 80 * torch.rand(7, 2)], 1)
            sample = DetDataSample(metainfo=meta)
            sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.randint(0, 80, (7,)))
        else:
            from mmengine.structures import PixelData
            from mmseg.structures import SegDataSample

            sample = SegDataSample(metainfo=meta)
            sample.gt_sem_seg = PixelData(data=torch.randint(0, 19, (1, *size)))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def table(results):
    lines = ['| pair | side | s/step | to PKD | to CanKD | MB beyond the models |', '|---|---|---|---|---|---|']
    for entry in results:
        seconds = {name: side['seconds']['total'] for name, side in entry['sides'].items()}
        for name, side in entry['sides'].items():
            lines.append(
                f'| {entry["pair"]} | {name} | {seconds[name]:.2f} | {seconds[name] / seconds[PKD]:.2f} | '
                f'{seconds[name] / seconds[OURS]:.2f} | {side["peak_mb"]:.0f} |'
            )
    return '\n'.join(lines)


if __name__ == '__main__':
    main()
