# The student with CanKD on the neck's four levels.
_base_ = ['./fpn-lite0_nuclei.py', '../demo/_base_/cankd_neck.py']
model = dict(
    _delete_=True, _scope_='mmrazor', type='FeatureDistill', architecture=_base_.model,
    teacher='cankd_mm::photos/fpn-lite2_nuclei.py',
    teacher_ckpt='work_dirs/fpn-lite2_nuclei/epoch_16.pth',
    distiller=_base_.distiller)
