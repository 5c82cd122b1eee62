import datetime
import os
import os.path as osp
import socket
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Optional

from mmengine.config import Config
from mmengine.fileio import dump, load
from mmengine.utils import get_installed_path

from cankd_mm.apis import export_student
from cankd_mm.apis.config import load_config
from cankd_mm.errors import SetupError
from cankd_mm.machine import describe_machine
from cankd_mm.ops import provided
from cankd_mm.package import folder as package_folder
from cankd_mm.reproduce.requirements import missing
from cankd_mm.reproduce.rows import Row
from cankd_mm.runs import is_finished, last_checkpoint, seconds_per_step

RESULT = 'reproduction.json'


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
        dict: The result, as it is written to ``reproduction.json`` in ``work_dir``.

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
        tool = [package_folder('tools') / 'train.py']
        _run(tool, arguments, gpus, f'The training of {row.name}', 'the same command resumes it')
        if not is_finished(folder, cfg.train_cfg):
            raise SetupError(f'The training of {row.name} ended early: the same command resumes it.')
    checkpoint = last_checkpoint(folder)
    student_cfg, student_ckpt = export_student(str(row.config), str(checkpoint), str(folder / 'student'), options)
    metrics = _evaluate(student_cfg, student_ckpt, folder / 'test', gpus, row)
    result = dict(
        name=row.name,
        row=row.number,
        config=str(row.config),
        dataset=row.dataset,
        metric=row.metric,
        value=row.value(metrics),
        paper=row.paper,
        student_alone=row.student.figure,
        teacher=row.teacher.figure,
        metrics={key: value for key, value in metrics.items() if key not in ('time', 'data_time')},
        gpus=gpus,
        batch_size=cfg.train_dataloader.batch_size,
        lr=_learning_rate(cfg, gpus),
        seed=seed,
        seconds_per_step=seconds_per_step(folder),
        options=options,
        checkpoint=str(checkpoint),
        student=[student_cfg, student_ckpt],
        date=datetime.date.today().isoformat(),
        machine=describe_machine(),
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


def _run(tool: List[object], arguments: List[object], gpus: int, what: str, then: str) -> None:
    """Run a tool on the processor, on one GPU, or on several with one process each."""
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
    done = subprocess.run([*launch, *map(str, [*tool, *arguments])], env=environment)
    if done.returncode:
        raise SetupError(f'{what} failed with status {done.returncode}: what it said stands above; {then}.')


def _evaluate(config: str, checkpoint: str, work_dir: Path, gpus: int, row: Row) -> Dict[str, float]:
    """Evaluate with the test tool of MMDetection or MMSegmentation, which knows nothing of this package."""
    package = 'mmseg' if row.metric == 'mIoU' else 'mmdet'
    tool = osp.join(get_installed_path(package), '.mim', 'tools', 'test.py')
    if not osp.isfile(tool):  # an editable installation
        tool = osp.join(osp.dirname(get_installed_path(package)), 'tools', 'test.py')
    _run(
        ['-m', 'cankd_mm.plain', tool] if provided() else [tool],
        [config, checkpoint, '--work-dir', work_dir],
        gpus,
        f"The evaluation of {row.name} by {package}'s own tool",
        'the same command repeats it',
    )
    # MMEngine writes the metrics beside the log, both named after the time.
    reports = sorted(path for path in work_dir.glob('*/*.json') if path.stem == path.parent.name)
    return load(str(reports[-1]))


def _learning_rate(cfg: Config, gpus: int) -> float:
    """The learning rate after MMEngine's scaling to the batch."""
    base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    batch = max(gpus, 1) * cfg.train_dataloader.batch_size
    return cfg.optim_wrapper.optimizer.lr * (batch / base if base else 1)
