# What was best in detection: the student's head starts from the teacher's weights, and CanKD at ten times the paper's
# weight brings the first level of the neck to the teacher's. See docs/comparison.md for where it was measured, and
# distil further levels where large objects matter.
model = dict(init_from_teacher=['bbox_head'], distiller=dict(levels=[0], loss=dict(loss_weight=50.0)))
