from cankd_mm.models.algorithms.backbone_teacher import BackboneTeacher
from cankd_mm.models.algorithms.feature_distill import FeatureDistill
from cankd_mm.models.distillers.cankd_distiller import CanKDDistiller
from cankd_mm.models.layers import CanBlock
from cankd_mm.models.losses import CanKDLoss

__all__ = ['BackboneTeacher', 'CanBlock', 'CanKDDistiller', 'CanKDLoss', 'FeatureDistill']
