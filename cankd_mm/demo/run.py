import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Dict, List, Sequence

from mmengine.fileio import load

from cankd_mm.apis import test
from cankd_mm.apis.work_dir import claimed, last_checkpoint
from cankd_mm.demo import report
from cankd_mm.demo.dataset import prepare
from cankd_mm.demo.plan import KINDS, NUM_SMALL, NUM_TRAIN, NUM_VAL, TASKS, plan
from cankd_mm.experiments.compare import run_experiment
from cankd_mm.experiments.jobs import Job, run_jobs
from cankd_mm.experiments.report import results_table
from cankd_mm.show.show import show

_SCENES = 8  # of the picture
_TITLES = {KINDS['student']: 'student alone', KINDS['cankd']: 'student with CanKD'}


def run_demo(
    root: Path,
    seeds: Sequence[int] = (0,),
    controls: bool = False,
    quick: bool = False,
    tasks: Sequence[str] = ('detection', 'segmentation'),
    data: Path = Path('data/digits'),
) -> str:
    """Train, distil, export, evaluate and report, on scenes of handwritten digits: an experiment for each task.

    What an earlier, interrupted call has finished is kept.

    Args:
        root (Path): Takes ``comparison.jpg``, and for each task a folder with work folders, ``results.json``,
            ``results.md`` and ``results.png``, and one with a page.
        seeds (Sequence[int]): The seeds of the students. Defaults to (0, ).
        controls (bool): Whether to add the fair controls, see :func:`plan`. Defaults to False.
        quick (bool): Whether everything is trained for one short epoch, to show the way. Defaults to False.
        tasks (Sequence[str]): Which tasks. Defaults to both.
        data (Path): Takes both data sets. Defaults to ``data/digits``.

    Returns:
        str: A table for each task.
    """
    prepare(data, NUM_TRAIN, NUM_SMALL, NUM_VAL)
    planned = {task.name: plan(task, root, data, seeds, controls, quick) for task in TASKS if task.name in tasks}
    # Teachers first: they take longest, and students wait for them.
    jobs = [job for jobs in planned.values() for job in jobs]
    with claimed(root):
        run_jobs(sorted(jobs, key=lambda job: not job.work_dir.name.startswith('teacher')))
        results = {name: run_experiment(jobs, root / name, KINDS['cankd']) for name, jobs in planned.items()}
    with redirect_stdout(io.StringIO()):
        predictions = {name: _predict(found['runs'], seeds[0], root / name) for name, found in results.items()}
        report.picture(predictions, root / 'comparison.jpg')
        for name, jobs in planned.items():
            _show(jobs, seeds[0], root / f'{name}_page')
    return '\n\n'.join(f'{name}\n\n{results_table(found)}' for name, found in results.items())


def _predict(runs: List[dict], seed: int, folder: Path) -> Dict[str, List[dict]]:
    """The predictions of some scenes, by what the picture calls the student that they are of."""
    found = {}
    for run in runs:
        if run['method'] in _TITLES and run['seed'] == seed:
            out = str(folder / 'predictions.pkl')
            scenes = {'test_dataloader.dataset.indices': _SCENES}
            test(*run['student'], work_dir=str(folder / 'scenes'), out=out, cfg_options=scenes)
            found[_TITLES[run['method']]] = load(out)
    return found


def _show(jobs: List[Job], seed: int, folder: Path) -> None:
    """Write the page of a task's pair."""
    by_name = {job.work_dir.name: job for job in jobs}
    distilled, alone = by_name[f'cankd_seed{seed}'], by_name[f'student_seed{seed}']
    page, checkpoint = folder / 'report.html', last_checkpoint(distilled.work_dir)
    if not page.exists() or page.stat().st_mtime < checkpoint.stat().st_mtime:
        show(
            distilled.config,
            str(checkpoint),
            against=str(last_checkpoint(alone.work_dir)),
            out=str(folder),
            cfg_options=distilled.options,
        )
