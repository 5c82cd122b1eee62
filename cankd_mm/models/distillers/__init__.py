from cankd_mm.models.distillers.cankd_distiller import CanKDDistiller

__all__ = ['CanKDDistiller']
