"""What is broken in which version of the stack. A patch leaves a version that works alone, and is applied once."""

import functools
import importlib
import importlib.util
import os
import sys
import types
from contextlib import contextmanager, nullcontext, suppress
from importlib import metadata
from pathlib import Path
from pickle import UnpicklingError
from typing import Iterator, List, NoReturn, Optional, Union
from unittest.mock import patch
from uuid import uuid4

from packaging.version import parse

from cankd_mm.config.paths import config_file


def apply() -> List[str]:
    """Apply every patch that the installed versions need, before anything of MMRazor is imported, and list them.

    Raises:
        ImportError: Where the stack does not import. The message names the doctor, or what repairs it.
    """
    try:
        if importlib.util.find_spec('pkg_resources') is None:
            raise ImportError('MMEngine needs pkg_resources, which setuptools 82 dropped: pip install "setuptools<81"')
        return [line for patch_library, line in _PATCHES.items() if patch_library()]
    except (ImportError, AssertionError, RuntimeError) as e:
        reason = str(e)
        if 'torchvision' in reason:  # MMSegmentation imports timm, which imports torchvision, here of another torch
            command = importlib.import_module('cankd_mm.stack.ops.torchvision').install_command()
            reason = f'{reason}, install the torchvision of this torch: {command}'
        elif isinstance(e, RuntimeError):
            raise
        problem = f'The OpenMMLab stack does not import here ({reason})'
        raise ImportError(f'{problem}. `cankd doctor` says what to repair.') from e


def _provide_operators() -> bool:
    """mmcv-lite has no compiled operators: see :mod:`cankd_mm.stack.ops`."""
    return importlib.import_module('cankd_mm.stack.ops').provide()


def _patch_config_paths() -> bool:
    """MMEngine knows no configs of this package, nor those of the maintained fork's MMSegmentation or in folders with a
    sign in their name (``gn+ws``), and bases no config with ``_base_`` on a pure Python one. Here a config is found by
    its file, and those of this package are read without a scope of its name.
    """
    from mmengine.config import Config, ConfigDict
    from mmengine.config.utils import MODULE2PACKAGE

    if 'cankd_mm' in MODULE2PACKAGE:
        return True
    MODULE2PACKAGE['cankd_mm'] = 'cankd_mm'  # for mmengine.hub
    for module, distribution in list(MODULE2PACKAGE.items()):
        try:
            metadata.distribution(distribution)
        except metadata.PackageNotFoundError:
            if importlib.util.find_spec(module):
                MODULE2PACKAGE[module] = module
    get_cfg_path, file2dict = Config._get_cfg_path, Config._file2dict

    def _get_cfg_path(cfg_path: str, filename: str):
        scope = cfg_path.rpartition('::')[0]
        if scope == 'cankd_mm':
            return config_file(cfg_path), None
        file = config_file(cfg_path) if scope and importlib.util.find_spec(scope) else cfg_path
        # Without such a file it is a path, or a name that only the package's index knows.
        return get_cfg_path(cfg_path, filename) if file == cfg_path else (file, scope)

    def _file2dict(filename: str, *args, **kwargs):
        if kwargs.get('lazy_import') is None and Config._is_lazy_import(filename):
            return ConfigDict(Config.fromfile(filename).to_dict()), f'{filename}\n', {}
        return file2dict(filename, *args, **kwargs)

    Config._get_cfg_path, Config._file2dict = staticmethod(_get_cfg_path), staticmethod(_file2dict)
    return True


def _patch_mmcv_check() -> bool:
    """MMRazor 1.0 refuses every mmcv after 2.1.0 when it is imported, and works with 2.3 of ``onedl-mmcv``."""
    import mmcv

    if parse(mmcv.__version__) > parse('2.1.0'):
        with patch.object(mmcv, '__version__', '2.1.0'):
            importlib.import_module('mmrazor')
    return parse(mmcv.__version__) > parse('2.1.0')


class _NoBackendConfigs(dict):
    """An empty table of quantization backends: a look-up explains why it is empty."""

    def __missing__(self, key: str) -> NoReturn:
        problem = f'MMRazor quantizes (backend {key!r}) with torch 2.0 alone, and this is {metadata.version("torch")}'
        raise NotImplementedError(f'{problem}. Distillation is not concerned.')


def _patch_quantization_import() -> bool:
    """MMRazor 1.0 builds its quantization tables at import, from names that are gone since torch 2.1. Distillation
    never looks at them: empty ones take their place.
    """
    name = 'mmrazor.structures.quantization.backend_config'
    try:
        return isinstance(importlib.import_module(name).BackendConfigs, _NoBackendConfigs)
    except ImportError as e:
        if 'torch' not in str(e) or 'torchvision' in str(e):
            raise
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].BackendConfigs = _NoBackendConfigs()
    importlib.import_module('mmrazor.structures.quantization')
    return True


