_base_ = 'mmdet::dino/dino-5scale_swin-l_8xb2-12e_coco.py'
pretrained = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_base_patch4_window12_384_22k.pth'
model = dict(
    backbone=dict(
        embed_dims=128, num_heads=[4, 8, 16, 32], drop_path_rate=0.3, init_cfg=dict(checkpoint=pretrained)),
    neck=dict(in_channels=[128, 256, 512, 1024]))
