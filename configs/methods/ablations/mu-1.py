# The paper's mu, 5 by default.
model = dict(distiller=dict(loss=dict(loss_weight=1)))
