from cankd_mm.models.algorithms.backbone_teacher import BackboneTeacher
from cankd_mm.models.algorithms.feature_distill import FeatureDistill

__all__ = ['BackboneTeacher', 'FeatureDistill']
