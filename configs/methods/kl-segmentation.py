# Pixel-wise KL divergence of a segmentor's logits (Liu et al., CVPR 2019), weight 10 per pixel. The loss is a mean over
# the classes as well, hence times the 11 of the digit scenes.
model = dict(
    distiller=dict(
        source='decode_head.conv_seg',
        levels=None,
        loss=dict(_delete_=True, type='KLDivergence', tau=1, reduction='mean', loss_weight=110)))
