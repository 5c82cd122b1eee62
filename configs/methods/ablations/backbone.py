# All four stages of the backbone in place of the neck: larger maps, through 1x1 convolutions where channels differ.
model = dict(distiller=dict(source='backbone'))
