# RetinaNet with a narrow ResNet-18, for 128x128 pixels: three levels and a light head with group norm.
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', './schedule.py', './digits_detection.py']
default_scope = 'mmdet'
visualizer = dict(type='DetLocalVisualizer', vis_backends=_base_.vis_backends, name='visualizer')
width = 16
model = dict(
    backbone=dict(
        depth=18, base_channels=width, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(
        in_channels=[width, 2 * width, 4 * width, 8 * width], out_channels=64, add_extra_convs=False, num_outs=3),
    bbox_head=dict(
        num_classes=10,
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        norm_cfg=dict(type='GN', num_groups=8),
        anchor_generator=dict(octave_base_scale=3, scales_per_octave=2, ratios=[1.0, 1.6], strides=[8, 16, 32]),
        loss_bbox=dict(loss_weight=0.25)))
