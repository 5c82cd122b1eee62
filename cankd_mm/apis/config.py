"""Read a config for a tool, check the paths in it, and take the student or the teacher out of it."""

import copy
import os.path as osp
from typing import Iterator, Optional, Tuple

from mmengine.config import Config
from mmengine.registry import HOOKS, LOOPS, Registry

from cankd_mm.errors import SetupError, reason_of
from cankd_mm.models.algorithms.backbone_teacher import NO_PREDICTIONS
from cankd_mm.models.builders import from_timm, load_model_cfg
from cankd_mm.package import config_file


def load_config(
    path: str, cfg_options: Optional[dict] = None, work_dir: Optional[str] = None, launcher: str = 'none'
) -> Config:
    """Read a config the way the tools of MMDetection and MMSegmentation do.

    Args:
        path (str): The config file, or ``package::path``.
        cfg_options (dict, optional): Entries that override the config's. Defaults to None.
        work_dir (str, optional): Folder of logs and checkpoints. Defaults to None: what the config says, or else
            ``./work_dirs/<name of the config>``.
        launcher (str): ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``. Defaults to 'none'.

    Returns:
        Config: The config.

    Raises:
        SetupError: If the file is not there, cannot be read, or has no model.
    """
    cfg = read_config(path, cfg_options)
    if 'model' not in cfg:
        raise SetupError(f'The config {path!r} has no model: give a whole config, not a part that others are based on.')
    cfg.launcher = launcher
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('./work_dirs', osp.splitext(osp.basename(path))[0])
    return cfg


def read_config(path: str, cfg_options: Optional[dict] = None) -> Config:
    """Read a config, whole or a part that others are based on.

    Args:
        path (str): The config file, or ``package::path``.
        cfg_options (dict, optional): Entries that override the config's. Defaults to None.

    Returns:
        Config: The config.

    Raises:
        SetupError: If the file is not there or cannot be read.
    """
    file = config_file(path)
    if not osp.isfile(file):
        raise SetupError(f'The config {path!r} does not exist: correct the path.')
    try:
        cfg = Config.fromfile(file)
        if cfg_options:
            cfg.merge_from_dict(copy.deepcopy(cfg_options))  # MMEngine empties what it merges
    except (SyntaxError, NameError, AttributeError, KeyError, TypeError, RuntimeError) as e:
        kind = type(e).__name__
        raise SetupError(f'The config {path!r} cannot be read ({kind}: {reason_of(e)}): correct that.') from e
    return cfg


def is_distillation(cfg: Config) -> bool:
    """Tell a distillation config from a plain model's.

    Args:
        cfg (Config): The config.

    Returns:
        bool: Whether its model has a teacher and a student.
    """
    return 'architecture' in cfg.model and 'teacher' in cfg.model


def is_feature_distill(cfg: Config) -> bool:
    """Tell whether a config's algorithm is :class:`FeatureDistill`, and not one of MMRazor's.

    Args:
        cfg (Config): The config.

    Returns:
        bool: Whether it is.
    """
    return str(cfg.model.get('type')).split('.')[-1] == 'FeatureDistill'


def student_config(cfg: Config, exported: bool = True) -> Config:
    """Take the student out of a distillation config.

    Args:
        cfg (Config): A distillation config; a plain one is copied.
        exported (bool): Whether nothing is left of what this package registers, so that MMDetection or MMSegmentation
            runs the config without it. Defaults to True; otherwise only the model is exchanged.

    Returns:
        Config: The student's config.
    """
    plain = cfg.to_dict()
    if is_distillation(cfg):
        student = cfg.model.architecture
        if isinstance(student, str) or 'cfg_path' in student:
            student = load_model_cfg(student if isinstance(student, str) else student.cfg_path)
        plain['model'] = copy.deepcopy(dict(student))
        # A config's own is given by MMEngine to any model that has none. The student's goes first here, and last in
        # MMRazor's algorithms.
        given = cfg.model.get('data_preprocessor')
        if given is not None:
            plain['model'].setdefault('data_preprocessor', given)
        if not is_feature_distill(cfg) and (given or cfg.get('data_preprocessor')):
            plain['model']['data_preprocessor'] = given or cfg.data_preprocessor
        plain.pop('distiller', None)
    if exported:
        _leave_out_ours(plain)
    return Config(_without_scope(plain, cfg.get('default_scope')))


# All that is here of which a student can be made.
_BACKBONES = 'cankd_mm.backbones'
# What DistillRunner calls the hooks that it adds: a config may switch them off.
_OUR_HOOKS = ('finite_loss', 'best_student')


def _leave_out_ours(plain: dict) -> None:
    """Leave out of a config what this package or MMRazor registers, and its import."""
    if plain.get('runner_type') == 'DistillRunner':
        del plain['runner_type']
    if plain.get('val_cfg') and _is_ours(plain['val_cfg'], LOOPS):
        plain['val_cfg'] = {key: value for key, value in plain['val_cfg'].items() if key not in ('type', 'teacher')}
    for key in ('custom_hooks', 'default_hooks'):
        hooks = plain.get(key)
        if isinstance(hooks, dict):
            plain[key] = {k: hook for k, hook in hooks.items() if not _is_ours(hook, HOOKS) and k not in _OUR_HOOKS}
        elif hooks:
            plain[key] = [hook for hook in hooks if not _is_ours(hook, HOOKS)]
    custom_imports = plain.pop('custom_imports', None)
    if custom_imports:
        imports = custom_imports['imports']
        names = [imports] if isinstance(imports, str) else imports
        others = [name for name in names if not _is_package(name) or name.startswith(_BACKBONES)]
        if others:
            plain['custom_imports'] = dict(custom_imports, imports=others)


def _is_package(module: str) -> bool:
    return module.split('.')[0] in ('cankd_mm', 'mmrazor')


def _is_ours(cfg: Optional[dict], registry: Registry) -> bool:
    """Whether what a config names is registered by this package or by MMRazor."""
    kind = (cfg or {}).get('type')
    if isinstance(kind, str):
        kind = kind if _is_package(kind) else registry.get(kind)
    return kind is not None and _is_package(kind if isinstance(kind, str) else kind.__module__)


def teacher_config(cfg: Config) -> Config:
    """Take the teacher out of a distillation config, with the student's data and evaluation.

    Args:
        cfg (Config): A distillation config.

    Returns:
        Config: A plain config of the teacher.

    Raises:
        SetupError: If the config has no teacher, or one that predicts nothing.
    """
    if not is_distillation(cfg):
        raise SetupError('There is no teacher in this config: give a distillation config, or leave --teacher out.')
    teacher = cfg.model.teacher
    if from_timm(teacher) or not isinstance(teacher, str) and str(teacher.get('type')).endswith('BackboneTeacher'):
        raise SetupError(f'The teacher {NO_PREDICTIONS}: leave --teacher out.')
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
