# All four stages of the backbone in place of the neck, instance norm and mean squared error alone.
model = dict(distiller=dict(source='backbone', loss=dict(mode=None)))
