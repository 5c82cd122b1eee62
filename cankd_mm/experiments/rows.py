"""The rows of the paper's tables, from the metafiles under ``configs``, and every run beside the figures of its row."""

from difflib import get_close_matches
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import pandas as pd
from mmengine.fileio import dump, load

from cankd_mm.config.paths import folder as package_folder
from cankd_mm.errors import SetupError, reason_of
from cankd_mm.experiments.logged import RESULT, describe
from cankd_mm.experiments.report import markdown


class Model(NamedTuple):
    """A student or a teacher: its name, its plain config, its own figure, and where its weights are published."""

    name: str
    config: Optional[str]
    figure: Optional[float]
    weights: Optional[str] = None


class Row(NamedTuple):
    """One config with its figures.

    ``number`` is the row of the paper's tables, None for a pair without a figure there. The learning rate is for
    ``gpus`` and ``batch_size`` (per GPU). ``paper`` and ``ours`` are figures of ``metric`` in per cent, or None.
    """

    name: str
    number: Optional[str]
    config: Path
    dataset: str
    data_source: str
    metric: str
    schedule: str
    gpus: int
    batch_size: int
    mu: float
    student: Model
    teacher: Model
    paper: Optional[float]
    ours: Optional[float]


def load_rows(configs: Path) -> List[Row]:
    """Read the rows of the metafiles under a folder of configs; those of the paper come first."""
    rows = []
    for path in sorted(configs.glob('*/metafile.yml')):
        metafile = load(str(path))
        sources = {data['Name']: data['Source'] for data in metafile['Datasets']}
        for entry in metafile['Models']:
            result, meta = entry['Results'][0], entry['Metadata']
            (metric, ours), *_ = result['Metrics'].items()
            student, teacher = (
                Model(part['Name'], part['Config'], part[metric], part.get('Weights'))
                for part in (entry['Student'], entry['Teacher'])
            )
            config = dict(name=entry['Name'], number=entry.get('Row'), config=configs.parent / entry['Config'])
            data = dict(dataset=result['Dataset'], data_source=sources[result['Dataset']], metric=metric)
            lengths = dict(schedule=meta['Schedule'], gpus=meta['GPUs'], batch_size=meta['Batch Size per GPU'])
            figures = dict(mu=meta['mu'], paper=result['Paper'][metric], ours=ours)
            rows.append(Row(student=student, teacher=teacher, **config, **data, **lengths, **figures))
    return sorted(rows, key=lambda row: (row.number is None, not (row.number or '')[:1].isdigit()))


def find_row(rows: Sequence[Row], key: str) -> Row:
    """Find a row by its number, its config's name or its config's path.

    Args:
        rows (Sequence[Row]): The rows.
        key (str): ``'2'``, ``'2-init'``, ``'cankd_retinanet-r101_retinanet-r50_2x_coco'`` or the config's path.

    Raises:
        SetupError: If there is none. The message lists the nearest.
    """
    name = Path(key).stem if key.endswith('.py') else key
    for row in rows:
        if name in (row.number, row.name):
            return row
    keys = [k for row in rows for k in (row.number, row.name) if k]
    near = get_close_matches(name, keys, n=3, cutoff=0.5) or [row.number for row in rows if row.number]
    raise SetupError(f'There is no row {key!r}; did you mean {" or ".join(map(repr, near))}?')


def beside(row: Optional[Row]) -> Dict[str, object]:
    """Collect the known figures that stand beside a measured one; all are None for a training of no row."""
    if row is None:
        return dict.fromkeys(('row', 'dataset', 'paper', 'student_alone', 'teacher'))
    figures = dict(paper=row.paper, student_alone=row.student.figure, teacher=row.teacher.figure)
    return dict(row=row.number, dataset=row.dataset, **figures)


def table(rows: Sequence[Row], folder: Path) -> str:
    """Lay out rows of one metric as the table of a README, whose links start from its ``folder``."""
    return markdown(
        pd.DataFrame(
            {
                'row': row.number or '',
                f'student ({row.metric})': f'{row.student.name} ({_figure(row.student.figure)})',
                f'teacher ({row.metric})': f'{row.teacher.name} ({_published(row.teacher)})',
                'paper': _figure(row.paper),
                'ours': 'not run yet' if row.ours is None else str(row.ours),
                'schedule': row.schedule,
                'GPUs x batch': f'{row.gpus or "CPU"} x {row.batch_size}',
                'mu': str(row.mu),
                'config': f'[{row.name.split("_")[0]}]({row.config.relative_to(folder)})',
            }
            for row in rows
        ),
        align=False,
    )


def _published(model: Model) -> str:
    figure = _figure(model.figure)
    return f'[{figure}]({model.weights})' if model.weights else f'{figure}, no public weights'


def _figure(value: Optional[float]) -> str:
    return '-' if value is None else str(value)


def write_results(folder: Path, rows: Optional[Sequence[Row]] = None) -> Tuple[str, List[Path]]:
    """Write the table of every run under a folder, beside the figures of the row that has the name of its config.

    A run that was evaluated counts with what the exported student reached in the plain library, any other with its last
    validation. A run that cannot be read is named below the table.

    Args:
        folder (Path): Searched for work folders at any depth; takes ``runs.md`` and ``runs.json``.
        rows (Sequence[Row], optional): The rows. Defaults to None, those of the package.

    Returns:
        tuple[str, list[Path]]: The table, and the files.

    Raises:
        SetupError: If there is no training.
    """
    by_name = {row.name: row for row in (load_rows(package_folder('configs')) if rows is None else rows)}
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
    if not entries and not unread:
        raise SetupError(f'There is no training under {str(folder)!r}: give the folder of your work folders.')
    order = {name: i for i, name in enumerate(by_name)}
    entries.sort(key=lambda entry: (order.get(entry['name'], len(order)), entry['work_dir']))
    table = '\n\n'.join([*([_runs_table(entries)] if entries else []), *unread])
    # Not results.json: the folder may be that of a comparison or of the demo, which have their own.
    written = [folder / 'runs.md', folder / 'runs.json']
    written[0].write_text(table + '\n')
    dump(entries, str(written[1]), indent=2)
    return table, written


def _runs_table(entries: Sequence[dict]) -> str:
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
