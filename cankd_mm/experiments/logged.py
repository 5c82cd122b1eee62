"""What a training has come to, by its log. Nothing here needs torch, or runs a config."""

import re
from numbers import Real
from pathlib import Path
from statistics import median
from typing import Dict, List, Optional

from mmengine.config import Config

import cankd_mm
from cankd_mm.config.metric import Metric, metric_of, of_teacher
from cankd_mm.config.pair import is_distillation
from cankd_mm.config.read import read_dumped
from cankd_mm.config.types import type_name
from cankd_mm.work_dir import USAGE, read_facts, read_scalars, seconds_per_step, state_of

RESULT = 'result.json'  # of an evaluation, in the work folder

_NO_METRICS = ('epoch', 'iter', 'step', 'time', 'data_time')


def describe(work_dir: Path) -> Optional[dict]:
    """Gather what a training has logged in its work folder.

    Returns:
        dict | None: The training, with ``metric`` and ``value`` of its last validation; what is not known is None.
        None where no config tells of a training. ``teacher_value`` is the metric of its teacher, as it was validated.
    """
    config = config_of(work_dir)
    if config is None:
        return None
    cfg, scalars, state = read_dumped(config), read_scalars(work_dir), state_of(work_dir)
    steps = [entry for entry in scalars if 'loss' in entry]
    validations = [entry for entry in scalars if 'loss' not in entry]
    last = steps[-1] if steps else {}
    ratios = [entry['distill_to_task'] for entry in steps if 'distill_to_task' in entry]
    distill = [value for key, value in last.items() if key.startswith('distill.loss')]
    loss = cfg.model.distiller.get('loss') if is_distillation(cfg) else None
    # Of the GPU where there was one, otherwise of the whole process, as its launcher noted.
    of_gpu = [entry['memory'] for entry in scalars if 'memory' in entry]
    peak_mb = float(max(of_gpu)) if of_gpu else read_facts(work_dir / USAGE).get('peak_mb')
    metric, metrics, measured, teacher = None, {}, 'not yet', {}
    if validations:
        metric, metrics = _metric_of(cfg, state), numbers(validations[-1])
        teacher = of_teacher(metrics)
        measured = _validated(cfg, scalars)
    return dict(
        work_dir=str(work_dir),
        name=config.stem,
        metrics=metrics,
        metric=metric and metric.name,
        value=metric and metric.of(metrics),
        teacher_value=metric.of(teacher) if metric and metric.key in teacher else None,
        measured=measured,
        progress=_progress(cfg.train_cfg, state, last),
        lr=max((entry['lr'] for entry in steps if 'lr' in entry), default=None),
        batch_size=cfg.train_dataloader.get('batch_size', 1),
        seconds_per_step=seconds_per_step(scalars) or state.get('seconds_per_step'),  # of less than an interval
        peak_mb=peak_mb,
        distill_to_task=round(median(ratios), 3) if ratios else None,
        distill_loss=round(sum(distill), 4) if distill else None,
        loss=loss and type_name(loss),
        blocks=blocks(steps),
    )


def _validated(cfg: Config, scalars: List[dict]) -> str:
    """Say when the last validation was: after the step before it, where MMEngine logs the epoch and there are none."""
    end = max(index for index, entry in enumerate(scalars) if 'loss' not in entry)
    logger = (cfg.get('default_hooks') or {}).get('logger') or {}
    if not logger.get('log_metric_by_epoch', True):
        return f'validation at iteration {scalars[end]["step"]}'
    if cfg.train_cfg.get('max_epochs') is not None:
        return f'validation at epoch {scalars[end]["step"]}'
    before = [entry['step'] for entry in scalars[:end] if 'loss' in entry]
    if not before:
        return 'validation'
    interval = cfg.train_cfg.get('val_interval', 1000)  # the steps between are not all logged
    return f'validation at iteration {min(-(-before[-1] // interval) * interval, cfg.train_cfg.max_iters)}'


def blocks(steps: List[dict]) -> Dict[str, list]:
    """Give each quantity that the Can blocks' monitor has logged as some ten pairs of iteration and value."""
    keys = [key for key in (steps[-1] if steps else {}) if key.startswith('can/')]
    measured: List[dict] = []
    for entry in steps:
        # What was measured last is logged until it is measured again.
        if keys and keys[0] in entry and (not measured or any(entry[key] != measured[-1][key] for key in keys)):
            measured.append(entry)
    kept = [*measured[: -1 : max(len(measured) // 10, 1)], *measured[-1:]]
    return {key[len('can/') :]: [[int(entry['step']), round(entry[key], 5)] for entry in kept] for key in keys}


def _metric_of(cfg: Config, state: dict) -> Optional[Metric]:
    """The metric that rates a run, as its training has noted it, or else by its config and the libraries."""
    if 'metric' in state:
        return state['metric'] and Metric(*state['metric'])
    cankd_mm.register()
    return metric_of(cfg)


def _progress(train_cfg: dict, state: dict, last: dict) -> Optional[str]:
    """How far a training is: as noted at its end, or as logged last, in epochs or iterations, as its config counts."""
    by_epoch = train_cfg.get('max_epochs') is not None
    key, unit, length = ('epoch', 'epochs', 'max_epochs') if by_epoch else ('iter', 'iterations', 'max_iters')
    known = state if 'ended' in state else {'iter': last['step'], **last} if last else None
    if known is None:
        return None
    done = known[key] if key in known else f'{known["iter"]} iterations'
    return f'{done} of {train_cfg.get(length)} {unit}'


def numbers(reported: dict) -> Dict[str, float]:
    """Take the metrics out of what was reported."""
    return {k: float(v) for k, v in reported.items() if isinstance(v, Real) and k not in _NO_METRICS}


def config_of(work_dir: Path) -> Optional[Path]:
    """Find the config of a run, which MMEngine keeps in its folder under its name; that of a test, under the time."""
    ours = ('training.json', USAGE, RESULT, 'results.json', 'runs.json')
    paths = [path for path in work_dir.glob('*.*') if path.suffix in ('.py', '.yml', '.yaml', '.json')]
    configs = [path for path in paths if path.name not in ours and not re.fullmatch(r'\d{8}_\d{6}', path.stem)]
    return max(configs, key=lambda path: path.stat().st_mtime, default=None)
