from cankd_mm.apis.export import export_student
from cankd_mm.apis.test import test
from cankd_mm.apis.train import train

__all__ = ['export_student', 'test', 'train']
