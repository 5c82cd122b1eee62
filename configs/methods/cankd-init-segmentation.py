# CanKD, and a segmentor's head starts from the teacher's weights.
model = dict(init_from_teacher=['decode_head'])
