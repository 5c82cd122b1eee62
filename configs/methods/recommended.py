# What was best in docs/comparison.md: all that fits behind the backbone starts from the teacher's weights, every pixel
# of every level counts the same, and ten times the paper's weight.
model = dict(init_from_teacher='auto', distiller=dict(level_weights='pixels', loss=dict(loss_weight=50.0)))
