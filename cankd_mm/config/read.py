"""Read configs: of a pair, of a model, of a part; whatever form they have, types come as names."""

import ast
import copy
import os
import os.path as osp
from pathlib import Path
from typing import Optional

from mmengine.config import Config
from mmengine.fileio import load

from cankd_mm.config.paths import config_file, default_work_dir
from cankd_mm.config.types import library_of
from cankd_mm.errors import SetupError, reason_of


def load_config(
    path: str, cfg_options: Optional[dict] = None, work_dir: Optional[str] = None, launcher: str = 'none'
) -> Config:
    """Read a config the way the tools of MMDetection and MMSegmentation do.

    Args:
        path (str): The config file, or ``package::path``. It is a SetupError if it cannot be read or has no model.
        cfg_options (dict, optional): Entries that override the config's. Defaults to None.
        work_dir (str, optional): Folder of logs and checkpoints. Defaults to None: what the config says, or else
            ``./work_dirs/<name of the config>``.
        launcher (str): ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``. Defaults to 'none'.
    """
    cfg = read_config(path, cfg_options)
    if 'model' not in cfg:
        raise SetupError(f'The config {path!r} has no model: give a whole config, not a part that others are based on.')
    if 'data' in cfg and 'train_dataloader' not in cfg and ('runner' in cfg or 'optimizer' in cfg):
        raise SetupError(
            f'The config {path!r} is of version 2 of MMDetection or 0 of MMSegmentation (data, optimizer, runner): '
            "bring it to today's form, as their migration guides say."
        )
    cfg.launcher = launcher
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(default_work_dir(path))
    return cfg


def read_config(path: str, cfg_options: Optional[dict] = None) -> Config:
    """Read a config, whole or a part that others are based on.

    Types that are classes, in pure Python configs, become the names of these, which every registry finds; a
    ``default_scope`` of None becomes the model's library. Sizes that JSON and YAML have as lists become tuples.

    Args:
        path (str): The config file, ``.py``, ``.json`` or ``.yml``, or ``package::path``. It is a SetupError if it is
            not there or cannot be read.
        cfg_options (dict, optional): Entries that override the config's. Defaults to None.
    """
    file = config_file(path)
    if not osp.isfile(file):
        here = (
            '' if '::' in path or osp.isabs(path) else f' in {os.getcwd()!r}, the folder that relative paths start from'
        )
        raise SetupError(
            f'The config {path!r} does not exist{here}: correct the path, or give package::path as in '
            "'mmdet::retinanet/retinanet_r101_fpn_2x_coco.py'."
        )
    try:
        cfg = _by_names(Config.fromfile(file))
        if cfg_options:
            cfg.merge_from_dict(copy.deepcopy(cfg_options))  # MMEngine empties what it merges
        _restore_tuples(cfg._cfg_dict)
    except SetupError:
        raise
    except UnicodeDecodeError as e:
        raise SetupError(f'The config {path!r} or one of its bases is not in UTF-8: save it as UTF-8.') from e
    except ImportError as e:
        raise SetupError(
            f'The config {path!r} imports what is not found ({_import_reason(e)}): install the package that its '
            'custom_imports name, put its folder into PYTHONPATH, or start in that folder.'
        ) from e
    except Exception as e:  # a config is a program, which may raise anything
        kind = type(e).__name__
        raise SetupError(f'The config {path!r} cannot be read ({kind}: {reason_of(e)}): correct that.') from e
    return cfg


def read_dumped(path: Path) -> Config:
    """Read a config as MMEngine keeps that of a run: whole, and in literals, so that none is run as a program.

    It is a SetupError if it is no such config.
    """
    if path.suffix != '.py':
        return Config(load(str(path)))
    try:
        return parse_dumped(path.read_text(encoding='utf-8'))
    except ValueError as e:
        problem = f'is not as MMEngine keeps that of a run ({reason_of(e)})'
        raise SetupError(f'The config {str(path)!r} {problem}: put there what was trained.') from e


def parse_dumped(text: str) -> Config:
    """Read the text of a config that holds nothing but literals; a ValueError says that it holds more."""
    try:
        tree = _Literals().visit(ast.parse(text))
        return Config({entry.targets[0].id: ast.literal_eval(entry.value) for entry in tree.body})
    except (AttributeError, SyntaxError) as e:
        raise ValueError(reason_of(e)) from e


class _Literals(ast.NodeTransformer):
    """Writes ``dict(key=value)``, and ``dict({'key': value})``, as ``{'key': value}``, and ``inf`` as a number."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(float(node.id)) if node.id == 'inf' else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if getattr(node.func, 'id', None) != 'dict':
            return node
        if node.args:
            return node.args[0]
        return ast.Dict([ast.Constant(entry.arg) for entry in node.keywords], [entry.value for entry in node.keywords])


def load_model_cfg(path: str) -> dict:
    """Read the ``model`` of a config, a file or ``package::path``, with ``_scope_`` set to its ``default_scope``."""
    cfg = read_config(path)
    if 'model' not in cfg:
        raise SetupError(f'The config {path!r} has no model: give the config that the model was trained with.')
    model = cfg.model
    if 'data_preprocessor' in cfg and 'data_preprocessor' not in model:
        model.data_preprocessor = cfg.data_preprocessor
    if cfg.get('default_scope'):
        model.setdefault('_scope_', cfg.default_scope)
    return model


def _by_names(cfg: Config) -> Config:
    """A pure Python config with the names of its classes."""
    if getattr(cfg, '_imported_names', None) is not None:
        cfg = Config(cfg.to_dict(), filename=cfg.filename)
    if 'default_scope' in cfg and cfg.default_scope is None:
        model = cfg.get('model') or {}
        model = model.get('architecture', model)
        cfg.default_scope = library_of(model.get('type')) if isinstance(model, dict) else None
        if cfg.default_scope is None:
            cfg.pop('default_scope')
    return cfg


def _restore_tuples(cfg: object, inside: bool = False) -> None:
    """Make tuples of the sizes in data sets' pipelines, in place."""
    for part in cfg if isinstance(cfg, (list, tuple)) else ():
        _restore_tuples(part, inside)
    for key, value in list(cfg.items()) if isinstance(cfg, dict) else ():
        if isinstance(value, list) and inside:
            if key.endswith(('scale', 'size')) and len(value) == 2 and all(isinstance(v, (int, float)) for v in value):
                cfg[key] = tuple(value)
            elif key.endswith(('scale', 'scales')) and all(isinstance(v, list) for v in value):
                cfg[key] = list(map(tuple, value))
        _restore_tuples(value, inside or key.endswith('dataloader'))


def _import_reason(error: ImportError) -> str:
    while isinstance(error.__cause__ or error.__context__, ImportError):
        error = error.__cause__ or error.__context__
    return reason_of(error)
