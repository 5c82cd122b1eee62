# CanKD on the last stage of a backbone, as in the paper's segmentation experiments.
# Registers this package. Not as custom_imports, which the student's config may have: two bases share no key.
__import__('cankd_mm')
runner_type = 'DistillRunner'
distiller = dict(type='CanKDDistiller', source='backbone', levels=[-1], loss=dict(type='CanKDLoss', loss_weight=5.0))
