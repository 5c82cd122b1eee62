# The teacher: twice as wide, and trained on 2000 scenes.
_base_ = './_base_/fpn_r18.py'
width = 32
max_epochs = 5
model = dict(
    backbone=dict(base_channels=width), neck=dict(in_channels=[width, 2 * width, 4 * width, 8 * width]))
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=30),
    dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, convert_to_iter_based=True, eta_min_ratio=0.01)
]
