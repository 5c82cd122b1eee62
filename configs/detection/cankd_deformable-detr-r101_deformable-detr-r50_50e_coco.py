_base_ = ['mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py', '../_base_/cankd_fpn.py']
model = dict(
    _delete_=True, _scope_='mmrazor', type='FeatureDistill', architecture=_base_.model,
    teacher='{{ fileDirname }}/../models/deformable-detr_r101_16xb2-50e_coco.py',
    teacher_ckpt=None,  # no public weights: train the teacher, then --cfg-options model.teacher_ckpt=PATH
    distiller=dict(_base_.distiller, levels=3))
