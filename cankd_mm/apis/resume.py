"""The checkpoint that a training goes on from or starts with, and whether it is one for its model."""

from pathlib import Path
from typing import Optional

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from torch import nn

from cankd_mm.apis.work_dir import find_resumable
from cankd_mm.errors import SetupError
from cankd_mm.models import FeatureDistill
from cankd_mm.models.checkpoints import load_checkpoint


def read_resumable(cfg: Config, resume: Optional[str]) -> Optional[dict]:
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
            f'The checkpoint {path!r} to resume from does not exist: correct the path, or give '
            '--resume alone for the latest one in the work folder.'
        )
    if path is None:
        print_log(f'There is no checkpoint in {cfg.work_dir!r} to resume from: the training starts anew.')
        cfg.resume = False
        return None
    cfg.resume, cfg.load_from = True, str(path)
    checkpoint = load_checkpoint(cfg.load_from, 'run')
    cfg.setdefault('randomness', ConfigDict())
    if cfg.randomness.get('seed') is None:
        cfg.randomness.seed = checkpoint.get('meta', {}).get('seed')
    return checkpoint


def check_resumable(model: nn.Module, checkpoint: dict, path: str) -> None:
    """Check that a checkpoint is of the same student, losses and teacher as the model that is to go on from it.

    Raises:
        SetupError: If it is not. The message names its path.
    """
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


def check_loadable(model: nn.Module, checkpoint: dict, path: str) -> None:
    """Check that the file of ``load_from`` has something for the model, as MMEngine takes what fits and no more.

    Raises:
        SetupError: If not one parameter fits. The message names the path.
    """
    own = dict(model.named_parameters())
    if not any(key in own and own[key].shape == value.shape for key, value in checkpoint['state_dict'].items()):
        raise SetupError(
            f'load_from names {path!r}, and no parameter of it fits the {type(model).__name__}: give the checkpoint of '
            'such a model.'
        )
    if checkpoint['weights_key'] not in (None, 'state_dict'):
        raise SetupError(
            f'load_from names {path!r}, whose weights do not stand under state_dict, where MMEngine looks for them: '
            'save them there.'
        )
