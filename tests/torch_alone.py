"""Run a program where nothing is installed but torch and what it imports."""

import runpy
import sys
import sysconfig
from importlib.machinery import PathFinder

import torch._dynamo  # noqa: F401  # which optimizers import, too

THERE = {name.partition('.')[0] for name in sys.modules}
INSTALLED = sysconfig.get_paths()['purelib'], sysconfig.get_paths()['platlib']


class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        found = PathFinder.find_spec(name, path, target)
        hidden = found and str(found.origin).startswith(INSTALLED) and name.partition('.')[0] not in THERE
        return None if hidden else found


if __name__ == '__main__':
    sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, '__name__', '') in ('BuiltinImporter', 'FrozenImporter')]
    sys.meta_path.append(Finder)
    runpy.run_path(sys.argv[1])
    assert not {'mmengine', 'mmcv', 'mmrazor', 'packaging'} & set(sys.modules)
