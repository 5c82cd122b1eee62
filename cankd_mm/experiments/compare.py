"""Experiments: trainings, one evaluation of each, one table; and comparisons of methods on the same pair."""

import copy
import hashlib
import json
import shlex
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Dict, List, Optional, Sequence, TextIO

from mmengine.config import Config
from mmengine.fileio import put_text

from cankd_mm.apis.against_teacher import rate_unlabeled
from cankd_mm.apis.data import check_data
from cankd_mm.config.differences import TRAINED, describe, differences
from cankd_mm.config.metric import metric_of, required_metric
from cankd_mm.config.pair import is_distillation, student_config, without_labels
from cankd_mm.config.paths import default_work_dir
from cankd_mm.config.read import load_config, read_config, read_dumped
from cankd_mm.config.types import from_timm, type_name
from cankd_mm.errors import SetupError
from cankd_mm.experiments.evaluate import evaluate
from cankd_mm.experiments.jobs import Job, Local, checkpoints_apart, run_jobs, say
from cankd_mm.experiments.report import ALONE, LONGER, method_of, read_results, write_report
from cankd_mm.models.checkpoints import check_checkpoint
from cankd_mm.work_dir import claimed, length_of

_MONITOR = 'CanBlockMonitorHook'
# What a schedule counts in epochs or iterations.
_COUNTED = frozenset(
    'max_epochs max_iters val_interval val_begin dynamic_intervals begin end T_max milestones step_size total_steps '
    'periods'.split()
)


