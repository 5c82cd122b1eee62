from cankd_mm.models.algorithms import BackboneTeacher, FeatureDistill
from cankd_mm.models.distillers import CanKDDistiller
from cankd_mm.models.layers import CanBlock
from cankd_mm.models.losses import CanKDLoss

__all__ = ['BackboneTeacher', 'CanBlock', 'CanKDDistiller', 'CanKDLoss', 'FeatureDistill']
