"""What the exported student of a training reaches in the plain library."""

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Tuple

from mmengine.fileio import dump

from cankd_mm.apis import export_student, test
from cankd_mm.config.metric import metric_of
from cankd_mm.config.pair import is_distillation
from cankd_mm.config.read import load_config
from cankd_mm.errors import SetupError
from cankd_mm.experiments.logged import RESULT, config_of, describe, numbers
from cankd_mm.models.builders import build_model
from cankd_mm.stack.machine import describe_machine
from cankd_mm.work_dir import last_checkpoint, read_facts


def evaluate(work_dir: Path) -> dict:
    """Export the student of a training, and evaluate what a user would deploy, in plain MMDetection or MMSegmentation.

    Nothing is printed: the log of the evaluation, in ``test``, has what is said.

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
    path, config, checkpoint = work_dir / RESULT, config_of(work_dir), last_checkpoint(work_dir)
    if config is None or checkpoint is None:
        raise SetupError(f'There is no checkpoint of a training in {str(work_dir)!r}: train it first.')
    known = read_facts(path)
    if known and path.stat().st_mtime >= checkpoint.stat().st_mtime:
        return known
    with redirect_stdout(io.StringIO()):  # which loggers keep; nothing closes it
        run = _evaluated(work_dir, (str(config), str(checkpoint)))
    dump(run, str(path), indent=2)
    return run


def _evaluated(work_dir: Path, student: Tuple[str, str]) -> dict:
    run = describe(work_dir)
    if is_distillation(load_config(student[0])):
        student = export_student(*student, str(work_dir / 'student'))
    cfg = load_config(student[0])
    metric = metric_of(cfg, 'test')
    if metric is not None:
        metrics = numbers(test(*student, work_dir=str(work_dir / 'test')))
        measured = f'exported student in plain {cfg.get("default_scope", "MMEngine")}'
        if (cfg.get('val_dataloader') or {}).get('dataset') != cfg.test_dataloader.dataset:
            run['teacher_value'] = None  # which is of other images
        run.update(metrics=metrics, metric=metric.name, value=metric.of(metrics), measured=measured)
    run['parameters'] = sum(parameter.numel() for parameter in build_model(student[0], 'model').parameters())
    run.update(student=list(student), machine=describe_machine())
    return run
