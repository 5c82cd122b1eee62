"""Where things are: the package's configs and tools, configs of other packages, work folders.

Configs and tools stand where MMEngine and ``mim`` look for those of a package, in a clone by way of links.
"""

import os
from importlib.util import find_spec
from pathlib import Path

from cankd_mm.errors import SetupError

MIM = Path(__file__).parents[1] / '.mim'


def folder(name: str) -> Path:
    """Find ``'configs'`` or ``'tools'`` of the package, relative to the current folder where they are below it."""
    path = Path(os.path.realpath(MIM / name))
    here = Path(os.path.realpath(os.curdir))
    return path.relative_to(here) if here in path.parents else path


def config_file(path: str) -> str:
    """Find the file of a config: return what was given where there is none.

    Args:
        path (str): A path, or ``package::path`` for a config of a package. One that is not installed is a SetupError.
    """
    package, _, name = path.rpartition('::')
    if not package:
        return path
    if package == 'cankd_mm':
        files = [folder('configs') / name]
    elif find_spec(package) is None:  # MMEngine would go and install it
        raise SetupError(f'The config {path!r} is of the package {package!r}, which is not installed: install it.')
    else:
        from mmengine.utils import get_installed_path

        root = Path(get_installed_path(package))
        files = [root / '.mim' / 'configs' / name, root.parent / 'configs' / name]  # installed, and in a clone
    return next((str(file) for file in files if file.is_file()), path)


def default_work_dir(config: str, command: str = '') -> Path:
    """Name the work folder of a command that is given none; ``compare`` and ``tune`` have folders of their own."""
    return Path('work_dirs', command, Path(config).stem)
