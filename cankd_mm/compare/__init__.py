from cankd_mm.compare.run import compare

__all__ = ['compare']
