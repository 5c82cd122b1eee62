import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Optional

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from cankd_mm.apis.config import check_data, is_distillation, load_config
from cankd_mm.apis.data import check_train_data
from cankd_mm.apis.resume import check_loadable, check_resumable, find_resumable
from cankd_mm.engine.hooks.preflight import PreflightDone
from cankd_mm.errors import SetupError
from cankd_mm.models.builders import load_checkpoint


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
        check (bool): Whether to end after the preflight, before the first iteration. Defaults to False.
        teacher_eval (int): On how many validation images the preflight evaluates the teacher. Defaults to 0.

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
    checkpoint = _resume(cfg, resume)
    if (check or teacher_eval) and not is_distillation(cfg):
        raise SetupError(f'--check and --teacher-eval look at a distillation, and {config!r} is none: leave them out.')
    add_safeguards(cfg, check, teacher_eval)
    init_cpu_dist(cfg)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if checkpoint is not None:
        check_resumable(runner.model, checkpoint, cfg.load_from)
        del checkpoint
    elif cfg.get('load_from'):
        check_loadable(runner.model, cfg.load_from)
    check_train_data(runner)
    with suppress(PreflightDone):
        runner.train()
    return runner


def _resume(cfg: Config, resume: Optional[str]) -> Optional[dict]:
    """Find and read the checkpoint to resume from, and take its seed, which the order of the data hangs on."""
    if resume is None and not cfg.get('resume'):
        return None
    path = cfg.get('load_from') if resume is None else None if resume == 'auto' else resume
    if path is None:
        path = find_resumable(Path(cfg.work_dir))
    elif not os.path.isfile(path):
        raise SetupError(
            f'The checkpoint {path!r} to resume from does not exist: correct the path, or give '
            '--resume alone for the latest one in the work folder.'
        )
    if path is None:
        print_log(f'There is no checkpoint in {cfg.work_dir!r} to resume from: the training starts anew.')
        cfg.resume = False
        return None
    cfg.resume, cfg.load_from = True, path
    checkpoint = load_checkpoint(path, 'run')
    cfg.setdefault('randomness', ConfigDict())
    if cfg.randomness.get('seed') is None:
        cfg.randomness.seed = checkpoint.get('meta', {}).get('seed')
    return checkpoint


def add_safeguards(cfg: Config, check: bool = False, teacher_eval: int = 0) -> None:
    """Add what keeps a training from being lost or from going wrong unseen.

    Args:
        cfg (Config): The config, changed in place.
        check (bool): Whether the training ends after the preflight. Defaults to False.
        teacher_eval (int): On how many images the preflight evaluates the teacher. Defaults to 0.
    """
    hooks = [dict(type='IterationSeedHook'), dict(type='FiniteLossHook')]
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint')
    if is_distillation(cfg):
        hooks += [
            dict(type='BestStudentHook'),
            dict(type='PreflightHook', only=check, teacher_images=teacher_eval),
        ]
        if cfg.get('val_cfg') and cfg.val_cfg.get('type', 'ValLoop') == 'ValLoop':
            cfg.val_cfg.type = 'DistillValLoop'
            evaluators = cfg.val_evaluator if isinstance(cfg.val_evaluator, list) else [cfg.val_evaluator]
            metrics = [name for name in map(_main_metric, evaluators) if name is not None]
            if checkpoint is not None and metrics:
                checkpoint.setdefault('save_best', metrics[0])
    if checkpoint is not None and checkpoint.get('max_keep_ckpts') == 1:
        print_log(
            'default_hooks.checkpoint.max_keep_ckpts=1 would remove the only checkpoint before the next one is '
            'written: two are kept.',
            level=logging.WARNING,
        )
        checkpoint.max_keep_ckpts = 2
    present = list(cfg.get('custom_hooks') or [])
    types = [hook.get('type') for hook in present]
    cfg.custom_hooks = present + [hook for hook in hooks if hook['type'] not in types]


def _main_metric(evaluator: dict) -> Optional[str]:
    """The metric that a model is known by; None where an evaluator reports another one."""
    if evaluator.get('prefix') is None:
        if evaluator['type'] == 'CocoMetric' and 'bbox' in evaluator.get('metric', 'bbox'):
            return 'coco/bbox_mAP'
        if evaluator['type'] == 'IoUMetric' and 'mIoU' in evaluator.get('iou_metrics', ['mIoU']):
            return 'mIoU'
    return None


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
