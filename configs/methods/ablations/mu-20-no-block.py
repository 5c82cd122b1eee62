# Instance norm and mean squared error alone, with four times the paper's weight.
model = dict(distiller=dict(loss=dict(mode=None, loss_weight=20)))
