# The affinity of the Can block.
model = dict(distiller=dict(loss=dict(mode='concatenation')))
