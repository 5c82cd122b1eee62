"""The rows of the paper's tables, from the metafiles under ``configs``, and every run beside the figures of its row."""

from difflib import get_close_matches
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import pandas as pd
from mmengine.config import Config
from mmengine.fileio import dump, load

from cankd_mm.config import differences
from cankd_mm.config.paths import folder as package_folder
from cankd_mm.config.read import read_config, read_dumped
from cankd_mm.errors import SetupError, reason_of
from cankd_mm.experiments.logged import RESULT, config_of, describe
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


# All that a figure hangs on; another seed, and what `--auto-scale-lr` sets, are no other recipe.
_PARTS = {**differences.TESTED, **differences.TRAINED, 'model': frozenset()}
_RECIPE = {part: _PARTS[part] for part in _PARTS if part not in ('randomness', 'auto_scale_lr')}


def deviation(row: Row, cfg: Config, gpus: Optional[int] = None) -> str:
    """Say by what a training is not the recipe of a row, whose figure is then no measure for it; '' where it is.

    Another number of GPUs is none where the training counts epochs, as the learning rate is scaled to the batch.

    Args:
        row (Row): The row.
        cfg (Config): The config of the training.
        gpus (int, optional): On how many GPUs it runs, 0 for the processor. Defaults to None, which is not known.
    """
    recipe = read_config(str(row.config))
    found = differences.differences(recipe, cfg, _RECIPE)
    if row.teacher.weights is None:  # and whoever trains the row has to give some
        found.pop('model.teacher_ckpt', None)
    words = []
    if gpus is not None:
        before = row.batch_size * max(row.gpus, 1)
        now = cfg.train_dataloader.get('batch_size', 1) * max(gpus, 1)
        images = now * cfg.train_cfg.get('max_iters', 0), before * recipe.train_cfg.get('max_iters', 0)
        if now == before:
            found.pop('train_dataloader.batch_size', None)
        elif 0 not in images and images[0] != images[1]:
            words = [f'batches of {now} in place of {before} see {images[0] / images[1]:g} times as many images']
    return ', '.join([*words, *([differences.describe(found)] if found else [])])


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
    validation. A run by another recipe than its row's is no measure of it, see :func:`deviation`: what is other is said
    in place of the difference. A run that cannot be read is named below the table.

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
            row, entry = by_name.get(run['name']), {**run, 'gpus': None, 'deviation': '', **evaluated}
            if row is not None and 'deviation' not in evaluated:
                entry['deviation'] = deviation(row, read_dumped(config_of(work_dir)), entry['gpus'])
            entries.append({**entry, **beside(row), 'work_dir': str(work_dir)})
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
        known = None not in (run['value'], run['paper']) and not run['deviation']
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
                "not the row's recipe": run['deviation'],
                'measured': run['measured'],
                'trained': run['progress'],
                'batch, lr': f'{gpus}{run["batch_size"]}' + ('' if run['lr'] is None else f', {run["lr"]:.3g}'),
            }
        )
    return markdown(pd.DataFrame(rows, dtype=object))
