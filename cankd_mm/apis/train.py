import os
from typing import Optional

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from cankd_mm.apis.config import check_data, load_config
from cankd_mm.errors import SetupError


def train(
    config: str,
    work_dir: Optional[str] = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    resume: Optional[str] = None,
    cfg_options: Optional[dict] = None,
    launcher: str = 'none',
) -> Runner:
    """Train what a config describes: a distillation, or a plain detector or segmentor.

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

    Returns:
        Runner: The runner, after the training.

    Raises:
        SetupError: If something in the config, a checkpoint or a path is wrong.
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
    if resume is not None:
        cfg.resume = True
        cfg.load_from = None if resume == 'auto' else resume
        if cfg.load_from is not None and not os.path.isfile(cfg.load_from):
            raise SetupError(
                f'The checkpoint {resume!r} to resume from does not exist: correct the path, or give '
                '--resume alone for the latest one in the work folder.'
            )
    init_cpu_dist(cfg)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.train()
    return runner


def init_cpu_dist(cfg: Config) -> None:
    """Let several processes train on a machine without an accelerator, where MMEngine asks for one.

    Args:
        cfg (Config): The config; its model wrapper is set where this applies.
    """
    if cfg.launcher != 'pytorch' or get_device() != 'cpu' or torch.distributed.is_initialized():
        return
    torch.distributed.init_process_group('gloo')
    wrapper = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    # MMEngine would ask for the device of the local rank.
    cfg.model_wrapper_cfg = {**wrapper, **(cfg.get('model_wrapper_cfg') or {}), 'device_ids': None}
