"""What a training has come to: what it has logged, and what its exported student reaches in the plain library."""

import re
from numbers import Real
from pathlib import Path
from statistics import median
from typing import Dict, List, Optional

from mmengine.fileio import dump, load

from cankd_mm.apis import export_student, test
from cankd_mm.apis.work_dir import last_checkpoint, read_scalars, seconds_per_step, state_of
from cankd_mm.config.metric import metric_of
from cankd_mm.config.pair import is_distillation
from cankd_mm.config.read import load_config, read_config
from cankd_mm.config.types import type_name
from cankd_mm.errors import SetupError
from cankd_mm.experiments.jobs import USAGE
from cankd_mm.models.builders import build_model
from cankd_mm.stack.machine import describe_machine

RESULT = 'result.json'

_NO_METRICS = ('epoch', 'iter', 'step', 'time', 'data_time')


def evaluate(work_dir: Path) -> dict:
    """Export the student of a training, and evaluate what a user would deploy, in plain MMDetection or MMSegmentation.

    Args:
        work_dir (Path): The work folder. Takes ``result.json``, and the student in ``student``; what stands there for
            the training's last checkpoint is not done again.

    Returns:
        dict: The training as :func:`describe` has it, with ``metrics``, ``metric`` and ``value`` of the evaluation,
        ``parameters``, and ``student``, the plain config and its checkpoint. Without test data, or with labels that are
        kept elsewhere (``format_only``), the figures of the last validation stay.

    Raises:
        SetupError: If there is no training, or no checkpoint.
    """
    path, config, checkpoint = work_dir / RESULT, _config_of(work_dir), last_checkpoint(work_dir)
    if config is None or checkpoint is None:
        raise SetupError(f'There is no checkpoint of a training in {str(work_dir)!r}: train it first.')
    if path.exists() and path.stat().st_mtime >= checkpoint.stat().st_mtime:
        return load(str(path))
    run, student = describe(work_dir), (str(config), str(checkpoint))
    if is_distillation(load_config(student[0])):
        student = export_student(*student, str(work_dir / 'student'))
    cfg = load_config(student[0])
    metric = metric_of(cfg, 'test')
    if metric is not None:
        metrics = _numbers(test(*student, work_dir=str(work_dir / 'test')))
        measured = f'exported student in plain {cfg.get("default_scope", "MMEngine")}'
        run.update(metrics=metrics, metric=metric.name, value=metric.of(metrics), measured=measured)
    run['parameters'] = sum(parameter.numel() for parameter in build_model(student[0], 'model').parameters())
    run.update(student=list(student), machine=describe_machine())
    dump(run, str(path), indent=2)
    return run


def describe(work_dir: Path) -> Optional[dict]:
    """Gather what a training has logged in its work folder.

    Returns:
        dict | None: The training, with ``metric`` and ``value`` of its last validation; what is not known is None.
        None where no config tells of a training.
    """
    config = _config_of(work_dir)
    if config is None:
        return None
    cfg, scalars = read_config(str(config)), read_scalars(work_dir)
    steps = [entry for entry in scalars if 'loss' in entry]
    validations = [entry for entry in scalars if 'loss' not in entry]
    last = steps[-1] if steps else {}
    ratios = [entry['distill_to_task'] for entry in steps if 'distill_to_task' in entry]
    distill = [value for key, value in last.items() if key.startswith('distill.loss')]
    loss = cfg.model.distiller.get('loss') if is_distillation(cfg) else None
    # Of the GPU where there was one, otherwise of the whole process, as its launcher noted.
    of_gpu, usage = [entry['memory'] for entry in scalars if 'memory' in entry], work_dir / USAGE
    peak_mb = float(max(of_gpu)) if of_gpu else load(str(usage))['peak_mb'] if usage.exists() else None
    metric, metrics, measured = None, {}, 'not yet'
    if validations:
        metric, metrics = metric_of(cfg), _numbers(validations[-1])
        measured = f'validation at {"epoch" if "epoch" in last else "iteration"} {validations[-1]["step"]}'
    return dict(
        work_dir=str(work_dir),
        name=config.stem,
        metrics=metrics,
        metric=metric and metric.name,
        value=metric and metric.of(metrics),
        measured=measured,
        progress=_progress(cfg.train_cfg, state_of(work_dir), last),
        lr=max((entry['lr'] for entry in steps if 'lr' in entry), default=None),
        batch_size=cfg.train_dataloader.get('batch_size', 1),
        seconds_per_step=seconds_per_step(scalars),
        peak_mb=peak_mb,
        distill_to_task=round(median(ratios), 3) if ratios else None,
        distill_loss=round(sum(distill), 4) if distill else None,
        loss=loss and type_name(loss),
        blocks=blocks(steps),
    )


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


def _progress(train_cfg: dict, state: dict, last: dict) -> Optional[str]:
    """How far a training is: as noted at its end, or as logged last, in epochs or iterations, as its config counts."""
    by_epoch = train_cfg.get('max_epochs') is not None
    key, unit, length = ('epoch', 'epochs', 'max_epochs') if by_epoch else ('iter', 'iterations', 'max_iters')
    known = state if 'ended' in state else {'iter': last['step'], **last} if last else None
    if known is None:
        return None
    done = known[key] if key in known else f'{known["iter"]} iterations'
    return f'{done} of {train_cfg.get(length)} {unit}'


def _numbers(reported: dict) -> Dict[str, float]:
    return {k: float(v) for k, v in reported.items() if isinstance(v, Real) and k not in _NO_METRICS}


def _config_of(work_dir: Path) -> Optional[Path]:
    """MMEngine keeps the config of a run in its folder under its name; one that was made for a test, under the time."""
    ours = ('training.json', USAGE, RESULT, 'results.json', 'runs.json')
    paths = [path for path in work_dir.glob('*.*') if path.suffix in ('.py', '.yml', '.yaml', '.json')]
    configs = [path for path in paths if path.name not in ours and not re.fullmatch(r'\d{8}_\d{6}', path.stem)]
    return max(configs, key=lambda path: path.stat().st_mtime, default=None)
