_base_ = ['mmdet::objects365/retinanet_r50_fpn_1x_objects365v2.py', '../_base_/cankd_fpn.py']
model = dict(
    _delete_=True, _scope_='mmrazor', type='FeatureDistill', architecture=_base_.model,
    teacher='{{ fileDirname }}/../models/retinanet_r101_fpn_1x_objects365v2.py',
    teacher_ckpt=None,  # no public weights: train the teacher, then --cfg-options model.teacher_ckpt=PATH
    init_from_teacher=['neck', 'bbox_head'],
    distiller=_base_.distiller)
auto_scale_lr = dict(base_batch_size=4)  # 2 GPUs x 2 images
