# Layer norm in place of instance norm.
model = dict(distiller=dict(loss=dict(norm='layer')))
