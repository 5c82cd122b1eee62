# The head from the teacher, and the first level alone.
model = dict(init_from_teacher=['bbox_head'], distiller=dict(levels=[0], loss=dict(loss_weight=50.0)))
