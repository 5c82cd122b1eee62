"""Rows of the paper's tables: checked for what they need, trained, exported, evaluated in the plain library."""

import datetime
import os
import os.path as osp
import shlex
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Dict, Iterator, List, Optional
from urllib.request import Request, urlopen

import torch
from mmengine.config import Config
from mmengine.fileio import dump
from mmengine.runner import checkpoint as zoos

from cankd_mm.apis.data import missing_data
from cankd_mm.config.metric import required_metric
from cankd_mm.config.read import load_config
from cankd_mm.errors import SetupError
from cankd_mm.experiments.evaluate import evaluate
from cankd_mm.experiments.jobs import Job, say
from cankd_mm.experiments.logged import RESULT
from cankd_mm.experiments.rows import Row, beside, deviation

# The zoos of backbone weights that MMEngine knows, by the scheme of their addresses.
_ZOOS = {
    **dict.fromkeys(('modelzoo', 'torchvision'), zoos.get_torchvision_models),
    **dict.fromkeys(('open-mmlab', 'openmmlab'), zoos.get_external_models),
    'mmcls': zoos.get_mmcls_models,
}
_TIMEOUT = 10  # seconds


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
        gpus (int, optional): How many GPUs to train on, which scale the learning rate, or 0. Defaults to None, all.
            They do not scale a number of iterations, so that the training is then not the row's, which is said.
        teacher_ckpt (str, optional): The teacher's checkpoint, in place of the config's. Defaults to None.
        work_dir (str, optional): Takes all that is written. Defaults to ``./work_dirs/<name of the config>``.
        seed (int, optional): The random seed. Defaults to None, one that MMEngine draws.
        cfg_options (dict, optional): Entries that override the config's. Defaults to None.

    Returns:
        dict: The result, as it is written to ``result.json`` in ``work_dir``. ``deviation`` says by what it is not that
        of the row's recipe, see :func:`cankd_mm.experiments.rows.deviation`.

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
    job.check()
    deviates = deviation(row, cfg, gpus)
    if deviates:
        say(f"This is not the recipe of {row.name}, and no measure of the paper's figure: {deviates}.")
    if not job.done:
        environment = {**os.environ, **({} if gpus else {'CUDA_VISIBLE_DEVICES': ''})}
        process = subprocess.Popen(job.command(gpus, '--auto-scale-lr'), env=environment)
        try:
            status = process.wait()
        finally:  # of an interruption: a killed torchrun would leave its processes
            process.terminate()
        if status:
            raise SetupError(
                f'The training of {row.name} failed with status {status}: what it said stands above; the same command '
                'resumes it.'
            )
        if not job.done:
            raise SetupError(f'The training of {row.name} ended early: the same command resumes it.')
    base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    batch = max(gpus, 1) * cfg.train_dataloader.get('batch_size', 1)
    lr = cfg.optim_wrapper.optimizer.lr * (batch / base if base else 1)  # as MMEngine scales it to the batch
    about = dict(gpus=gpus, lr=lr, seed=seed, options=options, deviation=deviates)
    say(f'evaluating {job.work_dir}')
    result = {**evaluate(job.work_dir), **beside(row), **about, 'date': datetime.date.today().isoformat()}
    dump(result, str(job.work_dir / RESULT), indent=2)
    return result


def row_options(
    teacher_ckpt: Optional[str] = None, seed: Optional[int] = None, cfg_options: Optional[dict] = None
) -> Dict[str, object]:
    """Collect what overrides a row's config, by dotted keys; the arguments are those of :func:`reproduce`."""
    given = {'model.teacher_ckpt': teacher_ckpt, 'randomness.seed': seed}
    return {**(cfg_options or {}), **{key: value for key, value in given.items() if value is not None}}


