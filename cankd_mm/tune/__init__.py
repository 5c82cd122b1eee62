from cankd_mm.tune.run import tune

__all__ = ['tune']
