"""The one place that knows what is broken in which version of the stack.

:func:`apply` is called before anything of MMRazor is imported. Every remedy looks at what is
installed first, and leaves a version that works as it is.
"""

import functools
import importlib
import importlib.util
import os
import sys
import types
from importlib import metadata
from pathlib import Path
from pickle import UnpicklingError
from typing import List, NoReturn, Optional, Union
from unittest.mock import patch

from packaging.version import parse

from cankd_mm.config.paths import config_file

NEWEST_MMCV_OF_MMRAZOR = '2.1.0'
_QUANTIZATION_TABLES = 'mmrazor.structures.quantization.backend_config'


class _NoBackendConfigs(dict):
    """MMRazor's empty table of quantization backends: any look-up explains why it is empty."""

    def __missing__(self, key: str) -> NoReturn:
        import torch

        raise NotImplementedError(
            f'MMRazor cannot quantize (backend {key!r}) on torch {torch.__version__}, whose quantization '
            'API has moved on since; use torch 2.0 for quantization. Distillation is not concerned.'
        )


def patch_mmcv_check() -> bool:
    """Let MMRazor import beside the mmcv of OpenMMLab's maintained fork.

    MMRazor 1.0 refuses every mmcv after 2.1.0 when it is imported, and works with 2.3 of ``onedl-mmcv``.

    Returns:
        bool: Whether anything had to be mended.
    """
    import mmcv

    if parse(mmcv.__version__) <= parse(NEWEST_MMCV_OF_MMRAZOR):
        return False
    with patch.object(mmcv, '__version__', NEWEST_MMCV_OF_MMRAZOR):
        importlib.import_module('mmrazor')
    return True


def patch_quantization_import() -> bool:
    """Let MMRazor import where torch no longer has the names its quantization tables need.

    MMRazor 1.0 builds these tables at import from torch names that are gone since torch 2.1.
    Distillation never looks at them.

    Returns:
        bool: Whether anything had to be mended.
    """
    try:
        importlib.import_module(_QUANTIZATION_TABLES)
    except ImportError as e:
        if 'torch' not in str(e):
            raise
    else:
        return False
    stand_in = types.ModuleType(_QUANTIZATION_TABLES)
    stand_in.__all__ = ['BackendConfigs']
    stand_in.BackendConfigs = _NoBackendConfigs()
    sys.modules[_QUANTIZATION_TABLES] = stand_in
    importlib.import_module('mmrazor.structures.quantization')
    return True


def _history_buffer_method(owner: object, name: str) -> object:
    """Stand in for ``getattr`` in a checkpoint: look up a statistic of HistoryBuffer, and nothing else."""
    from mmengine.logging.history_buffer import HistoryBuffer

    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise UnpicklingError(
            f'The checkpoint asks for the attribute {name!r} of {owner!r}, which no checkpoint needs.'
        )
    return getattr(owner, name)


def patch_checkpoint_loading() -> bool:
    """Let ``torch.load(weights_only=True)`` read MMEngine's own checkpoints.

    Since torch 2.6 only tensors and a few plain types are read by default. A checkpoint of MMEngine also holds its log
    history, a container of numbers that names four of its own methods. That class, the numpy types in it and the
    look-up of these four names are allowed. ``weights_only`` stays on, so that a downloaded checkpoint cannot run code,
    also where MMEngine would turn it off when it meets anything else, as that of the maintained fork does.

    Returns:
        bool: Whether anything had to be mended.
    """
    import torch

    if parse(torch.__version__) < parse('2.6'):
        return False
    import numpy as np
    from mmengine.logging.history_buffer import HistoryBuffer

    multiarray = importlib.import_module(f'numpy.{"_core" if parse(np.__version__).major >= 2 else "core"}.multiarray')
    scalar_types = [np.float64, np.float32, np.int64, np.int32, np.bool_]
    dtype_classes = {type(np.dtype(t)) for t in scalar_types}
    allowed = [HistoryBuffer, np.ndarray, np.dtype, *scalar_types, *dtype_classes]
    for function in (multiarray._reconstruct, multiarray.scalar):
        allowed.append(function)
        # The same function under the name that the other major version of numpy pickles.
        allowed += [
            (function, f'{module}.{function.__name__}')
            for module in ('numpy.core.multiarray', 'numpy._core.multiarray')
        ]
    # Pickle names a method as getattr(class, name). getattr itself would open every attribute of every object.
    allowed.append((_history_buffer_method, 'builtins.getattr'))
    torch.serialization.add_safe_globals(allowed)
    from mmengine.runner import checkpoint

    if hasattr(checkpoint, '_safe_torch_load'):
        checkpoint._safe_torch_load = _load_with_torchs_default
    return True


