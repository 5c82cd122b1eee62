# As in detection, at ninety times the paper's weight. See docs/comparison.md.
model = dict(init_from_teacher='auto', distiller=dict(level_weights='pixels', loss=dict(loss_weight=450.0)))
