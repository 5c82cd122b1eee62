_base_ = ['mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', 'cankd_mm::_base_/cankd_backbone.py']
model = dict(
    _delete_=True, _scope_='mmrazor', type='FeatureDistill', architecture=_base_.model,
    teacher='mmseg::segformer/segformer_mit-b5_8xb2-160k_ade20k-512x512.py',
    teacher_ckpt='https://download.openmmlab.com/mmsegmentation/v0.5/segformer/segformer_mit-b5_512x512_160k_ade20k/'
    'segformer_mit-b5_512x512_160k_ade20k_20210726_145235-94cedf59.pth',
    distiller=_base_.distiller)
