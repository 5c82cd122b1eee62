# The last stage of the backbone in place of the neck, instance norm and mean squared error alone.
model = dict(distiller=dict(source='backbone', levels=[-1], loss=dict(mode=None)))
