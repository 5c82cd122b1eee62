# What was best in segmentation, as a search found it: the student's head starts from the teacher's weights, and CanKD
# at ninety times the paper's weight brings the first level of the neck to the teacher's. See docs/comparison.md.
model = dict(init_from_teacher=['decode_head'], distiller=dict(levels=[0], loss=dict(loss_weight=462.0)))
