_base_ = ['mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', 'cankd_mm::_base_/cankd_fpn.py']
model = dict(
    _delete_=True, _scope_='mmrazor', type='FeatureDistill', architecture=_base_.model,
    teacher='mmdet::yolox/yolox_l_8xb8-300e_coco.py',
    teacher_ckpt='https://download.openmmlab.com/mmdetection/v2.0/yolox/yolox_l_8x8_300e_coco/'
    'yolox_l_8x8_300e_coco_20211126_140236-d3bd2b23.pth',
    distiller=dict(_base_.distiller, levels=3))
