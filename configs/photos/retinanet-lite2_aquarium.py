# The teacher: EfficientNet-Lite2, and 16 epochs.
_base_ = './retinanet-lite0_aquarium.py'
max_epochs = 16
model = dict(backbone=dict(arch='lite2'), neck=dict(in_channels=[48, 120, 352]))
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], T_max=max_epochs)]
