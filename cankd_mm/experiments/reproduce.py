import datetime
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Optional

from mmengine.config import Config
from mmengine.fileio import dump

from cankd_mm.apis.work_dir import is_finished
from cankd_mm.config.paths import folder as package_folder
from cankd_mm.config.read import load_config
from cankd_mm.errors import SetupError
from cankd_mm.experiments.evaluate import RESULT, evaluate
from cankd_mm.experiments.requirements import missing
from cankd_mm.experiments.rows import Row, beside


def reproduce(
    row: Row,
    gpus: Optional[int] = None,
    teacher_ckpt: Optional[str] = None,
    work_dir: Optional[str] = None,
    seed: Optional[int] = None,
    cfg_options: Optional[dict] = None,
) -> dict:
    """Train a row, export its student, evaluate that in plain MMDetection or MMSegmentation, and write the result.

    An interrupted call goes on where it stopped.

    Args:
        row (Row): The row.
        gpus (int, optional): How many GPUs to train on, 0 for the processor. The learning rate is scaled to their
            number. Defaults to None, all that torch sees.
        teacher_ckpt (str, optional): The teacher's checkpoint, in place of the config's. Defaults to None.
        work_dir (str, optional): Folder of logs, checkpoints and the result. Defaults to None,
            ``./work_dirs/<name of the config>``.
        seed (int, optional): The random seed. Defaults to None, one that MMEngine draws.
        cfg_options (dict, optional): Entries that override the config's. Defaults to None.

    Returns:
        dict: The result, as it is written to ``result.json`` in ``work_dir``.

    Raises:
        SetupError: If something that the row needs is missing, or if training or evaluation fails.
    """
    options = row_options(teacher_ckpt, seed, cfg_options)
    cfg = load_config(str(row.config), options, work_dir)
    folder = Path(cfg.work_dir)
    lacking = missing(row, cfg, gpus)
    if lacking:
        raise SetupError('\n  '.join([f'{row.name} cannot run yet:', *lacking]))
    gpus = _count_gpus() if gpus is None else gpus

    if not is_finished(folder, cfg.train_cfg):
        arguments = [str(row.config), '--work-dir', str(folder), '--auto-scale-lr', '--resume']
        if options:
            arguments += ['--cfg-options', *(f'{key}={value}' for key, value in options.items())]
        _train(arguments, gpus, f'The training of {row.name}')
        if not is_finished(folder, cfg.train_cfg):
            raise SetupError(f'The training of {row.name} ended early: the same command resumes it.')
    result = dict(
        evaluate(folder),
        **beside(row),
        gpus=gpus,
        lr=_learning_rate(cfg, gpus),
        seed=seed,
        options=options,
        date=datetime.date.today().isoformat(),
    )
    dump(result, str(folder / RESULT), indent=2)
    return result


def row_options(
    teacher_ckpt: Optional[str] = None, seed: Optional[int] = None, cfg_options: Optional[dict] = None
) -> Dict[str, object]:
    """Collect what overrides a row's config.

    Args:
        teacher_ckpt (str, optional): The teacher's checkpoint. Defaults to None.
        seed (int, optional): The random seed. Defaults to None.
        cfg_options (dict, optional): Any other entries. Defaults to None.

    Returns:
        dict: The entries by their dotted keys.
    """
    options = dict(cfg_options or {})
    if teacher_ckpt is not None:
        options['model.teacher_ckpt'] = teacher_ckpt
    if seed is not None:
        options['randomness.seed'] = seed
    return options


def _count_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _train(arguments: List[str], gpus: int, what: str) -> None:
    """Run the training tool on the processor, on one GPU, or on several with one process each."""
    environment = dict(os.environ)
    launch = [sys.executable, '-W', 'ignore']
    if gpus == 0:
        environment['CUDA_VISIBLE_DEVICES'] = ''
    if gpus > 1:
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = free.getsockname()[1]
        launch += ['-m', 'torch.distributed.run', f'--nproc_per_node={gpus}', f'--master_port={port}']
        arguments = ['--launcher', 'pytorch', *arguments]
    tool = package_folder('tools') / 'train.py'
    done = subprocess.run([*launch, str(tool), *arguments], env=environment)
    if done.returncode:
        raise SetupError(
            f'{what} failed with status {done.returncode}: what it said stands above; the same command resumes it.'
        )


def _learning_rate(cfg: Config, gpus: int) -> float:
    """The learning rate after MMEngine's scaling to the batch."""
    base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    batch = max(gpus, 1) * cfg.train_dataloader.batch_size
    return cfg.optim_wrapper.optimizer.lr * (batch / base if base else 1)
