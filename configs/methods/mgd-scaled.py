# MGD with its weight raised by the ratio of map sizes: 256 channels of 100x152 pixels, which its weight is for, to the
# 64 channels of 16x16 of the digit scenes.
model = dict(
    distiller=dict(
        loss=dict(_delete_=True, type='MGDLoss', alpha_mgd=0.00475),
        connector=dict(type='MGDConnector', lambda_mgd=0.65)))
