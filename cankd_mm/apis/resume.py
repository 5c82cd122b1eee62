"""Which checkpoint a training goes on from, and whether it is one of this training."""

from pathlib import Path
from typing import Optional

import torch
from torch import nn

from cankd_mm.errors import SetupError
from cankd_mm.models.builders import load_checkpoint
from cankd_mm.models.utils import unwrap
from cankd_mm.runs import last_checkpoint


def find_resumable(work_dir: Path) -> Optional[str]:
    """Find the latest checkpoint of a training.

    Args:
        work_dir (Path): Its work folder.

    Returns:
        str | None: The one that MMEngine noted as its last, or where that is gone the newest; None where there is none.
    """
    last = last_checkpoint(work_dir)
    if last is None:
        checkpoints = [*work_dir.glob('epoch_*.pth'), *work_dir.glob('iter_*.pth')]
        last = max(checkpoints, key=lambda path: path.stat().st_mtime, default=None)
    return None if last is None else str(last)


def check_resumable(model: nn.Module, checkpoint: dict, path: str) -> None:
    """Check that a checkpoint is of the same student, losses and teacher.

    Args:
        model (nn.Module): The model that is to go on.
        checkpoint (dict): The checkpoint.
        path (str): Where it comes from, for messages.

    Raises:
        SetupError: If it is not.
    """
    if 'optimizer' not in checkpoint:
        raise SetupError(
            f'The checkpoint {path!r} holds no state of an optimizer, so that no training can go on from it: give the '
            'epoch_N.pth or iter_N.pth of a training, or set load_from to start from its weights.'
        )
    model = unwrap(model)
    saved, own = checkpoint['state_dict'], model.state_dict()
    parameters = [name for name, _ in model.named_parameters() if name in own]
    others = [name for name in parameters if name not in saved or saved[name].shape != own[name].shape]
    if others:
        raise SetupError(
            f'The checkpoint {path!r} is of another training: {others[0]} {tuple(own[others[0]].shape)} is '
            f'{_found(saved, others[0])}; give the config that it was trained with, or another --work-dir.'
        )
    fingerprint = saved.get('teacher_fingerprint')
    # A teacher that starts from an init_cfg has no weights yet.
    if fingerprint is None or not hasattr(model, 'teacher') or not model.teacher.is_init:
        return
    if not torch.equal(fingerprint.cpu(), model.teacher_fingerprint()):
        raise SetupError(
            f'The checkpoint {path!r} was distilled from another teacher than model.teacher_ckpt names now: give that '
            'one, or start a new training in another --work-dir.'
        )


def check_loadable(model: nn.Module, path: str) -> None:
    """Check that the file of ``load_from`` has something for the model, as MMEngine takes what fits and no more.

    Args:
        model (nn.Module): The model that is to start from it.
        path (str): The file.

    Raises:
        SetupError: If it cannot be read, or not one parameter fits.
    """
    model = unwrap(model)
    saved = load_checkpoint(path, 'run')['state_dict']
    own = dict(model.named_parameters())
    if any(key in own and own[key].shape == value.shape for key, value in saved.items()):
        return
    plain = hasattr(model, 'teacher') and not any(key.startswith('architecture.') for key in saved)
    then = (
        "to start from a plain student's weights, set model.architecture.init_cfg to dict(type='Pretrained', "
        'checkpoint=PATH)'
        if plain
        else 'give the checkpoint of such a model'
    )
    raise SetupError(f'load_from names {path!r}, and no parameter of it fits the {type(model).__name__}: {then}.')


def _found(saved: dict, name: str) -> str:
    return f'{tuple(saved[name].shape)} there' if name in saved else 'not in it'
