# CWD (Shu et al., ICCV 2021): divergence of the softmax over the pixels of every channel. Weight of MMRazor's RetinaNet
# config.
model = dict(distiller=dict(loss=dict(_delete_=True, type='ChannelWiseDivergence', tau=1, loss_weight=10)))
