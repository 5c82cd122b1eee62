# One level of the neck alone.
model = dict(distiller=dict(levels=[1]))
