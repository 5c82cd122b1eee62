from cankd_mm.models.algorithms.feature_distill import FeatureDistill

__all__ = ['FeatureDistill']
