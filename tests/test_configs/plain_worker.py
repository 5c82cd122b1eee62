"""Evaluates exported students with the plain libraries' own tools, one for each line of its input.

Neither this package nor MMRazor can be imported here; `python -m cankd_mm.plain` starts it, for the operators alone.
A line is PACKAGE CONFIG CHECKPOINT WORK_DIR.
"""

import contextlib
import os
import runpy
import sys
import traceback
import warnings

warnings.filterwarnings('ignore')


class Block:
    """Finds no module of what an exported student has to do without."""

    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('cankd_mm', 'mmrazor'):
            raise ImportError(name)


sys.meta_path.insert(0, Block())
for module in [name for name in sys.modules if name.split('.')[0] == 'cankd_mm']:
    del sys.modules[module]

from mmengine.runner import Runner  # noqa: E402
from mmengine.utils import get_installed_path  # noqa: E402
from mmengine.visualization import Visualizer  # noqa: E402

load = Runner.load_checkpoint


def load_strictly(self, filename, map_location='cpu', strict=True, **kwargs):
    return load(self, filename, map_location, strict=True, **kwargs)


Runner.load_checkpoint = load_strictly
for line in sys.stdin:
    package, *arguments, work_dir = line.split()
    tool = os.path.join(get_installed_path(package), '.mim', 'tools', 'test.py')
    sys.argv = [tool, *arguments, '--work-dir', work_dir]
    answer = 'ok'
    for visualizer in Visualizer.__subclasses__():
        visualizer._instance_dict.clear()  # of one name, they would be one, and write where the first does
    with contextlib.redirect_stdout(sys.stderr):
        try:
            runpy.run_path(tool, run_name='__main__')
        except BaseException:
            answer = repr(traceback.format_exc())
    print(answer, flush=True)  # noqa: T201
