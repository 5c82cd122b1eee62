# Instance norm and mean squared error alone.
model = dict(distiller=dict(loss=dict(mode=None)))
