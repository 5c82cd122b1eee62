# Semantic FPN with a narrow ResNet-18, for 128x128 pixels. Background fills most of a scene and counts half.
_base_ = ['mmseg::_base_/models/fpn_r50.py', './schedule.py', './digits_segmentation.py']
default_scope = 'mmseg'
visualizer = dict(type='SegLocalVisualizer', vis_backends=_base_.vis_backends, name='visualizer')
width = 16
norm_cfg = dict(type='BN', requires_grad=True)
data_preprocessor = dict(size=(128, 128))
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,
    backbone=dict(type='ResNet', depth=18, base_channels=width, norm_cfg=norm_cfg),
    neck=dict(in_channels=[width, 2 * width, 4 * width, 8 * width], out_channels=64, start_level=1, num_outs=3),
    decode_head=dict(
        in_channels=[64, 64, 64],
        in_index=[0, 1, 2],
        feature_strides=[8, 16, 32],
        channels=64,
        num_classes=11,
        norm_cfg=norm_cfg,
        loss_decode=dict(class_weight=[0.5] + [1.0] * 10)))
