# CanKD on every level of the neck.
# Registers this package. Not as custom_imports, which the student's config may have: two bases share no key.
__import__('cankd_mm')
runner_type = 'DistillRunner'
distiller = dict(type='CanKDDistiller', source='neck', loss=dict(type='CanKDLoss', loss_weight=5.0))
