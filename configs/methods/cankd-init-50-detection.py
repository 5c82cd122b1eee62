# As recommended, on all levels.
model = dict(init_from_teacher=['bbox_head'], distiller=dict(loss=dict(loss_weight=50.0)))
