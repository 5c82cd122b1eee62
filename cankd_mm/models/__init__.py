from cankd_mm.models.layers import CanBlock
from cankd_mm.models.losses import CanKDLoss
from cankd_mm.stack import WITH_OPENMMLAB

__all__ = ['CanBlock', 'CanKDLoss']

if WITH_OPENMMLAB:
    from mmrazor.registry import MODELS

    from cankd_mm.models.algorithms.backbone_teacher import BackboneTeacher
    from cankd_mm.models.algorithms.feature_distill import FeatureDistill
    from cankd_mm.models.distillers.cankd_distiller import CanKDDistiller

    __all__ += ['BackboneTeacher', 'CanKDDistiller', 'FeatureDistill']
    MODELS.register_module(module=CanKDLoss)
