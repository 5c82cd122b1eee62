_base_ = ['cankd_mm::models/pspnet_r18-d8_4xb4-80k_ade20k-512x512.py', 'cankd_mm::_base_/cankd_backbone.py']
model = dict(
    _delete_=True, _scope_='mmrazor', type='FeatureDistill', architecture=_base_.model,
    teacher='mmseg::swin/swin-base-patch4-window7-in22k-pre_upernet_8xb2-160k_ade20k-512x512.py',
    teacher_ckpt='https://download.openmmlab.com/mmsegmentation/v0.5/swin/upernet_swin_base_patch4_window7_512x512_160k_ade20k_pretrain_224x224_22K/'
    'upernet_swin_base_patch4_window7_512x512_160k_ade20k_pretrain_224x224_22K_20210526_211650-762e2178.pth',
    distiller=dict(_base_.distiller, teacher_levels=[-1], loss=dict(_base_.distiller.loss, resize='student')))
