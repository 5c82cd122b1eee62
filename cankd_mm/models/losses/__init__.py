from cankd_mm.models.losses.cankd_loss import CanKDLoss
from cankd_mm.models.losses.normalized_mse import instance_norm_mse

__all__ = ['CanKDLoss', 'instance_norm_mse']
