# The student with CanKD on the neck's three levels.
_base_ = ['./retinanet-r18w16_digits300.py', './_base_/cankd_neck.py']
model = dict(
    _delete_=True, _scope_='mmrazor', type='FeatureDistill', architecture=_base_.model,
    teacher='cankd_mm::demo/retinanet-r18w32_digits.py',
    teacher_ckpt='work_dirs/demo/detection/teacher/epoch_4.pth',
    distiller=_base_.distiller)
