"""What a training has come to: what it has logged, and what its exported student reaches in the plain library."""

import re
from pathlib import Path
from statistics import median
from typing import Dict, List, Optional, Tuple

from mmengine.config import Config
from mmengine.fileio import dump, load

from cankd_mm.apis import export_student, test
from cankd_mm.apis.work_dir import METRICS, last_checkpoint, peak_memory, read_scalars, seconds_per_step
from cankd_mm.config.pair import is_distillation
from cankd_mm.config.read import load_config
from cankd_mm.errors import SetupError
from cankd_mm.models.builders import build_model
from cankd_mm.stack.machine import describe_machine

RESULT = 'result.json'

_POINTS = 10  # at how many iterations what the Can blocks do is kept
_TIME = re.compile(r'\d{8}_\d{6}')
_NO_METRICS = ('step', 'time', 'data_time')


def evaluate(work_dir: Path) -> dict:
    """Export the student of a training, and evaluate what a user would deploy, in plain MMDetection or MMSegmentation.

    Args:
        work_dir (Path): The work folder. Takes ``result.json``, and the student in ``student``; what stands there for
            the training's last checkpoint is not done again.

    Returns:
        dict: The training as :func:`describe` has it, with ``metrics``, ``metric`` and ``value`` of the evaluation,
        ``parameters``, and ``student``, the plain config and its checkpoint. A test set whose labels are kept elsewhere
        (``format_only``) leaves the figures of the last validation.

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
    parameters = sum(parameter.numel() for parameter in build_model(student[0], 'model').parameters())
    if _is_rated(load_config(student[0])):
        found = test(*student, work_dir=str(work_dir / 'test'))
        metrics = {key: float(value) for key, value in found.items() if key not in _NO_METRICS}
        # CocoMetric reports nothing where nothing at all is detected.
        metric, value = rate(metrics) if metrics else ('box AP', 0.0)
        library = 'mmseg' if metric == 'mIoU' else 'mmdet'
        run.update(metrics=metrics, metric=metric, value=value, measured=f'exported student in plain {library}')
    run.update(parameters=parameters, student=list(student), machine=describe_machine())
    dump(run, str(path), indent=2)
    return run


def describe(work_dir: Path) -> Optional[dict]:
    """Gather what a training has logged.

    Args:
        work_dir (Path): The work folder.

    Returns:
        dict | None: The training, with ``metric`` and ``value`` of its last validation; what is not known is None.
        None where no config tells of a training.
    """
    config = _config_of(work_dir)
    if config is None:
        return None
    cfg, scalars = Config.fromfile(str(config)), read_scalars(work_dir)
    # A training shorter than the log's interval logs no step.
    steps = [entry for entry in scalars if 'loss' in entry] or [{}]
    ratios = [entry['distill_to_task'] for entry in steps if 'distill_to_task' in entry]
    distill = [value for key, value in steps[-1].items() if key.startswith('distill.loss')]
    loss = cfg.model.distiller.get('loss') if is_distillation(cfg) else None
    unit, length = ('epoch', 'max_epochs') if 'max_epochs' in cfg.train_cfg else ('step', 'max_iters')
    words = dict(epoch='epoch', step='iteration')[unit]
    metrics, metric, value, measured = {}, None, None, 'not yet'
    for entry in scalars:
        if 'loss' not in entry:
            metrics = {key: value for key, value in entry.items() if key not in _NO_METRICS}
            metric, value = rate(metrics)
            measured = f'validation at {words} {entry["step"]}'
    return dict(
        work_dir=str(work_dir),
        name=config.stem,
        metrics=metrics,
        metric=metric,
        value=value,
        measured=measured,
        progress=steps[-1] and f'{steps[-1][unit]} of {cfg.train_cfg[length]} {words}s',
        lr=max((entry['lr'] for entry in steps if 'lr' in entry), default=None),
        batch_size=cfg.train_dataloader.batch_size,
        seconds_per_step=seconds_per_step(work_dir),
        peak_mb=peak_memory(work_dir),
        distill_to_task=round(median(ratios), 3) if ratios else None,
        distill_loss=round(sum(distill), 4) if distill else None,
        loss=loss and loss.type,
        blocks=blocks(steps),
    )


def rate(metrics: Dict[str, float]) -> Tuple[Optional[str], Optional[float]]:
    """Pick the metric that a training is rated by.

    Args:
        metrics (dict[str, float]): What an evaluator reported.

    Returns:
        tuple: The metric's name and its value, in per cent where the name is of ``METRICS``; None and None where
        nothing was reported.
    """
    for name, (key, factor) in METRICS.items():
        if key in metrics:
            return name, round(factor * metrics[key], 2)
    return next(((key, round(value, 2)) for key, value in metrics.items()), (None, None))


def blocks(steps: List[dict]) -> Dict[str, list]:
    """Gather what the Can blocks' monitor has logged.

    Args:
        steps (list[dict]): The logged steps.

    Returns:
        dict[str, list]: Each quantity as pairs of iteration and value, some ten of them.
    """
    keys = [key for key in steps[-1] if key.startswith('can/')]
    measured: List[dict] = []
    for entry in steps:
        # What was measured last is logged until it is measured again.
        if keys and keys[0] in entry and (not measured or any(entry[key] != measured[-1][key] for key in keys)):
            measured.append(entry)
    kept = [*measured[: -1 : max(len(measured) // _POINTS, 1)], *measured[-1:]]
    return {key[len('can/') :]: [[int(entry['step']), round(entry[key], 5)] for entry in kept] for key in keys}


def _is_rated(cfg: Config) -> bool:
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    return not any(evaluator.get('format_only') for evaluator in evaluators)


def _config_of(work_dir: Path) -> Optional[Path]:
    """MMEngine keeps the config of a run in its folder under its name; one that was made for a test, under the time."""
    configs = [path for path in work_dir.glob('*.py') if not _TIME.fullmatch(path.stem)]
    return max(configs, key=lambda path: path.stat().st_mtime) if configs else None
