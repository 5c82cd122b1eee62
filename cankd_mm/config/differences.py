"""What tells two trainings, or two students, apart by their configs: a run goes on only from its own kind."""

import os.path as osp
from typing import Dict, FrozenSet, Iterator, Mapping, Optional, Tuple

from mmengine.config import Config
from mmengine.logging import print_log

from cankd_mm.config.pair import without_labels
from cankd_mm.config.read import parse_dumped
from cankd_mm.config.types import type_name
from cankd_mm.errors import SetupError, warn

# What is compared, with what in it changes nothing of the training, or of what the student predicts.
_LOADING = frozenset(
    'num_workers persistent_workers pin_memory prefetch_factor multiprocessing_context timeout backend_args '
    'file_client_args lazy_init serialize_data'.split()
)
TRAINED = {
    'model': frozenset({'test_cfg'}),
    'data_preprocessor': frozenset(),
    'train_dataloader': _LOADING,
    'train_cfg': frozenset({'val_interval', 'val_begin', 'dynamic_intervals'}),
    'optim_wrapper': frozenset(),
    'param_scheduler': frozenset(),
    'auto_scale_lr': frozenset(),
    'randomness': frozenset({'deterministic'}),
    'custom_hooks': frozenset(),
}
TESTED = {
    'model': frozenset(
        'train_cfg init_cfg pretrained teacher teacher_ckpt distiller init_from_teacher frozen_parts'.split()
    ),
    'data_preprocessor': frozenset(),
    'test_dataloader': _LOADING | {'batch_size', 'sampler'},
    'test_evaluator': frozenset(),
    'test_cfg': frozenset(),
}
# Those that steer a training, which others only watch.
SWITCHING = ('PipelineSwitchHook', 'YOLOXModeSwitchHook')  # the augmentation, late in a training
_HOOKS = ('DistillScheduleHook', 'StopDistillHook', 'EMAHook', 'MeanTeacherHook', *SWITCHING)
_LENGTHS = {'train_cfg.max_epochs': 'epoch', 'train_cfg.max_iters': 'iter'}
_NONE = (None, [])  # which are the same as an entry that is not there
_Differences = Dict[str, Tuple[object, object]]


def config_of_run(checkpoint: dict) -> Optional[Config]:
    """Take the config, with the seed, that MMEngine has put into a checkpoint; None where it is not there."""
    meta = checkpoint.get('meta') or {}
    try:
        cfg = parse_dumped(meta['cfg'])
    except (KeyError, ValueError):
        return None
    cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': meta.get('seed')}
    return cfg


def check_goes_on(checkpoint: dict, path: str, cfg: Config, *but: str) -> None:
    """Check that a config trains what a checkpoint was trained with; it may train it longer, or for less time.

    Args:
        checkpoint (dict): The checkpoint.
        path (str): Its path, for the message.
        cfg (Config): The config of the training that is to go on from it, or to count as done by it.
        *but (str): Keys that are not compared.
    """
    before = config_of_run(checkpoint)
    if before is None:
        return
    if (cfg.get('randomness') or {}).get('seed') is None:
        before.randomness.pop('seed')
    found = {key: values for key, values in differences(before, cfg).items() if not key.startswith(but)}
    if found.keys() <= _LENGTHS.keys():
        for key, (old, new) in found.items():
            if None in (old, new) or checkpoint['meta'][_LENGTHS[key]] > new:
                break
            print_log(f'{path} was to end at {key} {old}, and goes on to {new} by the schedule that it has.', 'current')
        else:
            return
    raise SetupError(
        f'The checkpoint {path!r} is of another training: {describe(found)}; give what it was trained with, or '
        'another --work-dir, and there load_from with this path to start from its weights.'
    )


def tell_changes(checkpoint: dict, cfg: Config, *but: str) -> None:
    """Warn where a checkpoint's run would test its student otherwise than a config does, which goes first.

    Args:
        checkpoint (dict): The checkpoint.
        cfg (Config): The config that is given with it.
        *but (str): Keys that are not compared, as they are given on purpose.
    """
    before = config_of_run(checkpoint)
    if without_labels(cfg, 'test'):  # the run's have the teacher's predictions as labels
        but += ('test_dataloader', 'test_evaluator')
    found = {} if before is None else differences(before, cfg, TESTED)
    found = {key: values for key, values in found.items() if not key.startswith(but)}
    if found:
        advice = "give the run's own config, which its work folder holds, where that is not meant"
        warn(f'The config is not that of the run: {describe(found)}; {advice}.')


def describe(found: _Differences, most: int = 4) -> str:
    """Name keys with what they were and are."""
    words = [f'{key} was {_short(old)} and is {_short(new)}' for key, (old, new) in found.items()]
    return ', '.join([*words[:most], *([f'and {len(words) - most} more'] if len(words) > most else [])])


def differences(before: Config, now: Config, parts: Mapping[str, FrozenSet[str]] = TRAINED) -> _Differences:
    """Find the keys, with both values, by which two configs differ in what they train, or in other ``parts``."""
    first, second = before.to_dict(), now.to_dict()
    for cfg in (first, second):
        hooks = cfg.get('custom_hooks') or []
        cfg['custom_hooks'] = [hook for hook in hooks if type_name(hook) in _HOOKS]
        if not (cfg.get('auto_scale_lr') or {}).get('enable'):
            cfg['auto_scale_lr'] = None
    return {
        key: values
        for part, ignored in parts.items()
        for key, values in _compared(part, first.get(part), second.get(part), ignored)
    }


def _compared(key: str, before: object, now: object, ignored: FrozenSet[str]) -> Iterator[Tuple[str, tuple]]:
    """Go down to the entries that differ."""
    before, now = (list(value) if isinstance(value, tuple) else value for value in (before, now))
    kinds = {type(before), type(now)}
    if dict in kinds and kinds <= {dict, type(None)}:
        before, now = before or {}, now or {}
        others = before.get('type') != now.get('type')  # of which no entry is comparable
        for name in ['type'] if others else [*before, *(name for name in now if name not in before)]:
            if name not in ignored:
                yield from _compared(f'{key}.{name}', before.get(name), now.get(name), ignored)
    elif kinds == {list} and len(before) == len(now) and any(isinstance(v, (dict, list, tuple)) for v in before):
        for index, values in enumerate(zip(before, now)):
            yield from _compared(f'{key}.{index}', *values, ignored)
    elif before != now and not (before in _NONE and now in _NONE or _moved(key, before, now)):
        yield key, (before, now)


def _moved(key: str, before: object, now: object) -> bool:
    """Whether two paths are one file or folder, in another place or by another name."""
    if not (isinstance(before, str) and isinstance(now, str)):
        return False
    same = osp.basename(before.rstrip('/')) == osp.basename(now.rstrip('/'))
    if key.endswith('.data_root'):
        return same or not osp.exists(before)
    if key.endswith('teacher_ckpt'):  # every training has its epoch_1.pth
        short, long = sorted((before, now), key=len)
        return same and ('://' in long or long.endswith(f'/{short}'))
    return same and (key == 'model.teacher' or osp.isabs(before) or osp.isabs(now))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'
