from cankd_mm.reproduce.results import gather
from cankd_mm.reproduce.rows import find_row, load_rows
from cankd_mm.reproduce.run import reproduce

__all__ = ['find_row', 'gather', 'load_rows', 'reproduce']
