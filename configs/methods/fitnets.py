# FitNets (Romero et al., ICLR 2015): squared distance of the features, each scaled to unit length. Weight of MMRazor's
# config for classifiers; there is none for detectors.
model = dict(distiller=dict(loss=dict(_delete_=True, type='L2Loss', loss_weight=10)))
