# The last stage of the backbone in place of the neck, as in the paper's segmentation.
model = dict(distiller=dict(source='backbone', levels=[-1]))
