"""Experiments: trainings, one evaluation of each, one table; and comparisons of methods on the same pair."""

import copy
import hashlib
import io
import json
import shlex
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Dict, List, Optional, Sequence, TextIO

from mmengine.config import Config
from mmengine.fileio import put_text

from cankd_mm.apis.against_teacher import rate_unlabeled
from cankd_mm.apis.data import check_data
from cankd_mm.config.differences import TRAINED, describe, differences
from cankd_mm.config.metric import required_metric
from cankd_mm.config.pair import is_distillation, student_config, without_labels
from cankd_mm.config.paths import default_work_dir
from cankd_mm.config.read import load_config, read_config, read_dumped
from cankd_mm.config.types import from_timm, type_name
from cankd_mm.errors import SetupError
from cankd_mm.experiments.evaluate import evaluate
from cankd_mm.experiments.jobs import Job, Local, checkpoints_apart, run_jobs, say
from cankd_mm.experiments.report import ALONE, read_results, write_report
from cankd_mm.models.checkpoints import check_checkpoint
from cankd_mm.work_dir import claimed

_MONITOR = 'CanBlockMonitorHook'


def compare(
    pair: str,
    methods: Sequence[str],
    seeds: Sequence[int] = (0, 1, 2),
    work_dir: Optional[str] = None,
    place: Optional[Local] = None,
    cfg_options: Optional[dict] = None,
    train: bool = True,
    stream: TextIO = sys.stdout,
) -> dict:
    """Train a student alone, if it has labels, and with every method, with several seeds, and write one table.

    Every training is an ordinary ``cankd train`` with the config ``<method>.py`` that stands in ``work_dir``. What is
    done is kept, what was interrupted goes on, see :func:`run_experiment`.

    Args:
        pair (str): A distillation config.
        methods (Sequence[str]): Config files with what each further method changes in the pair's.
        seeds (Sequence[int]): The seeds of every method. Defaults to (0, 1, 2).
        work_dir (str, optional): Takes all that is written. Defaults to ``./work_dirs/compare/<name of the pair>``.
        place (Local | Slurm, optional): Where the trainings run. Defaults to None, this machine.
        cfg_options (dict, optional): Entries that override those of every config. Defaults to None.
        train (bool): Whether to train what is missing; False reports what is there. Defaults to True.
        stream (TextIO): Takes the progress. Defaults to the standard output.

    Returns:
        dict: The results, as they are written to ``results.json``.

    Raises:
        SetupError: If something in a config or a path is wrong, or a training fails.
    """
    root = Path(work_dir or default_work_dir(pair, 'compare'))
    jobs = _plan(pair, methods, seeds, root, cfg_options or {})
    reference = next(job.method for job in jobs if job.method != ALONE)
    with claimed(root) if train else nullcontext():
        return run_experiment(jobs, root, reference, place, train, stream, pair=pair, cfg_options=cfg_options or {})


def load_pair(config: str, cfg_options: Optional[dict] = None) -> Config:
    """Read a pair, and check before its first training that data, the teacher's weights and a metric are there."""
    cfg = load_config(config, cfg_options)
    if not is_distillation(cfg):
        raise SetupError(f'{config!r} is no distillation config: give one that has a teacher and a student.')
    check_data(cfg, 'train', 'val')
    teacher, checkpoint = cfg.model.teacher, cfg.model.get('teacher_ckpt')
    if checkpoint is not None:
        check_checkpoint(checkpoint, 'teacher')
    elif isinstance(teacher, str) and not from_timm(teacher):
        raise SetupError(f'{config!r} names no checkpoint of its teacher: set model.teacher_ckpt.')
    required_metric(cfg, config)
    return cfg


