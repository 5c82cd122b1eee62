"""Which trainings the demo consists of."""

from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

from cankd_mm.experiments.jobs import Job
from cankd_mm.experiments.report import ALONE

BATCH = 8
NUM_TRAIN, NUM_SMALL, NUM_VAL = 2000, 300, 200


class Task(NamedTuple):
    """The configs of one task, its training lengths in epochs, and guessed seconds per iteration."""

    name: str
    teacher: str
    student: str
    cankd: str
    teacher_epochs: int
    student_epochs: int
    long_epochs: int
    seconds: Dict[str, float]


# What the table calls a kind of training.
KINDS = {
    'teacher': 'teacher, 2000 scenes',
    'student': ALONE,
    'cankd': 'cankd',
    'student-long': 'student alone, for as much time',
    'teacher300': "teacher on the student's 300 scenes",
    'cankd300': 'cankd from that teacher',
}

TASKS = (
    Task(
        'detection',
        'cankd_mm::demo/retinanet-r18w32_digits.py',
        'cankd_mm::demo/retinanet-r18w16_digits300.py',
        'cankd_mm::demo/cankd_retinanet-r18w32_retinanet-r18w16_digits300.py',
        4,
        24,
        34,
        dict(teacher=0.2, student=0.11, cankd=0.16),
    ),
    Task(
        'segmentation',
        'cankd_mm::demo/fpn-r18w32_digits.py',
        'cankd_mm::demo/fpn-r18w16_digits300.py',
        'cankd_mm::demo/cankd_fpn-r18w32_fpn-r18w16_digits300.py',
        5,
        24,
        34,
        dict(teacher=0.25, student=0.12, cankd=0.2),
    ),
)


def plan(
    task: Task, root: Path, data: Path, seeds: Sequence[int], controls: bool = False, quick: bool = False
) -> List[Job]:
    """List the trainings of a task.

    Args:
        task (Task): The task.
        root (Path): The folder of all work folders.
        data (Path): The folder of both data sets.
        seeds (Sequence[int]): The seeds of the students.
        controls (bool): Whether to add the fair controls: the student alone for as much time as the distilled one
            takes, and a teacher that saw no more than the student's scenes, with a student distilled from it.
            Defaults to False.
        quick (bool): Whether everything is trained for one short epoch, to show the way. Defaults to False.

    Returns:
        list[Job]: The trainings, those that others need first.
    """
    folder = root / task.name
    student_iters = -(-NUM_SMALL // BATCH)
    data_options = _data_options(task, data)
    small = dict(detection='annotations/train_small.json', segmentation='train_small.txt')[task.name]

    def job(kind: str, config: str, epochs: int, iters: int, seconds: float, seed: int = 0, options=None, needs=None):
        options = {**data_options, **(options or {})}
        if quick:
            epochs = 1
            options['train_dataloader.dataset.indices'] = min(iters, 24) * BATCH
            iters = min(iters, 24)
        options.update(
            {
                'train_cfg.max_epochs': epochs,
                'train_cfg.val_interval': epochs,
                'param_scheduler.1.T_max': epochs,
                'randomness.seed': seed,
            }
        )
        final, method = f'epoch_{epochs}.pth', KINDS[kind.split('_seed')[0]]
        return Job(folder / kind, config, options, final, epochs * iters, seconds, needs, method)

    def distilled(kind: str, teacher: Job, seed: int):
        options = {'model.teacher_ckpt': str(teacher.checkpoint)}
        return job(
            kind, task.cankd, task.student_epochs, student_iters, task.seconds['cankd'], seed, options, teacher.work_dir
        )

    def alone(kind: str, epochs: int, seed: int):
        return job(kind, task.student, epochs, student_iters, task.seconds['student'], seed)

    teacher = job('teacher', task.teacher, task.teacher_epochs, NUM_TRAIN // BATCH, task.seconds['teacher'])
    jobs = [teacher]
    for seed in seeds:
        jobs += [alone(f'student_seed{seed}', task.student_epochs, seed), distilled(f'cankd_seed{seed}', teacher, seed)]
    if controls:
        same = job(
            'teacher300',
            task.teacher,
            task.long_epochs,
            student_iters,
            task.seconds['teacher'],
            options={'train_dataloader.dataset.ann_file': small},
        )
        jobs.append(same)
        for seed in seeds:
            jobs += [
                alone(f'student-long_seed{seed}', task.long_epochs, seed),
                distilled(f'cankd300_seed{seed}', same, seed),
            ]
    return jobs


def _data_options(task: Task, data: Path) -> Dict[str, object]:
    """Tell a task's configs where the data set is."""
    splits = ('train', 'val', 'test')
    options = {f'{split}_dataloader.dataset.data_root': f'{data / task.name}/' for split in splits}
    if task.name == 'detection':
        annotations = str(data / task.name / 'annotations' / 'val.json')
        options.update({f'{split}_evaluator.ann_file': annotations for split in ('val', 'test')})
    return options
