# CanKD on the last stage of a ResNet, as in the paper's segmentation experiments.
custom_imports = dict(imports=['cankd_mm'], allow_failed_imports=False)
distiller = dict(type='CanKDDistiller', source='backbone.layer4', loss=dict(type='CanKDLoss', loss_weight=5.0))
