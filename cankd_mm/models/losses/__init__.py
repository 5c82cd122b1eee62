from cankd_mm.models.losses.cankd_loss import CanKDLoss
from cankd_mm.models.losses.normalized_mse import normalized_mse

__all__ = ['CanKDLoss', 'normalized_mse']
