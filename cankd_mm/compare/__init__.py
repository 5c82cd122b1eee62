from cankd_mm.compare.report import results_picture, results_table
from cankd_mm.compare.run import compare

__all__ = ['compare', 'results_picture', 'results_table']
