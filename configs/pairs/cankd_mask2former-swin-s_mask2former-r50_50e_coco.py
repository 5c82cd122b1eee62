_base_ = ['mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py', 'cankd_mm::_base_/cankd_backbone.py']
model = dict(
    _delete_=True, _scope_='mmrazor', type='FeatureDistill', architecture=_base_.model,
    teacher='mmdet::mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py',
    teacher_ckpt='https://download.openmmlab.com/mmdetection/v3.0/mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco/'
    'mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco_20220504_001756-c9d0c4f2.pth',
    distiller=_base_.distiller)