def _plan(pair: str, methods: Sequence[str], seeds: Sequence[int], root: Path, cfg_options: dict) -> List[Job]:
    """Write ``<method>.py`` for the student alone, the pair and every method; list the trainings, seed after seed."""
    cfg = load_pair(pair, cfg_options)
    cfg.work_dir = str(root)
    rate_unlabeled(cfg, pair, 'val', 'test')  # once for all trainings
    for key in ('work_dir', 'launcher'):
        cfg.pop(key, None)
    alone = {} if without_labels(cfg) else {ALONE: student_config(cfg, exported=False)}
    configs = {**alone, Path(pair).stem.split('_')[0]: cfg}
    for path in methods:
        name = Path(path).stem
        if name in configs:
            raise SetupError(f'Two methods of the comparison are called {name!r}: rename {path!r}.')
        configs[name] = copy.deepcopy(cfg)
        configs[name].merge_from_dict(read_config(path).to_dict())
        configs[name].merge_from_dict(copy.deepcopy(cfg_options))
    root.mkdir(parents=True, exist_ok=True)
    folders = {name: root / name.replace(' ', '-') for name in configs}
    for name, cfg in configs.items():
        hooks = list(cfg.get('custom_hooks') or [])
        if is_distillation(cfg) and all(type_name(hook) != _MONITOR for hook in hooks):
            cfg.custom_hooks = [*hooks, dict(type=_MONITOR)]  # which changes nothing of the training
        cfg.merge_from_dict(checkpoints_apart(cfg, root.name, folders[name].name))
        path = Path(f'{folders[name]}.py')
        if path.exists() and folders[name].exists():
            changed = differences(read_dumped(path), cfg, {**TRAINED, 'load_from': frozenset()})
            if changed:
                raise SetupError(
                    f'{str(folders[name])!r} holds trainings of another config than this comparison would run '
                    f'({describe(changed)}): give another --work-dir, or remove that folder.'
                )
        put_text(cfg.pretty_text, str(path))
    return [
        Job(folder / f'seed{seed}', f'{folder}.py', {'randomness.seed': seed}, method=name)
        for seed in seeds
        for name, folder in folders.items()
    ]


def run_experiment(
    jobs: List[Job],
    root: Path,
    reference: str,
    place: Optional[Local] = None,
    train: bool = True,
    stream: TextIO = sys.stdout,
    **about: object,
) -> dict:
    """Run trainings, evaluate what each of them would deploy, and write figures, tables and pictures.

    What is done is kept, what was interrupted goes on at its last checkpoint. A training whose figures stand in
    ``results.json`` counts as done, whether its folder is still there or not, and stays in the table.

    Args:
        jobs (list[Job]): The trainings.
        root (Path): Takes ``results.json``, ``results.md`` and ``results.png``.
        reference (str): The method that the others are compared with.
        place (Local | Slurm, optional): Where the trainings run. Defaults to None, this machine.
        train (bool): Whether to train what is missing; False reports what is there. Defaults to True.
        stream (TextIO): Takes the progress. Defaults to the standard output.
        **about: Further entries of the results.

    Returns:
        dict: The results, as they are written: ``command``, ``reference``, ``metric``, what ``about`` says, ``methods``
        with a digest of each one's config, and ``runs``, each with ``method``, ``seed`` and what :func:`evaluate` says.

    Raises:
        SetupError: If a training fails, or ``results.json`` has figures of other configs.
    """
    path = root / 'results.json'
    earlier = read_results(path) if path.exists() else dict(methods={}, runs=[])
    digests: Dict[str, str] = {}
    for job in jobs:
        digests[job.method] = digests.get(job.method) or _digest(job)
    for name, digest in earlier['methods'].items():
        if digests.setdefault(name, digest) != digest:
            raise SetupError(
                f'{str(path)!r} holds figures of {name!r} with another config than would run now: give another '
                'folder, or move that file away.'
            )
    runs = list(earlier['runs'])
    new = {(job.method, job.options.get('randomness.seed', 0)): job for job in jobs}
    for run in runs:
        new.pop((run['method'], run['seed']), None)
    if train:
        run_jobs(list(new.values()), place, stream)
    for (method, seed), job in new.items():
        if job.done:
            say(f'evaluating {job.work_dir}', file=stream)
            # The log of the evaluation's own folder has what is said. Loggers keep this stream; nothing closes it.
            with redirect_stdout(io.StringIO()):
                runs.append(dict(method=method, seed=seed, **evaluate(job.work_dir)))
    metric = runs[0]['metric'] if runs else None
    command = earlier.get('command') or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    results = dict(command=command, **about, reference=reference, metric=metric, methods=digests, runs=runs)
    root.mkdir(parents=True, exist_ok=True)
    head, lines = json.dumps({**results, 'runs': []}, indent=2), ',\n    '.join(map(json.dumps, runs))
    text = head.replace('"runs": []', f'"runs": [\n    {lines}\n  ]') + '\n'  # a line for each training
    put_text(text, str(path))  # whole or not at all, as stack/patch.py has it
    write_report(results, root)
    return results


def _digest(job: Job) -> str:
    """Tell one method's config from another's, whatever the seed and the folder."""
    options = {key: value for key, value in job.options.items() if key != 'randomness.seed'}
    cfg = read_config(job.config, options).to_dict()
    cfg.pop('work_dir', None)
    cfg['launcher'] = 'none'  # as in the digests of 0.2.0
    return hashlib.sha256(json.dumps(cfg, sort_keys=True, default=str).encode()).hexdigest()[:12]
