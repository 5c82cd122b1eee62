# The head starts from the teacher's weights, and nothing is distilled: what the head alone is worth. The teacher
# runs all the same.
model = dict(init_from_teacher=['decode_head'], distiller=dict(loss=dict(loss_weight=0.0)))
