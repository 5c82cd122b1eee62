"""Gather what was measured: the results of reproduced rows, and the logs of every other training."""

import re
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from mmengine.config import Config
from mmengine.fileio import dump, load

from cankd_mm.errors import SetupError
from cankd_mm.package import folder as package_folder
from cankd_mm.reproduce.rows import Row, load_rows
from cankd_mm.reproduce.run import RESULT
from cankd_mm.runs import METRICS, read_scalars

_TIME = re.compile(r'\d{8}_\d{6}')


def write_results(folder: Path) -> Tuple[str, List[Path]]:
    """Write the table of every run under a folder.

    Args:
        folder (Path): Searched for work folders at any depth.

    Returns:
        tuple[str, list[Path]]: The table, and the files ``runs.md`` and ``runs.json`` in ``folder``.

    Raises:
        SetupError: If there is no training.
    """
    entries = gather(folder, load_rows(package_folder('configs')))
    if not entries:
        raise SetupError(f'There is no training under {str(folder)!r}: give the folder of your work folders.')
    table = results_table(entries)
    # Not results.json: the folder may be that of a comparison or of the demo, which have their own.
    written = [folder / 'runs.md', folder / 'runs.json']
    written[0].write_text(table + '\n')
    dump(entries, str(written[1]), indent=2)
    return table, written


def gather(folder: Path, rows: Sequence[Row]) -> List[dict]:
    """Collect the figures of every run under a folder, beside those of the paper.

    A run of ``cankd reproduce`` counts with what the exported student reached in plain MMDetection or
    MMSegmentation, any other with its last validation.

    Args:
        folder (Path): Searched for work folders at any depth.
        rows (Sequence[Row]): The rows that runs are compared with, by the name of their config.

    Returns:
        list[dict]: One entry per run, in the order of the rows, with ``work_dir``, ``name``, ``row``, ``metric``,
        ``value``, ``paper``, ``student_alone``, ``teacher``, ``measured`` (how), ``progress``, ``lr``, ``gpus`` and
        ``batch_size``. What is not known is None.
    """
    work_dirs = {path.parent for path in folder.rglob(RESULT)}
    work_dirs |= {path.parents[2] for path in folder.rglob('vis_data/scalars.json')}
    by_name = {row.name: row for row in rows}
    order = {name: i for i, name in enumerate(by_name)}
    entries = [_entry(work_dir, by_name) for work_dir in sorted(work_dirs)]
    entries = [entry for entry in entries if entry is not None]
    return sorted(entries, key=lambda entry: (order.get(entry['name'], len(order)), entry['work_dir']))


def _entry(work_dir: Path, rows: dict) -> Optional[dict]:
    """Describe one run; None where nothing was trained, as in the work folder of a test."""
    scalars = read_scalars(work_dir)
    steps = [entry for entry in scalars if 'loss' in entry]
    # MMEngine keeps the config of a run in its folder, under the config's name; that of a test of its student, which is
    # made of it, under the time.
    configs = sorted(work_dir.glob('*.py'), key=lambda path: (bool(_TIME.fullmatch(path.stem)), path.name))
    if not steps or not configs:
        return None
    row, cfg = rows.get(configs[0].stem), Config.fromfile(str(configs[0]))
    by_epoch = 'max_epochs' in cfg.train_cfg
    length = f'{cfg.train_cfg.max_epochs} epochs' if by_epoch else f'{cfg.train_cfg.max_iters} iterations'
    entry = dict(
        work_dir=str(work_dir),
        name=configs[0].stem,
        row=row and row.number,
        metric=row and row.metric,
        value=None,
        paper=row and row.paper,
        student_alone=row and row.student.figure,
        teacher=row and row.teacher.figure,
        measured='not yet',
        progress=f'{steps[-1]["epoch" if by_epoch else "step"]} of {length}',
        lr=max(step['lr'] for step in steps),
        gpus=None,
        batch_size=cfg.train_dataloader.batch_size,
    )
    if (work_dir / RESULT).exists():
        result = load(str(work_dir / RESULT))
        library = 'mmseg' if result['metric'] == 'mIoU' else 'mmdet'
        entry.update({key: result[key] for key in ('metric', 'value', 'lr', 'gpus', 'batch_size') if key in result})
        entry.update(measured=f'exported student in plain {library}')
        return entry
    for scalar in scalars:
        for metric, (key, factor) in METRICS.items():
            if key in scalar:
                entry.update(
                    metric=metric,
                    value=round(scalar[key] * factor, 2),
                    measured=f'validation at {"epoch" if by_epoch else "iteration"} {scalar["step"]}',
                )
    return entry


def results_table(entries: Sequence[dict]) -> str:
    """Lay out what :func:`gather` found.

    Args:
        entries (Sequence[dict]): The runs.

    Returns:
        str: A table in Markdown.
    """
    lines = [
        '| row | run | metric | student alone | teacher | paper | ours | difference | measured | trained | batch, lr |',
        '|---|---|---|---|---|---|---|---|---|---|---|',
    ]
    for entry in entries:
        value, paper = entry['value'], entry['paper']
        name = '' if Path(entry['work_dir']).name == entry['name'] else f' ({entry["name"]})'
        gpus = '' if entry['gpus'] is None else f'{entry["gpus"] or "CPU"} x '
        difference = None if value is None or paper is None else f'{value - paper:+.1f}'
        cells = (
            entry['row'],
            f'{entry["work_dir"]}{name}',
            entry['metric'],
            entry['student_alone'],
            entry['teacher'],
            paper,
            value,
            difference,
            entry['measured'],
            entry['progress'],
            f'{gpus}{entry["batch_size"]}, {entry["lr"]:.3g}',
        )
        lines.append(f'| {" | ".join("" if cell is None else str(cell) for cell in cells)} |')
    return '\n'.join(lines)