def compare(
    pair: str,
    methods: Sequence[str],
    seeds: Sequence[int] = (0, 1, 2),
    work_dir: Optional[str] = None,
    place: Optional[Local] = None,
    cfg_options: Optional[dict] = None,
    train: bool = True,
    longer: bool = True,
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
        longer (bool): Whether to train the student alone for as much time as the slowest method, too, once that is
            measured; its length is kept in the results as ``longer``. Defaults to True.
        stream (TextIO): Takes the progress. Defaults to the standard output.

    Returns:
        dict: The results, as they are written to ``results.json``.

    Raises:
        SetupError: If something in a config or a path is wrong, or a training fails.
    """
    root = Path(work_dir or default_work_dir(pair, 'compare'))
    configs = _configs(pair, methods, root, cfg_options or {})
    jobs, alone = _jobs(configs, seeds, root), configs.get(ALONE)
    reference = next(name for name in configs if name != ALONE)
    with claimed(root) if train else nullcontext():
        earlier = _earlier(root)
        about = dict(pair=pair, cfg_options=cfg_options or {}, rule=metric_of(configs[reference]).rule)
        run = partial(run_experiment, root=root, reference=reference, place=place, train=train, stream=stream, **about)
        results = run(jobs, longer=earlier.get('longer'))
        if longer and alone is not None:
            if results['longer'] is None:
                results['longer'] = _length(results, alone)
                _write(results, root)  # before it is trained, so that it is not chosen again
            chosen = results['longer']
            if train and chosen is None:
                say(f'No step is timed in {str(root)!r}: there is no {LONGER}.', file=stream)
            if chosen and chosen['length'] != chosen['alone']:
                results = run([*jobs, *_jobs({LONGER: _lengthened(alone, chosen)}, seeds, root)], longer=chosen)
    return results


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


def _configs(pair: str, methods: Sequence[str], root: Path, cfg_options: dict) -> Dict[str, Config]:
    """Make the config of the student alone, of the pair, and of every method."""
    cfg = load_pair(pair, cfg_options)
    cfg.work_dir = str(root)
    rate_unlabeled(cfg, pair, 'val', 'test')  # once for all trainings
    for key in ('work_dir', 'launcher'):
        cfg.pop(key, None)
    alone = {} if without_labels(cfg) else {ALONE: student_config(cfg, exported=False)}
    configs = {**alone, _reference(cfg, pair, root): cfg}
    for path in methods:
        name = Path(path).stem
        if name in configs:
            raise SetupError(f'Two methods of the comparison are called {name!r}: rename {path!r}.')
        configs[name] = copy.deepcopy(cfg)
        configs[name].merge_from_dict(read_config(path).to_dict())
        configs[name].merge_from_dict(copy.deepcopy(cfg_options))
    return configs


def _reference(cfg: Config, pair: str, root: Path) -> str:
    """Name the pair by its loss; a comparison that was begun by its file's name, as in 0.2.0, keeps that."""
    before = Path(pair).stem.split('_')[0]
    if (root / 'results.json').exists() or (root / before).exists():
        return _earlier(root).get('reference', before)
    distiller = cfg.model.get('distiller') or {}
    losses = [distiller.get('loss'), *(distiller.get('distill_losses') or {}).values()]
    names = [method_of(type_name(loss)) for loss in losses if loss]
    return 'cankd' if 'cankd' in names else (names or [before])[0]


def _jobs(configs: Dict[str, Config], seeds: Sequence[int], root: Path) -> List[Job]:
    """Write ``<method>.py`` for every method; list the trainings, seed after seed."""
    root.mkdir(parents=True, exist_ok=True)
    folders = {name: root / name.replace(',', '').replace(' ', '-') for name in configs}
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


def _length(results: dict, alone: Config) -> Optional[dict]:
    """Find how long the student alone trains in the time of the slowest method; None where no time is known."""
    times: Dict[str, List[float]] = {}
    for run in results['runs']:
        if run.get('seconds_per_step'):
            times.setdefault(run['method'], []).append(run['seconds_per_step'])
    medians = {name: median(values) for name, values in times.items()}
    if ALONE not in medians or len(medians) < 2:
        return None
    own = medians.pop(ALONE)
    slowest = max(medians, key=medians.get)
    ((key, length),) = length_of(alone.train_cfg).items()
    ratio, unit = round(medians[slowest] / own, 2), dict(max_epochs='epochs', max_iters='iterations')[key]
    return dict(method=slowest, ratio=ratio, alone=length, length=max(round(ratio * length), length), unit=unit)


def _lengthened(alone: Config, longer: dict) -> Config:
    """Stretch a training: its length, when it is validated, and its schedules."""
    factor = longer['length'] / longer['alone']

    def stretched(value: object, counted: bool = False) -> object:
        if isinstance(value, dict):
            return {key: stretched(entry, key in _COUNTED) for key, entry in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(stretched(entry, counted) for entry in value)
        return round(factor * value) if counted and isinstance(value, int) else value

    cfg = alone.to_dict()
    cfg.update({key: stretched(cfg[key]) for key in ('train_cfg', 'param_scheduler') if key in cfg})
    return Config(cfg)


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
        dict: The results, as they are written: ``command``, ``reference``, ``metric``, ``teacher``, its figure in a
        validation or None, what ``about`` says, ``methods`` with a digest of each one's config, and ``runs``, each with
        ``method``, ``seed`` and what :func:`evaluate` says.

    Raises:
        SetupError: If a training fails, or ``results.json`` has figures of other configs.
    """
    path, earlier = root / 'results.json', _earlier(root)
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
            runs.append(dict(method=method, seed=seed, **evaluate(job.work_dir)))
    metric = runs[0]['metric'] if runs else None
    command = earlier.get('command') or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    teacher = next((run['teacher_value'] for run in runs if run.get('teacher_value') is not None), None)
    found = dict(reference=reference, metric=metric, teacher=earlier.get('teacher') or teacher, methods=digests)
    results = dict(command=command, **about, **found, runs=runs)
    _write(results, root)
    return results


def _earlier(root: Path) -> dict:
    """Read the results that stand in a folder."""
    path = root / 'results.json'
    return read_results(path) if path.exists() else dict(methods={}, runs=[])


def _write(results: dict, root: Path) -> None:
    """Write results, with a line for each training, and their tables and pictures."""
    root.mkdir(parents=True, exist_ok=True)
    head, lines = json.dumps({**results, 'runs': []}, indent=2), ',\n    '.join(map(json.dumps, results['runs']))
    text = head.replace('"runs": []', f'"runs": [\n    {lines}\n  ]') + '\n'
    put_text(text, str(root / 'results.json'))  # whole or not at all, as stack/patch.py has it
    write_report(results, root)


def _digest(job: Job) -> str:
    """Tell one method's config from another's, whatever the seed and the folder."""
    options = {key: value for key, value in job.options.items() if key != 'randomness.seed'}
    cfg = read_config(job.config, options).to_dict()
    cfg.pop('work_dir', None)
    cfg['launcher'] = 'none'  # as in the digests of 0.2.0
    return hashlib.sha256(json.dumps(cfg, sort_keys=True, default=str).encode()).hexdigest()[:12]
