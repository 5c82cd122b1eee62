_base_ = ['mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 'cankd_mm::_base_/cankd_fpn.py']
model = dict(
    _delete_=True, _scope_='mmrazor', type='FeatureDistill', architecture=_base_.model,
    teacher='mmdet::dino/dino-5scale_swin-l_8xb2-36e_coco.py',
    teacher_ckpt='https://github.com/RistoranteRist/mmlab-weights/releases/download/dino-swinl/'
    'dino-5scale_swin-l_8xb2-36e_coco-5486e051.pth',
    distiller=dict(_base_.distiller, levels=3))
