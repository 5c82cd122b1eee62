"""Gather what was measured: the results of reproduced rows, and the logs of every other training."""

from pathlib import Path
from typing import List, Sequence, Tuple

import pandas as pd
from mmengine.fileio import dump, load

from cankd_mm.config.paths import folder as package_folder
from cankd_mm.errors import SetupError, reason_of
from cankd_mm.experiments.evaluate import RESULT, describe
from cankd_mm.experiments.report import markdown
from cankd_mm.experiments.rows import Row, beside, load_rows


def write_results(folder: Path) -> Tuple[str, List[Path]]:
    """Write the table of every run under a folder.

    Args:
        folder (Path): Searched for work folders at any depth; takes ``runs.md`` and ``runs.json``.

    Returns:
        tuple[str, list[Path]]: The table, and the files.

    Raises:
        SetupError: If there is no training.
    """
    entries, unread = gather(folder, load_rows(package_folder('configs')))
    if not entries and not unread:
        raise SetupError(f'There is no training under {str(folder)!r}: give the folder of your work folders.')
    table = '\n\n'.join([*([runs_table(entries)] if entries else []), *unread])
    # Not results.json: the folder may be that of a comparison or of the demo, which have their own.
    written = [folder / 'runs.md', folder / 'runs.json']
    written[0].write_text(table + '\n')
    dump(entries, str(written[1]), indent=2)
    return table, written


def gather(folder: Path, rows: Sequence[Row]) -> Tuple[List[dict], List[str]]:
    """Collect the figures of every run under a folder, beside those of the row that has the name of its config.

    A run that was evaluated counts with what the exported student reached in the plain library, any other with its last
    validation. Returned are an entry for each run in the order of the rows, as :func:`describe` has it, and a sentence
    for each run that cannot be read.
    """
    by_name = {row.name: row for row in rows}
    order = {name: i for i, name in enumerate(by_name)}
    entries, unread = [], []
    for work_dir in sorted({path.parents[2] for path in folder.rglob('vis_data/scalars.json')}):
        result = work_dir / RESULT
        try:
            run = describe(work_dir)
            evaluated = dict(load(str(result))) if result.exists() else {}
        except (AttributeError, KeyError, TypeError, ValueError) as e:  # a config or a file of results that is broken
            unread.append(f'{work_dir} cannot be read ({reason_of(e)}) and is left out.')
            continue
        if run is not None and run['progress']:  # otherwise nothing was trained, as in the work folder of a test
            known = beside(by_name.get(run['name']))
            entries.append({**run, 'gpus': None, **evaluated, **known, 'work_dir': str(work_dir)})
    return sorted(entries, key=lambda entry: (order.get(entry['name'], len(order)), entry['work_dir'])), unread


def runs_table(entries: Sequence[dict]) -> str:
    """Lay out what :func:`gather` found as a table in Markdown."""
    rows = []
    for run in entries:
        known = None not in (run['value'], run['paper'])
        named = Path(run['work_dir']).name == run['name']
        gpus = '' if run['gpus'] is None else f'{run["gpus"] or "CPU"} x '
        rows.append(
            {
                'row': run['row'],
                'run': run['work_dir'] if named else f'{run["work_dir"]} ({run["name"]})',
                'metric': run['metric'],
                'student alone': run['student_alone'],
                'teacher': run['teacher'],
                'paper': run['paper'],
                'ours': run['value'],
                'difference': f'{run["value"] - run["paper"]:+.1f}' if known else None,
                'measured': run['measured'],
                'trained': run['progress'],
                'batch, lr': f'{gpus}{run["batch_size"]}' + ('' if run['lr'] is None else f', {run["lr"]:.3g}'),
            }
        )
    return markdown(pd.DataFrame(rows, dtype=object))
