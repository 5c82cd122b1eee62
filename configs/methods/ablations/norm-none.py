# No norm before the mean squared error.
model = dict(distiller=dict(loss=dict(norm=None)))
