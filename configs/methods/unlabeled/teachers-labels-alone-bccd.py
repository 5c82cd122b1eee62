# The student alone, as nothing is distilled, on labels that `cankd label` wrote.
_base_ = './teachers-labels-bccd.py'
model = dict(init_from_teacher=None, distiller=dict(level_weights=None, loss=dict(loss_weight=0.0)))
