"""What a row needs before it can be trained: data, weights, packages, GPUs."""

import os.path as osp
import shlex
from importlib.util import find_spec
from typing import Iterator, List, Optional
from urllib.error import URLError
from urllib.request import Request, urlopen

import torch
from mmengine.config import Config
from mmengine.runner.checkpoint import (
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

from cankd_mm.apis.data import missing_data
from cankd_mm.experiments.rows import Row

# The zoos of backbone weights that MMEngine knows, by the scheme of their addresses.
_ZOOS = {
    'modelzoo': get_torchvision_models,
    'torchvision': get_torchvision_models,
    'open-mmlab': get_external_models,
    'openmmlab': get_external_models,
    'mmcls': get_mmcls_models,
}
_TIMEOUT = 10  # seconds


def missing(row: Row, cfg: Config, gpus: Optional[int] = None) -> List[str]:
    """List what a row lacks on this machine.

    Args:
        row (Row): The row.
        cfg (Config): Its config, with what the user overrides.
        gpus (int, optional): How many GPUs the user asks for. Defaults to None, all there are.

    Returns:
        list[str]: One sentence for each thing, with where to put it; empty where nothing is missing.
    """
    return [*_missing_data(row, cfg), *_missing_teacher(row, cfg), *_missing_student(cfg), *_missing_gpus(row, gpus)]


def _missing_data(row: Row, cfg: Config) -> Iterator[str]:
    paths: List[str] = []
    for _, path in missing_data(cfg, 'train', 'val', 'test'):
        if not path.startswith(tuple(paths)):  # what a missing folder would hold need not be told
            paths.append(path)
    if paths:
        yield f'The data set {row.dataset} lacks {", ".join(map(repr, paths))}: {row.data_source}.'


def _missing_teacher(row: Row, cfg: Config) -> Iterator[str]:
    checkpoint = cfg.model.get('teacher_ckpt')
    if checkpoint is None:
        yield (
            f'The teacher {row.teacher.name} has no public weights: train it with {_train(row)}, then give its '
            'checkpoint with --teacher-ckpt PATH.'
        )
    elif '://' not in checkpoint and not osp.isfile(osp.expanduser(checkpoint)):
        how = f'train it with {_train(row)}, or give' if row.teacher.weights is None else 'give'
        yield f"The teacher's weights {checkpoint!r} do not exist: {how} the file with --teacher-ckpt PATH."
    elif '://' in checkpoint:
        yield from _unreachable(checkpoint, "The teacher's weights", 'give the file with --teacher-ckpt PATH')


def _train(row: Row) -> str:
    return f'`cankd train {shlex.quote(str(row.teacher.config))}`'


def _missing_student(cfg: Config) -> Iterator[str]:
    """Say what the student starts from and is not there."""
    for address in sorted(set(_pretrained(cfg.model.architecture))):
        scheme, _, name = address.partition('://')
        if _ZOOS.get(scheme) is get_torchvision_models and find_spec('torchvision') is None:
            yield f'The student starts from {address!r}, and torchvision, which names it, is not installed: install it.'
            continue
        name = get_deprecated_model_names().get(name, name)
        path = _ZOOS[scheme]().get(name) if scheme in _ZOOS else address
        if path is None:
            yield f'The student starts from {address!r}, which MMEngine does not know: correct its init_cfg.'
        elif '://' in path:
            yield from _unreachable(path, "The student's initial weights", 'set its init_cfg')
        elif not osp.isfile(path):
            yield f"The student's initial weights {path!r} do not exist: put them there, or set its init_cfg."
    if 'language_model' in cfg.model.architecture:
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
        for part in value.values():
            yield from _pretrained(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _pretrained(part)


def _unreachable(address: str, what: str, otherwise: str) -> Iterator[str]:
    """Say so where a file has neither been fetched before nor can be."""
    cached = osp.join(torch.hub.get_dir(), 'checkpoints', osp.basename(address))
    if osp.isfile(cached):
        return
    try:
        urlopen(Request(address, method='HEAD'), timeout=_TIMEOUT).close()
    except (URLError, OSError, ValueError) as e:
        reason = getattr(e, 'reason', e)
        yield f'{what} cannot be fetched ({reason}): put {address} at {cached}, or {otherwise}.'


def _missing_gpus(row: Row, gpus: Optional[int]) -> Iterator[str]:
    there = torch.cuda.device_count()
    if gpus is not None and gpus > there:
        yield f'{gpus} GPUs are asked for and torch sees {there}: give --gpus {there}, or check CUDA_VISIBLE_DEVICES.'
    elif gpus is None and row.gpus and not there:
        yield (
            f'torch sees no GPU, and the row is trained on {row.gpus}: run it where there is one, or give --gpus 0 to '
            'train on the processor all the same.'
        )
