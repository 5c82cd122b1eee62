# The block without its residual.
model = dict(distiller=dict(loss=dict(residual=False)))
