# The authors' file for FCOS R50: not the zoo's student of 38.5 AP, but one with center sampling, normalized box
# targets, the GIoU loss, single-scale training and NMS at 0.6 in the test. Its extra biases rule out init_from_teacher.
_base_ = ['mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', '../_base_/cankd_fpn.py']
student = dict(
    _base_.model,
    bbox_head=dict(
        _base_.model.bbox_head, norm_on_bbox=True, center_sampling=True, conv_bias=True,
        loss_bbox=dict(type='GIoULoss', loss_weight=1.0)),
    test_cfg=dict(_base_.model.test_cfg, nms=dict(type='nms', iou_threshold=0.6)))
model = dict(
    _delete_=True, _scope_='mmrazor', type='FeatureDistill', architecture=student,
    teacher='mmdet::fcos/fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco.py',
    teacher_ckpt='https://download.openmmlab.com/mmdetection/v2.0/fcos/'
    'fcos_r101_caffe_fpn_gn-head_mstrain_640-800_2x_coco/fcos_r101_caffe_fpn_gn-head_mstrain_640-800_2x_coco-511424d6.pth',
    distiller=_base_.distiller)
optim_wrapper = dict(optimizer=dict(lr=0.005), paramwise_cfg=None, clip_grad=dict(max_norm=35, norm_type=2))
auto_scale_lr = dict(base_batch_size=4)  # 2 GPUs x 2 images
train_cfg = dict(max_epochs=24)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, end=500),
    dict(type='MultiStepLR', end=24, milestones=[16, 22])
]
