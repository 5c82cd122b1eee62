from cankd_mm.apis.export import export_student
from cankd_mm.apis.test import test
from cankd_mm.apis.train import check, train

__all__ = ['check', 'export_student', 'test', 'train']
