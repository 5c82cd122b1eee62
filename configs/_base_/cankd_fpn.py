# CanKD on the first four levels of a feature pyramid, as in the paper's detection experiments.
custom_imports = dict(imports=['cankd_mm'], allow_failed_imports=False)
distiller = dict(type='CanKDDistiller', source='neck', levels=4, loss=dict(type='CanKDLoss', loss_weight=5.0))
