_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/cankd_fpn.py']
model = dict(
    _delete_=True, _scope_='mmrazor', type='FeatureDistill', architecture=_base_.model,
    teacher='mmdet::faster_rcnn/faster-rcnn_x101-32x4d_fpn_1x_coco.py',
    teacher_ckpt='https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn/faster_rcnn_x101_32x4d_fpn_1x_coco/'
    'faster_rcnn_x101_32x4d_fpn_1x_coco_20200203-cff10310.pth',
    distiller=_base_.distiller)
optim_wrapper = dict(optimizer=dict(lr=0.005), clip_grad=dict(max_norm=35, norm_type=2))
auto_scale_lr = dict(base_batch_size=4)  # 2 GPUs x 2 images
