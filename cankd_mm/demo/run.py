"""The demo: which trainings it consists of, and what is made of them."""

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

from mmengine.fileio import load

from cankd_mm.apis import test
from cankd_mm.demo import report
from cankd_mm.demo.dataset import prepare
from cankd_mm.experiments.compare import run_experiment
from cankd_mm.experiments.jobs import Job, run_jobs
from cankd_mm.experiments.report import ALONE, LONGER, results_table, verdicts
from cankd_mm.show.show import show
from cankd_mm.work_dir import claimed, last_checkpoint


class Task(NamedTuple):
    """A task, and what differs in it."""

    name: str
    model: str
    small_set: str  # the list of the students' scenes
    teacher_epochs: int


TASKS = (
    Task('detection', 'retinanet', 'annotations/train_small.json', 4),
    Task('segmentation', 'fpn', 'train_small.txt', 5),
)
_TEACHER, _STUDENT = 'cankd_mm::demo/{0}-r18w32_digits.py', 'cankd_mm::demo/{0}-r18w16_digits300.py'
_CANKD = 'cankd_mm::demo/cankd_{0}-r18w32_{0}-r18w16_digits300.py'
# Each kind of training: its method in the tables, its config, its epochs, and the teacher that it needs.
_KINDS = {
    'teacher': ('teacher, 2000 scenes', _TEACHER, None, None),
    'teacher300': ("teacher on the student's 300 scenes", _TEACHER, 34, None),
    'student': (ALONE, _STUDENT, 24, None),
    'cankd': ('cankd', _CANKD, 24, 'teacher'),
    'student-long': (LONGER, _STUDENT, 34, None),
    'cankd300': ('cankd from that teacher', _CANKD, 24, 'teacher300'),
}
# How long a demo is: the shares of a teacher's and of a student's full number of epochs, and how many scenes an epoch
# has; None are all.
LENGTHS = {'quick': (0, 0, 192), 'short': (3 / 4, 7 / 12, None), 'full': (1, 1, None)}


def plan(
    task: Task, root: Path, data: Path, seeds: Sequence[int], controls: bool = False, length: str = 'short'
) -> List[Job]:
    """List the trainings of a task, teachers before their students; for the arguments see :func:`run_demo`."""
    data = data / task.name
    common = {f'{split}_dataloader.dataset.data_root': f'{data}/' for split in ('train', 'val', 'test')}
    if task.name == 'detection':
        common.update({f'{split}_evaluator.ann_file': str(data / 'annotations/val.json') for split in ('val', 'test')})
    teachers, students, scenes = LENGTHS[length]
    if scenes:
        common['train_dataloader.dataset.indices'] = scenes
    jobs = {}
    for kind in _KINDS if controls else ('teacher', 'student', 'cankd'):
        method, config, epochs, needs = _KINDS[kind]
        share = teachers if kind.startswith('teacher') else students
        lengths = ('train_cfg.max_epochs', 'train_cfg.val_interval', 'param_scheduler.1.T_max')
        options = {**common, **dict.fromkeys(lengths, max(round(share * (epochs or task.teacher_epochs)), 1))}
        if kind == 'teacher300':
            options['train_dataloader.dataset.ann_file'] = task.small_set
        teacher = jobs.get(needs)
        if teacher:
            options['model.teacher_ckpt'] = f'{teacher.work_dir}/epoch_{teacher.options["train_cfg.max_epochs"]}.pth'
        trained = {kind: 0} if kind.startswith('teacher') else {f'{kind}_seed{seed}': seed for seed in seeds}
        for name, seed in trained.items():
            work_dir, overrides = root / task.name / name, {**options, 'randomness.seed': seed}
            jobs[name] = Job(work_dir, config.format(task.model), overrides, teacher and teacher.work_dir, method)
    return list(jobs.values())


def run_demo(
    root: Path,
    seeds: Sequence[int] = (0,),
    controls: bool = False,
    length: str = 'short',
    tasks: Sequence[str] = ('detection', 'segmentation'),
    data: Path = Path('data/digits'),
) -> str:
    """Train, distil, export, evaluate and report, on scenes of handwritten digits: an experiment for each task.

    ``root`` is the folder of all results, where what an earlier call has finished is kept, and ``data`` that of both
    data sets. ``controls`` adds the fair controls: the student alone for as much time as the distilled one takes, and a
    student distilled from a teacher that saw no more than its scenes. ``length`` is ``'quick'``, one short epoch of
    each training to show the way, ``'short'``, or ``'full'``. A table for each task is returned.
    """
    prepare(data)
    planned = {task.name: plan(task, root, data, seeds, controls, length) for task in TASKS if task.name in tasks}
    jobs = [job for jobs in planned.values() for job in jobs]
    with claimed(root):
        # Teachers first: they take longest, and students wait for them.
        run_jobs(sorted(jobs, key=lambda job: not job.work_dir.name.startswith('teacher')))
        results = {name: run_experiment(jobs, root / name, 'cankd') for name, jobs in planned.items()}
    with redirect_stdout(io.StringIO()):
        predictions = {name: _predict(found['runs'], seeds[0], root / name) for name, found in results.items()}
        report.picture(predictions, root / 'comparison.jpg')
        for name, jobs in planned.items():
            _show(jobs, seeds[0], root / f'{name}_page')
    return '\n\n'.join(f'{name}\n\n{_laid_out(found)}' for name, found in results.items())


def _laid_out(results: dict) -> str:
    """The table, and of each method whether it pays, which of a teacher nobody asks."""
    students = [run for run in results['runs'] if not run['method'].startswith('teacher')]
    return f'{results_table(results)}\n\n{verdicts({**results, "runs": students})}'


def _predict(runs: List[dict], seed: int, folder: Path) -> Dict[str, List[dict]]:
    """Let the students of a seed predict a few scenes: the predictions by the picture's titles."""
    found, out, first = {}, str(folder / 'predictions.pkl'), {'test_dataloader.dataset.indices': 8}
    titles = {ALONE: 'student alone', 'cankd': 'student with CanKD'}
    for run in runs:
        if run['method'] in titles and run['seed'] == seed:
            test(*run['student'], work_dir=str(folder / 'scenes'), out=out, cfg_options=first)
            found[titles[run['method']]] = load(out)
    return found


def _show(jobs: List[Job], seed: int, folder: Path) -> None:
    """Write the page of a task's pair, unless it is newer than the pair."""
    pair, alone = (job for kind in ('cankd', 'student') for job in jobs if job.work_dir.name == f'{kind}_seed{seed}')
    page, checkpoint = folder / 'report.html', last_checkpoint(pair.work_dir)
    if not page.exists() or page.stat().st_mtime < checkpoint.stat().st_mtime:
        against = str(last_checkpoint(alone.work_dir))
        show(pair.config, str(checkpoint), against=against, out=str(folder), cfg_options=pair.options)
