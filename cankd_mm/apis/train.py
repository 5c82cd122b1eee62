import time
import warnings
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from io import StringIO
from logging import LogRecord
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Callable, Dict, Iterator, List, Optional
from unittest.mock import patch

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.dist import init_dist
from mmengine.hooks import Hook
from mmengine.logging import MMLogger, print_log
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS, RUNNERS
from mmengine.runner import Runner
from torch import nn

from cankd_mm.apis.against_teacher import rate_unlabeled
from cankd_mm.apis.data import check_data, check_datasets, explain_batch
from cankd_mm.apis.preflight import Checked, PreflightHook
from cankd_mm.config.differences import check_goes_on
from cankd_mm.config.metric import check_named, metric_of
from cankd_mm.config.pair import is_feature_distill, leave_out_rating
from cankd_mm.config.read import load_config
from cankd_mm.config.types import type_name
from cankd_mm.errors import SetupError, SetupWarning, warn
from cankd_mm.models import FeatureDistill
from cankd_mm.models.checkpoints import beside, load_checkpoint, prefixes_of
from cankd_mm.models.utils import unwrap
from cankd_mm.stack.machine import process_rank
from cankd_mm.work_dir import claimed, find_resumable, length_of, load_resumable, middle

_PROGRESS = 5.0  # seconds between two notes of it


def train(
    config: str,
    work_dir: Optional[str] = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    resume: Optional[str] = None,
    cfg_options: Optional[dict] = None,
    launcher: str = 'none',
    teacher_eval: int = 0,
    wait: bool = False,
) -> Runner:
    """Train what a config describes: a distillation, or a plain detector or segmentor.

    It checks config, data and weights first, and a distillation by :class:`PreflightHook`. What is trained is what the
    config says, as by the tools of MMDetection, MMSegmentation and MMRazor.

    Args:
        config (str): The config file.
        work_dir (str, optional): Folder of logs and checkpoints. Defaults to None: what the config says, or else
            ``./work_dirs/<name of the config>``.
        amp (bool): Whether to train with automatic mixed precision. Defaults to False.
        auto_scale_lr (bool): Whether to scale the learning rate to the batch size. Defaults to False.
        resume (str, optional): A checkpoint to resume from, or ``'auto'`` for the latest one in ``work_dir``.
            Defaults to None.
        cfg_options (dict, optional): Entries that override the config's. Defaults to None.
        launcher (str): ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``. Defaults to 'none'.
        teacher_eval (int): On how many validation images the preflight evaluates the teacher. Defaults to 0.
        wait (bool): Whether to wait for a training that runs in the work folder, which is an error otherwise. Defaults
            to False.

    Returns:
        Runner: The runner, after the training.

    Raises:
        SetupError: If something in the config, a checkpoint or a path is wrong, or a loss is no longer finite.
    """
    cfg = _read(config, work_dir, amp, auto_scale_lr, cfg_options, launcher)
    if teacher_eval:
        _require_distillation(cfg, config)
    claims = launcher == 'none' or process_rank() == 0
    with claimed(Path(cfg.work_dir), wait) if claims else nullcontext(lambda **facts: None) as note:
        return _run(cfg, config, resume, cfg.work_dir, PreflightHook(teacher_eval), note)


def check(
    config: str,
    work_dir: Optional[str] = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    resume: Optional[str] = None,
    cfg_options: Optional[dict] = None,
    launcher: str = 'none',
    teacher_eval: int = 0,
) -> List[str]:
    """Look at all that a training would use, before its first iteration, and leave nothing behind.

    Of a plain detector or segmentor that is its data, evaluation, batch and learning rate.
    The arguments are those of :func:`train`. While it looks, the libraries print and log nothing.

    Returns:
        list[str]: What opens the log of the training, then what is doubtful, and last the verdict: ``ready``, or
            ``doubtful`` with the number of warnings.

    Raises:
        SetupError: If something in the config, a checkpoint or a path is wrong, or if ``teacher_eval`` has no teacher.
    """
    preflight = PreflightHook(teacher_eval, only=True)
    with _warnings_alone() as found, TemporaryDirectory() as nowhere, suppress(Checked):
        cfg = _read(config, work_dir, amp, auto_scale_lr, cfg_options, launcher)
        if teacher_eval:
            _require_distillation(cfg, config)
        leave_out_rating(cfg)
        if cfg.get('visualizer'):
            cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]  # others may open a page on a server
        _run(cfg, config, resume, nowhere, preflight, lambda **facts: None)
    count = len(found)
    verdict = f'doubtful: {count} warning{"s" if count > 1 else ""} above' if count else 'ready: nothing is doubtful'
    return [*preflight.report, *(f'warning: {sentence}' for sentence in found), verdict]


