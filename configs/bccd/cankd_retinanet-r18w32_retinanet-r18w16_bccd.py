# The student with CanKD.
_base_ = ['./retinanet-r18w16_bccd.py', '../demo/_base_/cankd_neck.py']
model = dict(
    _delete_=True, _scope_='mmrazor', type='FeatureDistill', architecture=_base_.model,
    teacher='cankd_mm::bccd/retinanet-r18w32_bccd.py',
    teacher_ckpt='work_dirs/retinanet-r18w32_bccd/epoch_24.pth',
    distiller=_base_.distiller)
