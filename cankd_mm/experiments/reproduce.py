"""Rows of the paper's tables: trained, exported, evaluated in the plain library, reported."""

import datetime
import os
import subprocess
from pathlib import Path
from typing import Dict, Optional

import torch
from mmengine.config import Config
from mmengine.fileio import dump

from cankd_mm.config.metric import required_metric
from cankd_mm.config.read import load_config
from cankd_mm.errors import SetupError
from cankd_mm.experiments.evaluate import RESULT, evaluate
from cankd_mm.experiments.jobs import Job
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
    required_metric(cfg, str(row.config))
    lacking = missing(row, cfg, gpus)
    if lacking:
        raise SetupError('\n  '.join([f'{row.name} cannot run yet:', *lacking]))
    gpus = torch.cuda.device_count() if gpus is None else gpus
    job = Job(Path(cfg.work_dir), str(row.config), options)
    if not job.done:
        environment = dict(os.environ, **(dict(CUDA_VISIBLE_DEVICES='') if gpus == 0 else {}))
        status = subprocess.run(job.command(gpus, '--auto-scale-lr'), env=environment).returncode
        if status:
            raise SetupError(
                f'The training of {row.name} failed with status {status}: what it said stands above; the same command '
                'resumes it.'
            )
        if not job.done:
            raise SetupError(f'The training of {row.name} ended early: the same command resumes it.')
    about = dict(gpus=gpus, lr=_learning_rate(cfg, gpus), seed=seed, options=options)
    result = {**evaluate(job.work_dir), **beside(row), **about, 'date': datetime.date.today().isoformat()}
    dump(result, str(job.work_dir / RESULT), indent=2)
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
    given = {'model.teacher_ckpt': teacher_ckpt, 'randomness.seed': seed}
    return {**(cfg_options or {}), **{key: value for key, value in given.items() if value is not None}}


def _learning_rate(cfg: Config, gpus: int) -> float:
    """The learning rate after MMEngine's scaling to the batch."""
    base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    batch = max(gpus, 1) * cfg.train_dataloader.get('batch_size', 1)
    return cfg.optim_wrapper.optimizer.lr * (batch / base if base else 1)