@contextmanager
def _warnings_alone() -> Iterator[Dict[str, None]]:
    """Gather what is logged by :func:`cankd_mm.errors.warn`, each sentence once, and silence all else."""
    found: Dict[str, None] = {}

    def keep(logger: MMLogger, record: LogRecord) -> None:
        if isinstance(record.msg, SetupWarning):
            found[record.msg] = None

    # The loggers of the check are gone after it, as their file is.
    with patch.dict(MMLogger._instance_dict), patch.object(MMLogger, 'callHandlers', keep):
        with redirect_stdout(StringIO()), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield found


def _read(
    config: str, work_dir: Optional[str], amp: bool, auto_scale_lr: bool, cfg_options: Optional[dict], launcher: str
) -> Config:
    """Read a config with what the command line says of its training."""
    cfg = load_config(config, cfg_options, work_dir, launcher)
    check_data(cfg, 'train', 'val')
    if (amp or type_name(cfg.get('optim_wrapper')) == 'AmpOptimWrapper') and get_device() == 'cpu':
        what = '--amp' if amp else "optim_wrapper.type='AmpOptimWrapper'"
        advice = 'leave it out' if amp else "set it to 'OptimWrapper', and leave loss_scale and dtype out"
        raise SetupError(f'{what} needs an accelerator, and there is none here: {advice}.')
    if amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise SetupError(
                f'--auto-scale-lr needs auto_scale_lr.base_batch_size, which {config!r} does not say: add '
                'auto_scale_lr=dict(base_batch_size=N) with the batch size that its learning rate is for.'
            )
        cfg.auto_scale_lr.enable = True
    return cfg


def _require_distillation(cfg: Config, config: str) -> None:
    if not is_feature_distill(cfg):
        problem = f'--teacher-eval looks at a distillation by FeatureDistill, and {config!r} is none'
        raise SetupError(f'{problem}: give a pair.')


def _run(
    cfg: Config, config: str, resume: Optional[str], work_dir: str, preflight: PreflightHook, note: Callable[..., None]
) -> Runner:
    """Train in a work folder, going on from a checkpoint in that of the config, and note how far it is."""
    checkpoint = _read_resumable(cfg, resume)
    cfg.work_dir = work_dir
    rate_unlabeled(cfg, config, 'val', 'test')
    check_named(cfg)
    init_cpu_dist(cfg)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if cfg.get('load_from'):
        check_start = _check_loadable if checkpoint is None else _check_resumable
        checkpoint = checkpoint or load_checkpoint(cfg.load_from, 'run')
        if isinstance(unwrap(runner.model), nn.Module):  # MMEngine's FlexibleRunner has none before it trains
            check_start(unwrap(runner.model), checkpoint, cfg.load_from)
    if not cfg.get('resume') and find_resumable(Path(work_dir)):
        advice = 'give another --work-dir to keep them, or --resume to go on'
        warn(f'{work_dir!r} holds checkpoints of an earlier training, which this one writes over: {advice}.')
    del checkpoint  # its memory is needed for the training
    check_datasets(runner, 'train', 'val', 'test')
    runner.register_hook(preflight)
    note(max_iters=runner.max_iters, metric=metric_of(cfg))
    runner.register_hook(_ProgressHook(note))
    try:
        runner.train()
    except (RuntimeError, IndexError):  # what a loss makes of labels that do not fit
        explain_batch(preflight.batch, unwrap(runner.model))
        raise
    note(ended=length_of(cfg.train_cfg), epoch=runner.epoch, iter=runner.iter)
    return runner


class _ProgressHook(Hook):
    """Notes how far the training is, whatever the interval of its log."""

    def __init__(self, note: Callable[..., None]) -> None:
        self._note, self._due = note, 0.0

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        last = runner.iter + 1 == runner.max_iters
        if not last and time.monotonic() < self._due:
            return
        self._due = time.monotonic() + _PROGRESS
        times = runner.message_hub.log_scalars.get('train/time')
        seconds = middle(times.data[0][-1000:]) if times else None
        self._note(iter=runner.iter + 1, **({'seconds_per_step': seconds} if seconds else {}))


