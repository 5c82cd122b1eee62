_base_ = ['mmdet::grounding_dino/grounding_dino_r50_scratch_8xb2_1x_coco.py', '../_base_/cankd_fpn.py']
model = dict(
    _delete_=True, _scope_='mmrazor', type='FeatureDistill', architecture=_base_.model,
    teacher='{{ fileDirname }}/../models/grounding_dino_r101_scratch_8xb2_1x_coco.py',
    teacher_ckpt=None,  # no public weights: train the teacher, then --cfg-options model.teacher_ckpt=PATH
    init_from_teacher=['bbox_head'],
    distiller=dict(_base_.distiller, levels=3))
auto_scale_lr = dict(base_batch_size=4)  # 2 GPUs x 2 images
