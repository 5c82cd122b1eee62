"""Read checkpoints of any library, and load them into students and teachers."""

import os.path as osp
import re
from difflib import get_close_matches
from pickle import UnpicklingError
from typing import Dict, List, Optional, Sequence

from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from cankd_mm.config.types import type_name
from cankd_mm.errors import SetupError, reason_of, warn

_OF_A_PAIR = ('.architecture.', '.distiller.')


def check_checkpoint(path: str, whose: str) -> None:
    """Raise a SetupError if a checkpoint is no path, or no file that exists. Addresses are not looked up."""
    if not isinstance(path, str):
        raise SetupError(
            f"The {whose}'s checkpoint {path!r} is no path but a {type(path).__name__}: give one path as a string; on "
            'the command line, a path with a comma needs quotes inside quotes, "KEY=\'a, b.pth\'".'
        )
    if '://' not in path and not osp.isfile(osp.expanduser(path)):
        raise SetupError(f"The {whose}'s checkpoint {path!r} does not exist: correct the path, or put the file there.")


def load_checkpoint(path: str, whose: str) -> dict:
    """Read a checkpoint of any library from a file or an address: all that it holds, with the weights as
    ``state_dict``, and as ``weights_key`` the key that they stood under, None where it holds nothing but weights.
    """
    checkpoint, what = _read(path, whose), f"The {whose}'s checkpoint {path!r}"
    if not isinstance(checkpoint, dict):
        kind = type(checkpoint).__name__
        raise SetupError(f"{what} holds a {kind}, not weights by name: save the model's state_dict.")
    keys = ('state_dict', 'ema_state_dict', 'model_ema', 'model')
    known = [key for key in keys if isinstance(checkpoint.get(key), dict)]
    others = [key for key, value in checkpoint.items() if isinstance(value, dict) and _tensors(value)]
    if len(others) > 1 and not known:
        places = ' and as '.join(map(repr, others))
        raise SetupError(f'{what} holds weights as {places}: save one of them as state_dict.')
    key = next(iter([*known, *others]), None)
    found = checkpoint[key] if key else {} if 'state_dict' in checkpoint else checkpoint
    # A wrapper that distributes or averages a model holds it as `module`.
    weights = {re.sub(r'^module\.', '', name): value for name, value in _tensors(found).items()}
    if not weights:
        inside = ', '.join(map(repr, [*checkpoint][:5])) or 'nothing'
        raise SetupError(f'{what} holds no weights, but {inside}: give the file that the training wrote.')
    return {**(checkpoint if key else {}), 'state_dict': weights, 'weights_key': key}


def _tensors(entries: dict) -> Dict[str, Tensor]:
    return {name: value for name, value in entries.items() if isinstance(value, Tensor) and name != 'steps'}


def _read(path: str, whose: str) -> object:
    check_checkpoint(path, whose)
    try:
        return CheckpointLoader.load_checkpoint(path, map_location='cpu', logger='silent')
    except (RuntimeError, UnpicklingError, EOFError, OSError, LookupError, ValueError, TypeError) as e:
        if 'weights_only' in str(e) or 'which no checkpoint needs' in str(e):
            problem = 'holds more than weights and training state, and is not read, since that could run code'
            advice = 'save its state_dict alone where you trust it'
        elif '://' in path and isinstance(e, OSError):
            problem = f'cannot be fetched ({e})'
            advice = 'fetch it where there is a network and give the path of the file'
        else:
            problem = f'cannot be read ({reason_of(e).split(". ")[0]})'
            advice = 'it is truncated or no checkpoint, so fetch or write it again'
        raise SetupError(f"The {whose}'s checkpoint {path!r} {problem}: {advice}.") from e


def student_state_dict(state_dict: dict) -> dict:
    """Pick the student's weights out of those of a distillation run; a plain model's are returned as they are."""
    nested = _without_prefix(state_dict, 'architecture.')  # of MMRazor's algorithms and versions before 0.2
    return nested or {k: v for k, v in state_dict.items() if not k.startswith('distiller.') and k != '_extra_state'}


def _without_prefix(state_dict: dict, prefix: str) -> dict:
    return {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}


def pretrained_cfg(model: BaseModel) -> Optional[dict]:
    """Find the ``init_cfg`` of type 'Pretrained' that fills a whole model; None where there is none."""
    init_cfgs = model.init_cfg if isinstance(model.init_cfg, (list, tuple)) else [model.init_cfg or {}]
    return next((cfg for cfg in init_cfgs if type_name(cfg) in ('Pretrained', 'PretrainedInit')), None)


