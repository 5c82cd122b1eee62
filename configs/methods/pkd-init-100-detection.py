# PKD on all levels at ten times its weight, and the head starts from the teacher's weights.
model = dict(init_from_teacher=['bbox_head'], distiller=dict(loss=dict(_delete_=True, type='PKDLoss', loss_weight=100)))