def _read_resumable(cfg: Config, resume: Optional[str]) -> Optional[dict]:
    """Read the checkpoint to resume from, ``'auto'`` for the latest one; None where the training starts anew.

    The config is changed: it gets the path, and the seed, which the order of the data hangs on.
    """
    if resume is None and not cfg.get('resume'):
        return None
    path = cfg.get('load_from') if resume is None else resume
    if path in (None, 'auto'):
        path = find_resumable(Path(cfg.work_dir))
    elif not Path(path).is_file():
        raise SetupError(
            f'The checkpoint {path!r} to resume from does not exist: correct the path, or give --resume alone for the '
            'latest one in the work folder.'
        )
    if path is None:
        print_log(f'There is no checkpoint in {cfg.work_dir!r} to resume from: the training starts anew.')
        cfg.resume = False
        return None
    cfg.resume, cfg.load_from = True, str(path)
    checkpoint = load_resumable(Path(path))
    cfg.setdefault('randomness', ConfigDict())
    if cfg.randomness.get('seed') is None:
        cfg.randomness.seed = checkpoint.get('meta', {}).get('seed')
    check_goes_on(checkpoint, cfg.load_from, cfg, 'model.teacher_ckpt')  # whose weights tell more than its path
    return checkpoint


def _check_resumable(model: nn.Module, checkpoint: dict, path: str) -> None:
    """Check that a checkpoint is of the same student, losses and teacher as the model that is to go on from it."""
    if 'optimizer' not in checkpoint:
        raise SetupError(
            f'The checkpoint {path!r} holds no state of an optimizer, so that no training can go on from it: give the '
            'epoch_N.pth or iter_N.pth of a training, or set load_from to start from its weights.'
        )
    saved, is_pair = checkpoint['state_dict'], isinstance(model, FeatureDistill)
    if is_pair and any(key.startswith('architecture.') for key in saved):
        raise SetupError(
            f'The checkpoint {path!r} is of cankd-mm before 0.2 or of another algorithm of MMRazor, whose training '
            'cannot go on here: start anew with load_from set to its student, which cankd export writes.'
        )
    for name, own in model.named_parameters():
        if name not in saved or saved[name].shape != own.shape:
            found = f'{tuple(saved[name].shape)} there' if name in saved else 'not in it'
            raise SetupError(
                f'The checkpoint {path!r} is of another training: {name} {tuple(own.shape)} is {found}; give the '
                'config that it was trained with, or another --work-dir.'
            )
    fingerprint = saved.get('_extra_state')
    if is_pair and fingerprint is not None and not torch.equal(fingerprint.cpu(), model.get_extra_state()):
        raise SetupError(
            f'The checkpoint {path!r} was distilled from another teacher than model.teacher_ckpt names now: give that '
            'one, or start a new training in another --work-dir.'
        )


def _check_loadable(model: nn.Module, checkpoint: dict, path: str) -> None:
    """Check that the file of ``load_from`` has something for the model, as MMEngine takes what fits and no more."""
    own, saved = dict(model.named_parameters()), checkpoint['state_dict']
    if not any(key in own and own[key].shape == value.shape for key, value in saved.items()):
        name, wanted = type(model).__name__, [key for key in own if not key.startswith('distiller.')]
        prefixes = prefixes_of(saved, wanted)
        advice = f'save it without the {prefixes[0]!r} before every name' if prefixes else 'give one of such a model'
        found = f'no parameter of it fits the {name}, which wants {wanted[0]}{beside(wanted[0], list(saved))}'
        raise SetupError(f'load_from names {path!r}, and {found}: {advice}.')
    if checkpoint['weights_key'] not in (None, 'state_dict'):
        where = 'not under state_dict, where MMEngine looks for them'
        raise SetupError(f'load_from names {path!r}, whose weights stand {where}: save them there.')


def init_cpu_dist(cfg: Config) -> None:
    """Let several processes train without an accelerator, for which the config gets a model wrapper."""
    if cfg.launcher == 'none' or get_device() != 'cpu' or torch.distributed.is_initialized():
        return
    if cfg.launcher == 'pytorch':
        torch.distributed.init_process_group('gloo')
    else:
        with patch.object(torch.cuda, 'set_device'):  # which MMEngine calls under Slurm and MPI
            init_dist(cfg.launcher, backend='gloo')
    unused = cfg.get('find_unused_parameters', False)
    wrapper = dict(type='ProcessorDataParallel', broadcast_buffers=False, find_unused_parameters=unused)
    cfg.model_wrapper_cfg = {**wrapper, **(cfg.get('model_wrapper_cfg') or {})}


@MODEL_WRAPPERS.register_module()
class ProcessorDataParallel(MMDistributedDataParallel):
    """MMDistributedDataParallel for several processes that train one model on processors, not on devices by rank.

    As torch synchronizes batch norm on accelerators alone, every process takes the statistics of its own share.
    """

    def __init__(self, module: nn.Module, **kwargs) -> None:
        super().__init__(revert_sync_batchnorm(module), **{**kwargs, 'device_ids': None})
