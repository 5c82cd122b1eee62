import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Dict, Sequence

from mmengine.fileio import dump, load

from cankd_mm.apis import export_student, test
from cankd_mm.demo import report
from cankd_mm.demo.dataset import prepare
from cankd_mm.demo.plan import NUM_SMALL, NUM_TRAIN, NUM_VAL, TASKS, Task, plan
from cankd_mm.machine import describe_machine
from cankd_mm.models.builders import build_model
from cankd_mm.runs import Job, run_jobs
from cankd_mm.show import show

# What the table and the picture call a kind of training.
KINDS = {
    'teacher': 'teacher, 2000 scenes',
    'student': 'student alone, 300 scenes',
    'cankd': 'student with CanKD',
    'student-long': 'student alone, for as much time',
    'teacher300': "teacher on the student's 300 scenes",
    'cankd300': 'student with CanKD from that teacher',
}
TITLES = {'student': 'student alone', 'cankd': 'student with CanKD'}


def run_demo(
    root: Path,
    seeds: Sequence[int] = (0,),
    controls: bool = False,
    quick: bool = False,
    tasks: Sequence[str] = ('detection', 'segmentation'),
    data: Path = Path('data/digits'),
) -> str:
    """Train, distil, export, evaluate and report, on scenes of handwritten digits.

    What an earlier, interrupted call has finished is kept.

    Args:
        root (Path): Takes work folders, ``results.json``, ``results.md``, ``comparison.jpg``, and a page for each task.
        seeds (Sequence[int]): The seeds of the students. Defaults to (0, ).
        controls (bool): Whether to add the fair controls, see :func:`plan`. Defaults to False.
        quick (bool): Whether everything is trained for one short epoch, to show the way. Defaults to False.
        tasks (Sequence[str]): Which tasks. Defaults to both.
        data (Path): Takes both data sets. Defaults to ``data/digits``.

    Returns:
        str: The table.
    """
    start = time.time()
    prepare(data, NUM_TRAIN, NUM_SMALL, NUM_VAL)
    chosen = [task for task in TASKS if task.name in tasks]
    planned = [(task, plan(task, root, data, seeds, controls, quick)) for task in chosen]
    # Teachers first: they take longest, and students wait for them.
    jobs = [job for _, jobs in planned for job in jobs]
    jobs.sort(key=lambda job: not job.work_dir.name.startswith('teacher'))
    run_jobs(jobs)

    rows, predictions = [], {}
    # One log for all: MMEngine's loggers keep the stream that they were made with.
    with open(root / 'evaluation.log', 'a') as log:
        for task, job in [(task, job) for task, jobs in planned for job in jobs]:
            sys.stdout.write(f'evaluating {job.work_dir}\n')
            with redirect_stdout(log):
                row = evaluate(task, job)
            rows.append(row)
            if row['kind_name'] in TITLES and row['seed'] == seeds[0]:
                predictions.setdefault(task.name, {})[TITLES[row['kind_name']]] = str(job.work_dir / 'predictions.pkl')
        table = report.table(rows)
        results = dict(quick=quick, seconds=round(time.time() - start), machine=describe_machine(), rows=rows)
        dump(results, str(root / 'results.json'), indent=2)
        (root / 'results.md').write_text(table + '\n')
        report.picture(predictions, root / 'comparison.jpg')
        with redirect_stdout(log):
            for task, jobs in planned:
                _show(task, {job.work_dir.name: job for job in jobs}, seeds[0], root)
    return table


def _show(task: Task, jobs: Dict[str, Job], seed: int, root: Path) -> None:
    """Write the page of a task's pair."""
    distilled, alone = jobs[f'cankd_seed{seed}'], jobs[f'student_seed{seed}']
    page = root / f'{task.name}_page' / 'report.html'
    if not page.exists() or page.stat().st_mtime < distilled.checkpoint.stat().st_mtime:
        show(
            distilled.config,
            str(distilled.checkpoint),
            against=str(alone.checkpoint),
            out=str(page.parent),
            cfg_options=distilled.options,
        )


def evaluate(task: Task, job: Job) -> dict:
    """Export the student of a training, and evaluate what a user would deploy.

    Args:
        task (Task): The task.
        job (Job): A finished training.

    Returns:
        dict: The training's row of the results.
    """
    done = job.work_dir / 'result.json'
    if done.exists() and done.stat().st_mtime >= job.checkpoint.stat().st_mtime:
        return load(str(done))
    kind, _, seed = job.work_dir.name.partition('_seed')
    config, checkpoint, options = job.config, str(job.checkpoint), job.options
    if kind.startswith('cankd'):
        config, checkpoint = export_student(config, checkpoint, str(job.work_dir / 'student'), options)
        options = None
    metrics = test(
        config,
        checkpoint,
        work_dir=str(job.work_dir / 'test'),
        out=str(job.work_dir / 'predictions.pkl'),
        cfg_options=options,
    )
    # CocoMetric reports nothing where nothing at all is detected.
    value = metrics.get(task.metric, 0.0) * (100 if task.name == 'detection' else 1)
    _, seconds = job.progress()
    row = dict(
        task=task.name,
        kind=KINDS[kind],
        kind_name=kind,
        seed=int(seed or 0),
        metric='AP' if task.name == 'detection' else 'mIoU',
        value=round(float(value), 2),
        parameters=report.count_parameters(build_model(config, 'model')),
        seconds_per_step=round(seconds, 4),
    )
    dump(row, str(done))
    return row
