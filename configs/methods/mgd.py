# MGD (Yang et al., ECCV 2022): the teacher's features from the masked student's through two convolutions. Weights of
# MMRazor's RetinaNet config. The loss sums over pixels and channels, so that it is small on small maps.
model = dict(
    distiller=dict(
        loss=dict(_delete_=True, type='MGDLoss', alpha_mgd=0.00002),
        connector=dict(type='MGDConnector', lambda_mgd=0.65)))
