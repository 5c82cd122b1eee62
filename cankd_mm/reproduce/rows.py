"""The rows of the metafiles under ``configs``: what each config is for, and the figures it is to be measured by."""

from difflib import get_close_matches
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

from mmengine.fileio import load

from cankd_mm.errors import SetupError
from cankd_mm.runs import METRICS


class Model(NamedTuple):
    """A student or a teacher: its name, its plain config, its own figure, and where its weights are published."""

    name: str
    config: Optional[str]
    figure: Optional[float]
    weights: Optional[str] = None


class Row(NamedTuple):
    """One config with its figures.

    ``number`` is the row of the paper's tables, None for a pair without a figure there, and ``config`` its path.
    ``gpus`` and ``batch_size`` (per GPU) are what the learning rate is for. ``paper`` and ``ours`` are figures of
    ``metric`` in per cent, None where there is none.
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

    def value(self, metrics: Dict[str, float]) -> Optional[float]:
        """Pick this row's metric out of an evaluator's.

        Args:
            metrics (dict[str, float]): What an evaluator reported.

        Returns:
            float | None: The figure in per cent; None where the evaluator did not report it.
        """
        key, factor = METRICS[self.metric]
        return round(metrics[key] * factor, 2) if key in metrics else None


def load_rows(configs: Path) -> List[Row]:
    """Read the metafiles under a folder of configs.

    Args:
        configs (Path): The folder. The paths in a metafile are relative to the folder that it stands in.

    Returns:
        list[Row]: The rows, those of the paper first.
    """
    rows = []
    for path in sorted(configs.glob('*/metafile.yml')):
        metafile = load(str(path))
        sources = {data['Name']: data['Source'] for data in metafile['Datasets']}
        rows += [_row(model, configs.parent, sources) for model in metafile['Models']]
    return sorted(rows, key=lambda row: (row.number is None, not (row.number or '')[:1].isdigit()))


def _row(model: dict, root: Path, sources: Dict[str, str]) -> Row:
    result, meta = model['Results'][0], model['Metadata']
    (metric, ours), *_ = result['Metrics'].items()
    student, teacher = (
        Model(part['Name'], part['Config'], part[metric], part.get('Weights'))
        for part in (model['Student'], model['Teacher'])
    )
    return Row(
        name=model['Name'],
        number=model.get('Row'),
        config=root / model['Config'],
        dataset=result['Dataset'],
        data_source=sources[result['Dataset']],
        metric=metric,
        schedule=meta['Schedule'],
        gpus=meta['GPUs'],
        batch_size=meta['Batch Size per GPU'],
        mu=meta['mu'],
        student=student,
        teacher=teacher,
        paper=result['Paper'][metric],
        ours=ours,
    )


def find_row(rows: Sequence[Row], key: str) -> Row:
    """Find a row by its number, its config's name or its config's path.

    Args:
        rows (Sequence[Row]): The rows.
        key (str): ``'2'``, ``'2-init'``, ``'cankd_retinanet-r101_retinanet-r50_2x_coco'`` or the config's path.

    Returns:
        Row: The row.

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


def table(rows: Sequence[Row], folder: Path) -> str:
    """Write rows as the table of a README.

    Args:
        rows (Sequence[Row]): The rows, of one metric.
        folder (Path): Where the README stands, for its links.

    Returns:
        str: A table in Markdown.
    """
    metric = rows[0].metric
    lines = [
        f'| row | student ({metric}) | teacher ({metric}) | paper | ours | schedule | GPUs x batch | mu | config |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    for row in rows:
        teacher = _figure(row.teacher.figure)
        teacher = f'[{teacher}]({row.teacher.weights})' if row.teacher.weights else f'{teacher}, no public weights'
        link = row.config.relative_to(folder)
        cells = (
            row.number or '',
            f'{row.student.name} ({_figure(row.student.figure)})',
            f'{row.teacher.name} ({teacher})',
            _figure(row.paper),
            'not run yet' if row.ours is None else row.ours,
            row.schedule,
            f'{row.gpus or "CPU"} x {row.batch_size}',
            row.mu,
            f'[{row.name.split("_")[0]}]({link})',
        )
        lines.append(f'| {" | ".join(map(str, cells))} |')
    return '\n'.join(lines)


def _figure(value: Optional[float]) -> str:
    return '-' if value is None else str(value)
