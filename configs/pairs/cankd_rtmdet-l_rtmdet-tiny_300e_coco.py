_base_ = ['mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 'cankd_mm::_base_/cankd_fpn.py']
model = dict(
    _delete_=True, _scope_='mmrazor', type='FeatureDistill', architecture=_base_.model,
    teacher='mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py',
    teacher_ckpt='https://download.openmmlab.com/mmdetection/v3.0/rtmdet/rtmdet_l_8xb32-300e_coco/'
    'rtmdet_l_8xb32-300e_coco_20220719_112030-5a0be7c4.pth',
    distiller=dict(_base_.distiller, levels=3))
