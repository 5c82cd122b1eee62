# PKD (Cao et al., NeurIPS 2022): features normalized over batch and pixels. Weight of MMRazor's RetinaNet config.
model = dict(distiller=dict(loss=dict(_delete_=True, type='PKDLoss', loss_weight=10)))
