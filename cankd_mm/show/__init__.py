from cankd_mm.show.show import show

__all__ = ['show']