def _load_with_torchs_default(file, map_location=None, weights_only: Optional[bool] = None):
    import torch

    given = {} if weights_only is None else dict(weights_only=weights_only)
    return torch.load(file, map_location=map_location, **given)


def patch_point_assigner() -> bool:
    """Let RepPoints train on a GPU.

    Up to MMDetection 3.3, and 3.5 of the maintained fork, its ``PointAssigner`` makes an index on the default device
    and looks it up with a mask on the priors'. Under MMDetection's name, a subclass is registered that makes the
    priors' device the default meanwhile.

    Returns:
        bool: Whether anything had to be mended.
    """
    if importlib.util.find_spec('mmdet') is None:
        return False
    import mmdet
    from mmdet.models.task_modules.assigners import PointAssigner as Original
    from mmdet.registry import TASK_UTILS

    if parse(mmdet.__version__) > parse('3.5.1'):
        return False

    class PointAssigner(Original):
        def assign(self, pred_instances, *args, **kwargs):
            with pred_instances.priors.device:
                return super().assign(pred_instances, *args, **kwargs)

    TASK_UTILS.register_module(name='PointAssigner', module=PointAssigner, force=True)
    return True


def patch_checkpoint_writing() -> bool:
    """Let no killed process leave half a checkpoint behind.

    MMEngine writes a checkpoint to its final name, and the best one so far a second time after the validation, when it
    is already the one to resume from. Here every file gets its name when it is complete.

    Returns:
        bool: Whether anything had to be mended.
    """
    from mmengine.fileio import LocalBackend as Original
    from mmengine.fileio import register_backend

    class LocalBackend(Original):
        def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
            path = Path(filepath)
            part = path.with_name(f'.{path.name}.part')
            super().put(obj, part)
            os.replace(part, path)

    register_backend('local', LocalBackend, force=True, prefixes='')
    return True


def patch_worker_seeds() -> bool:
    """Let every epoch draw augmentations of its own.

    MMEngine seeds the worker processes of a data loader with the same numbers whenever they start, which they do at
    every epoch unless ``persistent_workers`` is set: all epochs then repeat the augmentations of the first. Here the
    seed also depends on what the main process has drawn for these workers, which torch gives them.

    Returns:
        bool: Whether anything had to be mended.
    """
    from mmengine.runner import _flexible_runner, runner

    for module in (runner, _flexible_runner):
        module.default_worker_init_fn = _worker_init_fn
    return True


def _worker_init_fn(worker_id: int, num_workers: int, rank: int, seed: int, **kwargs) -> None:
    import torch
    from mmengine.dataset import worker_init_fn

    # What torch has seeded this worker with, less its number: equal for all workers of an epoch, and on all ranks.
    drawn = torch.initial_seed() - worker_id
    worker_init_fn(worker_id, num_workers, rank, (seed + drawn) % 2**31, **kwargs)


def patch_class_weight() -> bool:
    """Let labels that are to be ignored weigh nothing in a cross-entropy with ``class_weight``.

    Up to MMSegmentation 1.2 it looks up the weight of every label, and 255 has none; 1.4 of the maintained fork fails
    where ``avg_non_ignore`` is set, too.

    Returns:
        bool: Whether anything had to be mended.
    """
    if importlib.util.find_spec('mmseg') is None:
        return False
    import mmseg
    import torch
    from mmseg.models.losses import cross_entropy_loss as module

    if parse(mmseg.__version__) > parse('1.4.2') or hasattr(module.cross_entropy, '__wrapped__'):
        return False
    original = module.cross_entropy

    @functools.wraps(original)
    def cross_entropy(
        pred,
        label,
        weight=None,
        class_weight=None,
        reduction='mean',
        avg_factor=None,
        ignore_index=-100,
        avg_non_ignore=False,
    ):
        if class_weight is not None and avg_factor is None and reduction == 'mean':
            counted = (label >= 0) & (label < len(class_weight))
            weights = class_weight[torch.where(counted, label, 0)]
            if avg_non_ignore:
                counted &= label != ignore_index
            avg_factor = (weights * counted).sum()
        return original(pred, label, weight, class_weight, reduction, avg_factor, ignore_index, avg_non_ignore)

    module.cross_entropy = cross_entropy
    return True


