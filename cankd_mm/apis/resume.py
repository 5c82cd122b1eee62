"""Which checkpoint a training goes on from, and whether it is one of this training."""

import torch
from mmengine.runner import Runner
from torch import nn

from cankd_mm.errors import SetupError
from cankd_mm.models import FeatureDistill
from cankd_mm.models.checkpoints import load_checkpoint
from cankd_mm.models.utils import unwrap


def check_resumable(runner: Runner, checkpoint: dict, path: str) -> None:
    """Check that a checkpoint is of the same student, losses and teacher.

    Args:
        runner (Runner): The runner that is to go on. MMEngine's FlexibleRunner has no model before it trains, and is
            not checked.
        checkpoint (dict): The checkpoint.
        path (str): Where it comes from, for messages.

    Raises:
        SetupError: If it is not.
    """
    model = unwrap(runner.model)
    if not isinstance(model, nn.Module):
        return
    if 'optimizer' not in checkpoint:
        raise SetupError(
            f'The checkpoint {path!r} holds no state of an optimizer, so that no training can go on from it: give the '
            'epoch_N.pth or iter_N.pth of a training, or set load_from to start from its weights.'
        )
    saved, own = checkpoint['state_dict'], dict(model.named_parameters())
    if isinstance(model, FeatureDistill) and any(key.startswith('architecture.') for key in saved):
        raise SetupError(
            f'The checkpoint {path!r} is of cankd-mm before 0.2 or of another algorithm of MMRazor, whose training '
            'cannot go on here: start anew with load_from set to its student, which cankd export writes.'
        )
    others = [name for name in own if name not in saved or saved[name].shape != own[name].shape]
    if others:
        raise SetupError(
            f'The checkpoint {path!r} is of another training: {others[0]} {tuple(own[others[0]].shape)} is '
            f'{_found(saved, others[0])}; give the config that it was trained with, or another --work-dir.'
        )
    fingerprint = saved.get('_extra_state')
    if isinstance(model, FeatureDistill) and fingerprint is not None:
        if not torch.equal(fingerprint.cpu(), model.get_extra_state()):
            raise SetupError(
                f'The checkpoint {path!r} was distilled from another teacher than model.teacher_ckpt names now: give '
                'that one, or start a new training in another --work-dir.'
            )


def check_loadable(model: nn.Module, path: str) -> None:
    """Check that the file of ``load_from`` has something for the model, as MMEngine takes what fits and no more.

    Args:
        model (nn.Module): The model that is to start from it; not looked at where MMEngine has not built it yet.
        path (str): The file.

    Raises:
        SetupError: If it cannot be read, or not one parameter fits.
    """
    model = unwrap(model)
    saved = load_checkpoint(path, 'run')
    if not isinstance(model, nn.Module):
        return
    own = dict(model.named_parameters())
    if not any(key in own and own[key].shape == value.shape for key, value in saved['state_dict'].items()):
        raise SetupError(
            f'load_from names {path!r}, and no parameter of it fits the {type(model).__name__}: give the checkpoint of '
            'such a model.'
        )
    if saved['weights_key'] not in (None, 'state_dict'):
        raise SetupError(
            f'load_from names {path!r}, whose weights do not stand under state_dict, where MMEngine looks for them: '
            'save them there.'
        )


def _found(saved: dict, name: str) -> str:
    return f'{tuple(saved[name].shape)} there' if name in saved else 'not in it'
