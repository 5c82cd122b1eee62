# A learning rate of its own for the Can blocks, ten times that of everything else.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'.can.': dict(lr_mult=10)}))