def check_setuptools() -> None:
    """Raise where setuptools no longer has the ``pkg_resources`` that MMEngine imports.

    Raises:
        ImportError: With the command that repairs it.
    """
    if importlib.util.find_spec('pkg_resources') is None:
        raise ImportError(
            'MMEngine needs pkg_resources, which setuptools has dropped in version 82: pip install "setuptools<81"'
        )


def patch_operators() -> bool:
    """Provide mmcv's operators where it has been installed without compiled ones, see :mod:`cankd_mm.stack.ops`.

    Returns:
        bool: Whether anything had to be mended.
    """
    from cankd_mm.stack.ops import provide

    return provide()


def _is_distributed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def patch_config_paths() -> bool:
    """Let a config name this package's configs as those of MMEngine's sister packages.

    ``_base_ = 'cankd_mm::_base_/cankd_fpn.py'`` is the file of that name in this package. What comes from a package
    named so is looked up in a scope of its name; this one registers its components where MMRazor has its own, and its
    configs name what MMDetection and MMSegmentation register. They are read as files, without a scope.

    Configs are found by their files: also in folders with a sign in their name, as MMDetection's ``gn+ws`` and
    ``legacy_1.x``, and without all metafiles of a package being read for each.

    A config that names its bases in ``_base_`` can be based on a pure Python one, whose classes come as their names.

    A sister package whose distribution has another name than in MMEngine's table, as that of the maintained fork's
    MMSegmentation, is found by its import name.

    Returns:
        bool: Whether anything had to be mended.
    """
    from mmengine.config import Config, ConfigDict
    from mmengine.config.utils import MODULE2PACKAGE

    if 'cankd_mm' in MODULE2PACKAGE:
        return False
    MODULE2PACKAGE['cankd_mm'] = 'cankd_mm'  # for mmengine.hub
    for module, distribution in list(MODULE2PACKAGE.items()):
        if module != distribution and importlib.util.find_spec(module) and not _is_distributed(distribution):
            MODULE2PACKAGE[module] = module
    original = Config._get_cfg_path

    def _get_cfg_path(cfg_path: str, filename: str):
        scope = cfg_path.rpartition('::')[0]
        if scope == 'cankd_mm':
            return config_file(cfg_path), None
        file = config_file(cfg_path) if scope and importlib.util.find_spec(scope) else cfg_path
        if file == cfg_path:  # none of a package, or one that only its index knows
            return original(cfg_path, filename)
        return file, scope

    Config._get_cfg_path = staticmethod(_get_cfg_path)
    original_file2dict = Config._file2dict

    def _file2dict(filename: str, *args, **kwargs):
        if kwargs.get('lazy_import') is None and Config._is_lazy_import(filename):
            return ConfigDict(Config.fromfile(filename).to_dict()), f'{filename}\n', {}
        return original_file2dict(filename, *args, **kwargs)

    Config._file2dict = staticmethod(_file2dict)
    return True


def apply() -> List[str]:
    """Apply every remedy that the installed versions need.

    Returns:
        list[str]: One line per remedy applied.

    Raises:
        ImportError: Where the stack does not import. The message names the doctor.
    """
    remedies = {
        "mmcv's operators are those of cankd_mm.stack.ops, as it has none compiled": patch_operators,
        'configs can be based on those of this package by cankd_mm::path': patch_config_paths,
        'MMRazor imports beside mmcv 2.3 of the maintained fork': patch_mmcv_check,
        'MMRazor imports without its quantization tables (torch >= 2.1)': patch_quantization_import,
        "torch.load(weights_only=True) reads MMEngine's checkpoints": patch_checkpoint_loading,
        'a killed process leaves no half-written checkpoint': patch_checkpoint_writing,
        'RepPoints trains on a GPU (mmdet <= 3.5)': patch_point_assigner,
        'epochs draw augmentations of their own without persistent workers': patch_worker_seeds,
        'labels to be ignored weigh nothing where classes have weights (mmseg <= 1.4)': patch_class_weight,
    }
    try:
        check_setuptools()
        return [line for line, remedy in remedies.items() if remedy()]
    except (ImportError, AssertionError) as e:
        raise ImportError(f'The OpenMMLab stack does not import here ({e}). `cankd doctor` says what to repair.') from e