def _patch_checkpoint_loading() -> bool:
    """torch 2.6 reads only tensors and a few plain types by default, and MMEngine's checkpoints also hold a log history
    with numbers of numpy: these are allowed. ``weights_only`` stays on, also where the maintained fork's MMEngine turns
    it off, so that a downloaded checkpoint cannot run code.
    """
    import torch

    if parse(torch.__version__) < parse('2.6'):
        return False
    import numpy as np
    from mmengine.logging.history_buffer import HistoryBuffer
    from mmengine.runner import checkpoint

    scalars = [np.float64, np.float32, np.int64, np.int32, np.bool_]
    allowed = [HistoryBuffer, np.ndarray, np.dtype, *scalars, *{type(np.dtype(scalar)) for scalar in scalars}]
    # The two major versions of numpy pickle the same functions under different names.
    for function in (np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]):
        allowed += [(function, f'numpy.{core}.multiarray.{function.__name__}') for core in ('core', '_core')]
    # Pickle names a method as getattr(class, name), and getattr itself would open every attribute of every object.
    allowed.append((_get_history_buffer_method, 'builtins.getattr'))
    torch.serialization.add_safe_globals(allowed)
    if hasattr(checkpoint, '_safe_torch_load'):
        checkpoint._safe_torch_load = torch.load
    return True


def _get_history_buffer_method(owner: object, name: str) -> object:
    """Stand in for ``getattr`` in a checkpoint, for the statistics of HistoryBuffer alone."""
    from mmengine.logging.history_buffer import HistoryBuffer

    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise UnpicklingError(f'The checkpoint asks for {owner!r}.{name}, which no checkpoint needs.')
    return getattr(owner, name)


def _patch_checkpoint_writing() -> bool:
    """MMEngine writes a file under its final name, and a killed process leaves half of it behind. Here every file that
    goes through its backend, as checkpoints and ``mmengine.fileio.dump`` do, gets its name when it is complete.
    """
    from mmengine.fileio import LocalBackend as Original
    from mmengine.fileio import register_backend

    class LocalBackend(Original):
        def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
            with _whole(filepath) as part:
                super().put(obj, part)

        def put_text(self, obj: str, filepath: Union[str, Path], encoding: str = 'utf-8') -> None:
            with _whole(filepath) as part:
                super().put_text(obj, part, encoding)

    register_backend('local', LocalBackend, force=True, prefixes='')
    return True


@contextmanager
def _whole(filepath: Union[str, Path]) -> Iterator[Path]:
    """Give a name beside a file to write under, which becomes the file's after that, or is removed after an error."""
    target = Path(os.path.realpath(filepath))  # a link stays one
    special = target.exists() and not target.is_file()  # such as /dev/null
    part = target if special else target.with_name(f'.{target.name}.{uuid4().hex}.part')
    try:
        yield part
        if not special:
            os.replace(part, target)
    except BaseException as e:
        if not special:
            with suppress(OSError):
                part.unlink()
        if isinstance(e, OSError):
            e.filename, e.filename2 = str(filepath), None  # a full disk names no file
        raise


def _patch_best_of_another_run() -> bool:
    """MMEngine's ``CheckpointHook`` removes the best checkpoint for a better one, also where a run was resumed from
    another folder, whose best checkpoint it is. Here a run removes none outside of its own folder.
    """
    from mmengine.hooks import CheckpointHook

    original = CheckpointHook.before_train
    if hasattr(original, '__wrapped__'):
        return True

    @functools.wraps(original)
    def before_train(self, runner) -> None:
        original(self, runner)

        def own(path: Optional[str]) -> Optional[str]:
            inside = path and os.path.realpath(os.path.dirname(path)) == os.path.realpath(self.out_dir)
            return path if inside else None

        if hasattr(self, 'best_ckpt_path'):
            self.best_ckpt_path = own(self.best_ckpt_path)
        elif hasattr(self, 'best_ckpt_path_dict'):
            self.best_ckpt_path_dict = {key: own(path) for key, path in self.best_ckpt_path_dict.items()}

    CheckpointHook.before_train = before_train
    return True


