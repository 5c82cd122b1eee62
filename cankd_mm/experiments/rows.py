"""The rows of the metafiles under ``configs``: what each config is for, and the figures it is to be measured by."""

from difflib import get_close_matches
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

import pandas as pd
from mmengine.fileio import load

from cankd_mm.errors import SetupError
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