def load_pretrained(model: nn.Module, init_cfg: dict, whose: str) -> None:
    """Fill a model with the ``checkpoint`` of an ``init_cfg``, or with the part of it under ``prefix``."""
    path, prefix = init_cfg['checkpoint'], init_cfg.get('prefix')
    weights = load_checkpoint(path, whose)['state_dict']
    load_weights(model, _without_prefix(weights, f'{prefix.rstrip(".")}.') if prefix else weights, path, whose)


def prefixes_of(state_dict: dict, names: Sequence[str]) -> List[str]:
    """List what a wrapper, trainer or compiler put before each of these names, ``['']`` where nothing did."""
    starts = [key[: -len(names[0])] for key in state_dict if f'.{key}'.endswith(f'.{names[0]}')] if names else []
    found = [start for start in starts if all(start + name in state_dict for name in names)]
    return [''] if '' in found else found


def beside(wanted: str, names: Sequence[str]) -> str:
    """Name, for a sentence, what is most like a wanted name among those that a file has in its place, if any."""
    near = get_close_matches(wanted, names, n=1, cutoff=0.0)
    return f', and has {near[0]} in its place' if near else ''


def _renamed(state_dict: dict, names: Sequence[str], what: str) -> dict:
    """Take off what stands before all of a model's names."""
    prefixes = prefixes_of(state_dict, names)
    if len(prefixes) > 1:
        places = ' and under '.join(map(repr, prefixes))
        raise SetupError(f'{what} holds such a model under {places}: save one of the two under the plain names.')
    return _without_prefix(state_dict, *prefixes) if prefixes else state_dict


def load_weights(model: nn.Module, state_dict: dict, path: str, whose: str) -> None:
    """Fill a model; a SetupError names ``path`` and ``whose`` if a parameter or a statistic is missing or misfits."""
    name, what = type(model).__name__, f"The {whose}'s checkpoint {path!r}"
    if whose == 'teacher' and any(f'.{key}'.find(part) >= 0 for key in state_dict for part in _OF_A_PAIR):
        raise SetupError(f'{what} holds a distillation run, not a model: turn it into one with cankd export.')
    own, parameters = model.state_dict(), dict(model.named_parameters())
    # Other buffers are counters and constants, which many files lack.
    needed = [key for key in own if key in parameters or key.endswith(('running_mean', 'running_var'))]
    state_dict = _renamed(state_dict, needed, what)
    if hasattr(model, 'backbone') and not own.keys() & state_dict.keys():  # of a backbone alone
        alone = [re.sub(r'^backbone\.', '', key) for key in needed]
        renamed = {f'backbone.{key}': value for key, value in _renamed(state_dict, alone, what).items()}
        state_dict = renamed if own.keys() & renamed.keys() else state_dict
    misfits = [key for key, value in state_dict.items() if key in own and own[key].shape != value.shape]
    if misfits:
        shapes = [tuple(holder[misfits[0]].shape) for holder in (state_dict, own)]
        more = f', and {len(misfits) - 1} more differ' if len(misfits) > 1 else ''
        raise SetupError(
            f'{what} does not fit its config: {misfits[0]} has the shape {shapes[0]} in the file and {shapes[1]} in '
            f'the {name}{more}; give the config it was trained with.'
        )
    missing, unexpected = model.load_state_dict(state_dict, strict=False)
    missing = [key for key in missing if key in needed]
    unexpected = [key for key in unexpected if not key.startswith('distiller.') and key != '_extra_state']
    if missing:
        raise SetupError(
            f'{what} lacks {len(missing)} of the {len(needed)} parameters and batch norm statistics of its {name}, '
            f'such as {missing[0]}{beside(missing[0], unexpected)}: give the checkpoint of this config.'
        )
    if unexpected:
        entries = f'{len(unexpected)} entries that its {name} has no place for, such as {unexpected[0]}'
        warn(f'{what} holds {entries}.')
    print_log(f'Loaded all {len(needed)} weights and statistics of the {whose} {name} from {path}.', logger='current')


def classes_of(checkpoint: dict) -> dict:
    """Take the ``classes`` and ``palette`` that a training has put into its checkpoint, None where it has not."""
    meta = checkpoint.get('meta') or {}
    known = meta.get('dataset_meta') or {}
    return {key: known.get(key) or meta.get(key.upper()) for key in ('classes', 'palette')}  # capitals in version 2