def _patch_point_assigner() -> bool:
    """MMDetection's ``PointAssigner`` of RepPoints, up to 3.3 and the fork's 3.5, indexes a tensor of the default
    device with a mask on the priors', and so fails on a GPU. Here the priors' device is the default meanwhile.
    """
    if not importlib.util.find_spec('mmdet') or parse(importlib.import_module('mmdet').__version__) > parse('3.5.1'):
        return False
    from mmdet.models.task_modules.assigners import PointAssigner as Original
    from mmdet.registry import TASK_UTILS

    class PointAssigner(Original):
        def assign(self, pred_instances, *args, **kwargs):
            with pred_instances.priors.device:
                return super().assign(pred_instances, *args, **kwargs)

    TASK_UTILS.register_module(name='PointAssigner', module=PointAssigner, force=True)
    return True


def _patch_worker_seeds() -> bool:
    """MMEngine seeds a data loader's workers with the same numbers whenever they start: without ``persistent_workers``,
    all epochs repeat the augmentations of the first. Here the seed also depends on the one that torch has drawn.
    """
    from mmengine.runner import _flexible_runner, runner

    runner.default_worker_init_fn = _flexible_runner.default_worker_init_fn = _worker_init_fn
    return True


def _worker_init_fn(worker_id: int, num_workers: int, rank: int, seed: int, **kwargs) -> None:
    import torch
    from mmengine.dataset import worker_init_fn

    drawn = torch.initial_seed() - worker_id  # by the main process for all workers of an epoch, and equal on all ranks
    worker_init_fn(worker_id, num_workers, rank, (seed + drawn) % 2**31, **kwargs)


def _patch_class_weight() -> bool:
    """MMSegmentation's cross-entropy with ``class_weight``, up to 1.2, looks up a weight for the ignored 255 as well,
    which has none; the fork's 1.4 fails where ``avg_non_ignore`` is set. Here ignored labels weigh nothing.
    """
    if not importlib.util.find_spec('mmseg') or parse(importlib.import_module('mmseg').__version__) > parse('1.4.2'):
        return False
    import torch
    from mmseg.models.losses import cross_entropy_loss as module

    original = module.cross_entropy
    if hasattr(original, '__wrapped__'):
        return True

    @functools.wraps(original)
    def cross_entropy(pred, label, weight=None, class_weight=None, reduction='mean', avg_factor=None, **options):
        if class_weight is not None and avg_factor is None and reduction == 'mean':
            counted = (label >= 0) & (label < len(class_weight))
            weights = class_weight[torch.where(counted, label, 0)]
            if options.get('avg_non_ignore'):
                counted &= label != options.get('ignore_index', -100)
            avg_factor = (weights * counted).sum()
        return original(pred, label, weight, class_weight, reduction, avg_factor, **options)

    module.cross_entropy = cross_entropy
    return True


def _patch_parameter_count() -> bool:
    """MMEngine's count of parameters, which the libraries' tools print, is of all that is trained. Here it is of the
    student, which is what they would deploy.
    """
    from mmengine.analysis import print_helper

    original = print_helper.parameter_count
    if not hasattr(original, '__wrapped__'):

        @functools.wraps(original)
        def parameter_count(model):
            with getattr(model, 'student_alone', nullcontext)():
                return original(model)

        print_helper.parameter_count = parameter_count
    return True


def _patch_visualizers() -> bool:
    """MMEngine gives a second run in one process the visualizer of the first, and so the first's folder, where both
    configs call it the same, as those of both libraries do. Here each run gets its own.
    """
    from mmengine.visualization import Visualizer

    original = Visualizer.get_instance.__func__
    if not hasattr(original, '__wrapped__'):

        @functools.wraps(original)
        def get_instance(cls, name, **kwargs):
            for known in (cls, Visualizer) if kwargs else ():
                known._instance_dict.pop(name, None)
            return original(cls, name, **kwargs)

        Visualizer.get_instance = classmethod(get_instance)
    return True


_PATCHES = {
    _provide_operators: "mmcv's operators are those of cankd_mm.stack.ops, as it has none compiled",
    _patch_config_paths: 'configs can be based on those of this package by cankd_mm::path',
    _patch_mmcv_check: 'MMRazor imports beside mmcv 2.3 of the maintained fork',
    _patch_quantization_import: 'MMRazor imports without its quantization tables (torch >= 2.1)',
    _patch_checkpoint_loading: "torch.load(weights_only=True) reads MMEngine's checkpoints",
    _patch_checkpoint_writing: 'a killed process leaves no half-written checkpoint',
    _patch_best_of_another_run: 'a run that is resumed in another folder removes nothing of the old one',
    _patch_point_assigner: 'RepPoints trains on a GPU (mmdet <= 3.5)',
    _patch_worker_seeds: 'epochs draw augmentations of their own without persistent workers',
    _patch_parameter_count: "of a pair the student's parameters are counted",
    _patch_visualizers: 'a second run in one process writes into its own folder',
    _patch_class_weight: 'labels to be ignored weigh nothing where classes have weights (mmseg <= 1.4)',
}
