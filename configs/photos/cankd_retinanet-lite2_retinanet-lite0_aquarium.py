# The student with CanKD on the neck's four levels.
_base_ = ['./retinanet-lite0_aquarium.py', '../demo/_base_/cankd_neck.py']
model = dict(
    _delete_=True, _scope_='mmrazor', type='FeatureDistill', architecture=_base_.model,
    teacher='cankd_mm::photos/retinanet-lite2_aquarium.py',
    teacher_ckpt='work_dirs/retinanet-lite2_aquarium/epoch_16.pth',
    distiller=_base_.distiller)
