# The head from the teacher, and all levels alike.
model = dict(init_from_teacher=['bbox_head'], distiller=dict(loss=dict(loss_weight=50.0)))
