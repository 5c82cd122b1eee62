"""Which trainings the demo consists of."""

from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

from cankd_mm.experiments.jobs import Job
from cankd_mm.experiments.report import ALONE

BATCH = 8
NUM_TRAIN, NUM_SMALL, NUM_VAL = 2000, 300, 200


class Task(NamedTuple):
    """The configs of one task, and its training lengths in epochs."""

    name: str
    teacher: str
    student: str
    cankd: str
    teacher_epochs: int
    student_epochs: int
    long_epochs: int


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
    ),
    Task(
        'segmentation',
        'cankd_mm::demo/fpn-r18w32_digits.py',
        'cankd_mm::demo/fpn-r18w16_digits300.py',
        'cankd_mm::demo/cankd_fpn-r18w32_fpn-r18w16_digits300.py',
        5,
        24,
        34,
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
    folder, small_set = root / task.name, dict(detection='annotations/train_small.json', segmentation='train_small.txt')

    def job(kind: str, config: str, epochs: int, seed: int = 0, needs: Optional[Job] = None, **options: object) -> Job:
        options = {**_data_options(task, data), **options}
        if quick:
            epochs, options['train_dataloader.dataset.indices'] = 1, min(NUM_TRAIN, NUM_SMALL, 24 * BATCH)
        lengths = ('train_cfg.max_epochs', 'train_cfg.val_interval', 'param_scheduler.1.T_max')
        options.update({**dict.fromkeys(lengths, epochs), 'randomness.seed': seed})
        if needs is not None:  # our own schedule, which names checkpoints by their epochs
            last = needs.options['train_cfg.max_epochs']
            options['model.teacher_ckpt'] = str(needs.work_dir / f'epoch_{last}.pth')
        return Job(folder / kind, config, options, needs and needs.work_dir, KINDS[kind.split('_seed')[0]])

    teachers = [job('teacher', task.teacher, task.teacher_epochs)]
    kinds = [('student', 'cankd', task.student_epochs)]
    if controls:
        small = {'train_dataloader.dataset.ann_file': small_set[task.name]}
        teachers.append(job('teacher300', task.teacher, task.long_epochs, **small))
        kinds.append(('student-long', 'cankd300', task.long_epochs))
    jobs = list(teachers)
    for teacher, (alone, distilled, epochs) in zip(teachers, kinds):
        for seed in seeds:
            jobs.append(job(f'{alone}_seed{seed}', task.student, epochs, seed))
            jobs.append(job(f'{distilled}_seed{seed}', task.cankd, task.student_epochs, seed, teacher))
    return jobs


def _data_options(task: Task, data: Path) -> Dict[str, object]:
    """Tell a task's configs where the data set is."""
    splits = ('train', 'val', 'test')
    options = {f'{split}_dataloader.dataset.data_root': f'{data / task.name}/' for split in splits}
    if task.name == 'detection':
        annotations = str(data / task.name / 'annotations' / 'val.json')
        options.update({f'{split}_evaluator.ann_file': annotations for split in ('val', 'test')})
    return options
