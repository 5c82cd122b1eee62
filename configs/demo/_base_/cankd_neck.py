# CanKD on every level of the neck.
custom_imports = dict(imports=['cankd_mm'], allow_failed_imports=False)
distiller = dict(type='CanKDDistiller', source='neck', loss=dict(type='CanKDLoss', loss_weight=5.0))
