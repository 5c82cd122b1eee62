# CanKD, and a detector's head starts from the teacher's weights.
model = dict(init_from_teacher=['bbox_head'])