def missing(row: Row, cfg: Config, gpus: Optional[int] = None) -> List[str]:
    """List what a row lacks on this machine: data, weights, packages, GPUs.

    Args:
        row (Row): The row.
        cfg (Config): Its config, with what the user overrides.
        gpus (int, optional): How many GPUs the user asks for. Defaults to None, all there are.
    """
    lacking, paths, there = [], [], torch.cuda.device_count()
    for _, path in missing_data(cfg, 'train', 'val', 'test'):
        if not path.startswith(tuple(paths)):  # what a missing folder would hold need not be told
            paths.append(path)
    if paths:
        lacking.append(f'The data set {row.dataset} lacks {", ".join(map(repr, paths))}: {row.data_source}.')
    lacking += [*_missing_teacher(row, cfg.model.get('teacher_ckpt')), *_missing_student(cfg.model.architecture)]
    if gpus is not None and gpus > there:
        lacking.append(
            f'{gpus} GPUs are asked for and torch sees {there}: give --gpus {there}, or check CUDA_VISIBLE_DEVICES.'
        )
    elif gpus is None and row.gpus and not there:
        lacking.append(
            f'torch sees no GPU, and the row is trained on {row.gpus}: run it where there is one, or give --gpus 0 to '
            'train on the processor all the same.'
        )
    return lacking


def _missing_teacher(row: Row, checkpoint: Optional[str]) -> Iterator[str]:
    give = 'give the file with --teacher-ckpt PATH'
    train = f'train it with `cankd train {shlex.quote(str(row.teacher.config))}`'
    if checkpoint is None:
        then = 'then give its checkpoint with --teacher-ckpt PATH'
        yield f'The teacher {row.teacher.name} has no public weights: {train}, {then}.'
    elif '://' in checkpoint:
        yield from _unreachable(checkpoint, "The teacher's weights", give)
    elif not osp.isfile(osp.expanduser(checkpoint)):
        how = f'{train}, or {give}' if row.teacher.weights is None else give
        yield f"The teacher's weights {checkpoint!r} do not exist: {how}."


def _missing_student(student: dict) -> Iterator[str]:
    """Name what the student starts from, and what its text encoder imports, where it is missing."""
    for address in sorted(set(_pretrained(student))):
        scheme, _, name = address.partition('://')
        if scheme in ('modelzoo', 'torchvision') and find_spec('torchvision') is None:
            yield f'The student starts from {address!r}, and torchvision, which names it, is not installed: install it.'
            continue
        name = zoos.get_deprecated_model_names().get(name, name)
        path = _ZOOS[scheme]().get(name) if scheme in _ZOOS else address
        if path is None:
            yield f'The student starts from {address!r}, which MMEngine does not know: correct its init_cfg.'
        elif '://' in path:
            yield from _unreachable(path, "The student's initial weights", 'set its init_cfg')
        elif not osp.isfile(path):
            yield f"The student's initial weights {path!r} do not exist: put them there, or set its init_cfg."
    if 'language_model' in student:
        for package, requirement in dict(transformers='"transformers<5"', fairscale='fairscale').items():
            if find_spec(package) is None:
                yield f"The student's text encoder needs {package}, which is not installed: pip install {requirement}."


def _pretrained(value: object) -> Iterator[str]:
    """Yield the addresses of the weights that the parts of a model start from."""
    if isinstance(value, dict):
        init_cfg = value.get('init_cfg')
        if isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained':
            yield init_cfg['checkpoint']
        if isinstance(value.get('pretrained'), str):  # MMSegmentation's older form
            yield value['pretrained']
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    for part in parts:
        yield from _pretrained(part)


def _unreachable(address: str, what: str, otherwise: str) -> Iterator[str]:
    """Say that a file cannot be fetched, unless it has been fetched before."""
    cached = osp.join(torch.hub.get_dir(), 'checkpoints', osp.basename(address))
    if osp.isfile(cached):
        return
    try:
        urlopen(Request(address, method='HEAD'), timeout=_TIMEOUT).close()
    except (OSError, ValueError) as e:
        yield f'{what} cannot be fetched ({getattr(e, "reason", e)}): put {address} at {cached}, or {otherwise}.'
