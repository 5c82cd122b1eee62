import os
from contextlib import nullcontext
from pathlib import Path
from typing import Optional
from unittest.mock import patch

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import init_dist
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS, RUNNERS
from mmengine.runner import Runner
from torch import nn

from cankd_mm.apis.data import check_data, check_datasets, explain_batch
from cankd_mm.apis.preflight import PreflightHook
from cankd_mm.apis.resume import check_loadable, check_resumable, read_resumable
from cankd_mm.apis.work_dir import claimed, length_of
from cankd_mm.config.pair import is_feature_distill
from cankd_mm.config.read import load_config
from cankd_mm.errors import SetupError
from cankd_mm.models.checkpoints import load_checkpoint
from cankd_mm.models.utils import unwrap


def train(
    config: str,
    work_dir: Optional[str] = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    resume: Optional[str] = None,
    cfg_options: Optional[dict] = None,
    launcher: str = 'none',
    check: bool = False,
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
        check (bool): Whether to end after the preflight, before the first iteration. Defaults to False.
        teacher_eval (int): On how many validation images the preflight evaluates the teacher. Defaults to 0.
        wait (bool): Whether to wait for a training that runs in the work folder, which is an error otherwise. Defaults
            to False.

    Returns:
        Runner: The runner, after the training.

    Raises:
        SetupError: If something in the config, a checkpoint or a path is wrong, or a loss is no longer finite.
    """
    cfg = load_config(config, cfg_options, work_dir, launcher)
    check_data(cfg, 'train', 'val')
    if amp:
        if get_device() == 'cpu':
            raise SetupError('--amp needs an accelerator, and there is none here: leave it out.')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise SetupError(
                f'--auto-scale-lr needs auto_scale_lr.base_batch_size, which {config!r} does not say: add '
                'auto_scale_lr=dict(base_batch_size=N) with the batch size that its learning rate is for.'
            )
        cfg.auto_scale_lr.enable = True
    if (check or teacher_eval) and not is_feature_distill(cfg):
        raise SetupError(
            f'--check and --teacher-eval look at a distillation by FeatureDistill, and {config!r} is none: leave them '
            'out.'
        )
    claims = not check and (launcher == 'none' or _rank() == 0)
    with claimed(Path(cfg.work_dir), wait) if claims else nullcontext(lambda **facts: None) as note:
        preflight = PreflightHook(check, teacher_eval)
        runner = _build(cfg, resume)
        runner.register_hook(preflight)
        note(max_iters=runner.max_iters)
        try:
            runner.train()
        except (RuntimeError, IndexError):  # what a loss makes of labels that do not fit
            explain_batch(preflight.batch, unwrap(runner.model))
            raise
        note(ended=length_of(cfg.train_cfg), epoch=runner.epoch, iter=runner.iter)
    return runner


def _build(cfg: Config, resume: Optional[str]) -> Runner:
    """Build a runner, and check what it has to train with."""
    checkpoint = read_resumable(cfg, resume)
    init_cpu_dist(cfg)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if cfg.get('load_from'):
        check = check_loadable if checkpoint is None else check_resumable
        checkpoint = checkpoint or load_checkpoint(cfg.load_from, 'run')
        model = unwrap(runner.model)
        if isinstance(model, nn.Module):  # MMEngine's FlexibleRunner has none before it trains
            check(model, checkpoint, cfg.load_from)
    check_datasets(runner, 'train', 'val', 'test')
    return runner


def _rank() -> int:
    """Read the number of this process, which torchrun, Slurm or MPI say before anything is initialized."""
    names = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)


def init_cpu_dist(cfg: Config) -> None:
    """Let several processes train on a machine without an accelerator, where MMEngine asks for one.

    The config gets a model wrapper where this applies.
    """
    if cfg.launcher == 'none' or get_device() != 'cpu' or torch.distributed.is_initialized():
        return
    if cfg.launcher == 'pytorch':
        torch.distributed.init_process_group('gloo')
    else:
        # It reads what Slurm or MPI say, and would choose a GPU.
        with patch.object(torch.cuda, 'set_device'):
            init_dist(cfg.launcher, backend='gloo')
    unused = cfg.get('find_unused_parameters', False)
    wrapper = dict(type='ProcessorDataParallel', broadcast_buffers=False, find_unused_parameters=unused)
    cfg.model_wrapper_cfg = {**wrapper, **(cfg.get('model_wrapper_cfg') or {})}


@MODEL_WRAPPERS.register_module()
class ProcessorDataParallel(MMDistributedDataParallel):
    """MMDistributedDataParallel for several processes that train one model on processors.

    MMEngine would ask for the device of the local rank, and torch synchronizes batch norm on accelerators alone: every
    process takes the statistics of its own share.
    """

    def __init__(self, module: nn.Module, **kwargs) -> None:
        super().__init__(revert_sync_batchnorm(module), **{**kwargs, 'device_ids': None})
