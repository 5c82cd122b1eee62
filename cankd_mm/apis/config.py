"""Read a config for a tool, check the paths in it, and take the student or the teacher out of it."""

import copy
import os.path as osp
from typing import Iterator, Optional, Tuple

from mmengine.config import Config

from cankd_mm.errors import SetupError, reason_of
from cankd_mm.models.builders import load_model_cfg


def load_config(
    path: str, cfg_options: Optional[dict] = None, work_dir: Optional[str] = None, launcher: str = 'none'
) -> Config:
    """Read a config the way the tools of MMDetection and MMSegmentation do.

    Args:
        path (str): The config file.
        cfg_options (dict, optional): Entries that override the config's. Defaults to None.
        work_dir (str, optional): Folder of logs and checkpoints. Defaults to None: what the config says, or else
            ``./work_dirs/<name of the config>``.
        launcher (str): ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``. Defaults to 'none'.

    Returns:
        Config: The config.

    Raises:
        SetupError: If the file is not there, cannot be read, or has no model.
    """
    if not osp.isfile(path):
        raise SetupError(f'The config {path!r} does not exist: correct the path.')
    try:
        cfg = Config.fromfile(path)
        if cfg_options:
            cfg.merge_from_dict(copy.deepcopy(cfg_options))  # MMEngine empties what it merges
    except (SyntaxError, NameError, AttributeError, KeyError, TypeError, RuntimeError) as e:
        kind = type(e).__name__
        raise SetupError(f'The config {path!r} cannot be read ({kind}: {reason_of(e)}): correct that.') from e
    if 'model' not in cfg:
        raise SetupError(f'The config {path!r} has no model: give a whole config, not a part that others are based on.')
    cfg.launcher = launcher
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('./work_dirs', osp.splitext(osp.basename(path))[0])
    return cfg


def is_distillation(cfg: Config) -> bool:
    """Tell a distillation config from a plain model's.

    Args:
        cfg (Config): The config.

    Returns:
        bool: Whether its model has a teacher and a student.
    """
    return 'architecture' in cfg.model and 'teacher' in cfg.model


def student_config(cfg: Config) -> Config:
    """Take the student out of a distillation config.

    Args:
        cfg (Config): A distillation config; a plain one is copied as it is.

    Returns:
        Config: A config that MMDetection or MMSegmentation runs without this package.
    """
    cfg = copy.deepcopy(cfg)
    if not is_distillation(cfg):
        return cfg
    plain = {key: value for key, value in cfg.items() if key not in ('distiller', 'custom_imports')}
    plain['model'] = cfg.model.architecture
    custom_imports = cfg.get('custom_imports')
    if custom_imports:
        others = [name for name in custom_imports.imports if name.split('.')[0] != 'cankd_mm']
        if others:
            plain['custom_imports'] = dict(custom_imports, imports=others)
    return Config(_without_scope(plain, cfg.get('default_scope')))


def teacher_config(cfg: Config) -> Config:
    """Take the teacher out of a distillation config, with the student's data and evaluation.

    Args:
        cfg (Config): A distillation config.

    Returns:
        Config: A plain config of the teacher.

    Raises:
        SetupError: If the config has no teacher.
    """
    if not is_distillation(cfg):
        raise SetupError('There is no teacher in this config: give a distillation config, or leave --teacher out.')
    teacher = cfg.model.teacher
    if isinstance(teacher, str) or 'cfg_path' in teacher:
        teacher = load_model_cfg(teacher if isinstance(teacher, str) else teacher.cfg_path)
    plain = student_config(cfg)
    plain.model = teacher
    return plain


def check_data(cfg: Config, *splits: str) -> None:
    """Check that the folders and annotation files of data sets exist.

    Args:
        cfg (Config): The config.
        *splits (str): Which to check, of ``'train'``, ``'val'`` and ``'test'``.

    Raises:
        SetupError: If one does not exist.
    """
    for split, path in missing_data(cfg, *splits):
        raise SetupError(
            f'The {split} data set needs {path!r}, which does not exist: put the data there, or set '
            f'{split}_dataloader.dataset.data_root to where it is.'
        )


def missing_data(cfg: Config, *splits: str) -> Iterator[Tuple[str, str]]:
    """List the folders and annotation files of data sets that do not exist.

    Args:
        cfg (Config): The config.
        *splits (str): Which to look for, of ``'train'``, ``'val'`` and ``'test'``.

    Yields:
        tuple[str, str]: A split and a path, a folder before what it holds.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        for path in _dataset_paths(loader.get('dataset', {})):
            # Paths with a scheme are fetched by a file backend.
            if '://' not in path and not osp.exists(path):
                yield split, path


def _dataset_paths(dataset: dict):
    """Yield the paths of a data set, and of those it wraps."""
    if isinstance(dataset.get('dataset'), dict):
        yield from _dataset_paths(dataset['dataset'])
    for part in dataset.get('datasets') or []:
        yield from _dataset_paths(part)
    if dataset.get('backend_args'):  # the files are in a store that only their backend can look into
        return
    root = dataset.get('data_root') or ''
    prefixes = (dataset.get('data_prefix') or {}).values()
    for path in (root, dataset.get('ann_file'), *prefixes):
        if path:
            yield path if path == root else osp.join(root, path)


def _without_scope(value, scope: Optional[str]):
    """Drop every ``_scope_`` that says what the config's default scope says already."""
    if isinstance(value, dict):
        return {k: _without_scope(v, scope) for k, v in value.items() if (k, v) != ('_scope_', scope)}
    if isinstance(value, (list, tuple)):
        return type(value)(_without_scope(v, scope) for v in value)
    return value
