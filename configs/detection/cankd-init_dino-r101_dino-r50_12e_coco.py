_base_ = ['mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py', '../_base_/cankd_fpn.py']
model = dict(
    _delete_=True, _scope_='mmrazor', type='FeatureDistill', architecture=_base_.model,
    teacher='{{ fileDirname }}/../models/dino-4scale_r101_8xb2-12e_coco.py',
    teacher_ckpt=None,  # no public weights: train the teacher, then --cfg-options model.teacher_ckpt=PATH
    init_from_teacher=['neck', 'encoder', 'decoder', 'bbox_head'],
    distiller=dict(_base_.distiller, levels=3))
auto_scale_lr = dict(base_batch_size=4)  # 2 GPUs x 2 images
