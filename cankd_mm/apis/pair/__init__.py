"""Write the config of a teacher-student pair, and say what was chosen and why."""

from pathlib import Path
from typing import List, Optional

from mmengine.config import Config

from cankd_mm.apis.pair.data import data_text
from cankd_mm.apis.pair.plan import plan_pair
from cankd_mm.apis.pair.write import pair_text
from cankd_mm.config.paths import config_file
from cankd_mm.config.write import base_name, write_new

__all__ = ['write_pair']


def write_pair(
    teacher: str,
    student: str,
    out: str,
    teacher_ckpt: Optional[str] = None,
    data: Optional[str] = None,
    recommended: bool = False,
) -> List[str]:
    """Write the config of a pair.

    Args:
        teacher (str): A zoo model's name, a config file, or ``package::path``.
        student (str): The same of the student.
        out (str): The file to write.
        teacher_ckpt (str, optional): The teacher's checkpoint. Defaults to None, the zoo's.
        data (str, optional): A config of the data set to train on; the student's config for it is written beside the
            pair's. Defaults to None, the student's own.
        recommended (bool): Whether to put the recommended settings on top. Defaults to False, the paper's.

    Returns:
        list[str]: What was chosen and why, a line each.

    Raises:
        SetupError: If there is no such pair, or a file is there already.
    """
    plan = plan_pair(teacher, student, teacher_ckpt)
    path = Path(out)
    base, lines = base_name(plan.student.config, path.parent), []
    if data is not None:
        own = path.with_name(f'{Path(plan.student.config).stem}_{Path(data).stem}.py')
        write_new(own, data_text(plan.student.config, base, data))
        base = own.name
        lines.append(f'data: {data}; the student on it, which also trains alone: {own}')
    method = None
    if recommended:
        file = f'methods/recommended-{plan.task}.py'
        method = Config.fromfile(config_file(f'cankd_mm::{file}')).model.to_dict()
        lines.append(f'settings: the recommended ones of configs/{file}')
    write_new(path, pair_text(plan, base, method))
    return [*plan.notes, *lines, *(f'warning: {warning}' for warning in plan.warnings), f'written: {path}']
