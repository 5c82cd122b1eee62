"""A search on the validation set for what users otherwise guess, with Optuna."""

import os
import socket
import sys
import threading
import time
from concurrent.futures import as_completed
from pathlib import Path
from typing import List, Optional, Sequence, TextIO, Tuple

import optuna
import psutil
from optuna.trial import Trial, TrialState

from cankd_mm.apis.against_teacher import rate_unlabeled
from cankd_mm.config.metric import Metric, required_metric
from cankd_mm.config.paths import default_work_dir
from cankd_mm.config.write import write_changes
from cankd_mm.errors import SetupError
from cankd_mm.experiments.compare import load_pair
from cankd_mm.experiments.jobs import Job, Local, checkpoints_apart, say, side_by_side
from cankd_mm.experiments.tune_report import shown, write_report
from cankd_mm.experiments.tune_space import DEFAULT, Space
from cankd_mm.work_dir import read_scalars

_FAILURES = 3  # with none that succeeds, after which a search ends
_OVER = (TrialState.COMPLETE, TrialState.PRUNED)


def tune(
    config: str,
    search: Sequence[str] = DEFAULT,
    trials: int = 20,
    hours: Optional[float] = None,
    seed: int = 0,
    storage: Optional[str] = None,
    work_dir: Optional[str] = None,
    place: Optional[Local] = None,
    cfg_options: Optional[dict] = None,
    stream: TextIO = sys.stdout,
) -> Path:
    """Search on the validation set, and write the best config and a page.

    Every trial is an ordinary ``cankd train`` of ``trial_<number>.py``, a config of a few lines. Trials that lie below
    the median of the others at an intermediate validation are given up. Several calls, on one machine or on many, share
    one storage and one search. What was interrupted goes on at its last checkpoint when the search is called again.

    Args:
        config (str): The config of a pair.
        search (Sequence[str]): What is searched, see :class:`Space`. Defaults to ``('weight', 'levels', 'init')``.
        trials (int): How many trials the search has, those of other calls included. Defaults to 20.
        hours (float, optional): After how much time no trial is begun. Defaults to None, any.
        seed (int): Of every training. Defaults to 0.
        storage (str, optional): An address that Optuna knows. Defaults to None, a SQLite file in ``work_dir``.
        work_dir (str, optional): Takes all that is written. Defaults to ``./work_dirs/tune/<name of the config>``.
        place (Local | Slurm, optional): Where the trainings run. Defaults to None, this machine.
        cfg_options (dict, optional): Entries that override the config's in every trial. Defaults to None.
        stream (TextIO): Takes the progress. Defaults to the standard output.

    Returns:
        Path: ``tuned.py``, the config of the best trial; ``report.html`` lies beside it.

    Raises:
        SetupError: If something in the config, what is searched or a path is wrong, or if no training succeeds.
    """
    cfg, options, place = load_pair(config, cfg_options), cfg_options or {}, place or Local()
    metric, space = required_metric(cfg, config), Space(cfg, search)
    root = Path(work_dir or default_work_dir(config, 'tune'))
    root.mkdir(parents=True, exist_ok=True)
    apart = checkpoints_apart(cfg, root.name)
    study = _open_study(config, metric, space, storage, root, options, seed)
    cfg.work_dir = str(root)
    rate_unlabeled(cfg, config, 'val', 'test')  # whose labels all trials find there
    deadline = time.monotonic() + 3600 * (float('inf') if hours is None else hours)
    lock, failed = threading.Lock(), []

    def work() -> None:
        while not place.stopped:
            with lock:
                begun = len(study.get_trials(False, (*_OVER, TrialState.RUNNING)))
                if begun >= trials or time.monotonic() >= deadline:
                    return
                trial = study.ask(space.distributions)
                number = trial.user_attrs.get('folder', trial.number)
                for key, value in dict(folder=number, host=socket.gethostname(), pid=os.getpid()).items():
                    trial.set_user_attr(key, value)
                path = root / f'trial_{number:03d}.py'
                write_changes(path, config, {**options, **apart, **space.options(trial.params)})
                chosen = ', '.join(f'{name} {shown(value)}' for name, value in trial.params.items())
                say(f'trial {number}: {chosen}', file=stream)
            job = Job(path.with_suffix(''), str(path), {'randomness.seed': seed})
            state, values = _train(trial, job, metric, place)
            if state == TrialState.RUNNING:  # interrupted: the next call takes it up
                return
            with lock:
                study.tell(trial, values[-1] if state == TrialState.COMPLETE else None, state)
                if state != TrialState.FAIL:
                    given_up = ', given up' if state == TrialState.PRUNED else ''
                    say(f'trial {number}: {metric.name} {values[-1]:.2f}{given_up}', file=stream)
                    continue
                failed.append(number)
                if job.done:
                    raise SetupError(
                        f'The training {job.work_dir} was never validated: set train_cfg.val_interval so that it ends '
                        'with a validation.'
                    )
                if len(failed) >= _FAILURES and not study.get_trials(False, _OVER):
                    raise job.failure()
                say(job.failure(), file=stream)

    count = min(place.count or trials, trials)
    with side_by_side(place, count) as pool:
        for future in as_completed([pool.submit(work) for _ in range(count)]):
            future.result()
    return write_report(study, root, config)


def _train(trial: Trial, job: Job, metric: Metric, place: Local) -> Tuple[TrialState, List[float]]:
    """Train, report every validation, and give the trial up where that is poor."""
    values: List[float] = []
    poor = False

    def ends() -> bool:
        nonlocal poor
        validated = [metric.of(entry) for entry in read_scalars(job.work_dir) if 'loss' not in entry]
        new = validated[len(values) :]
        for value in new:
            trial.report(value, len(values))
            values.append(value)
        poor = bool(new) and trial.should_prune()
        return poor

    job.check()
    done = job.done or place.run(job, ends)  # done if an earlier call ended between its end and here
    if place.stopped and not done:
        return TrialState.RUNNING, values
    state = TrialState.PRUNED if poor and not done else TrialState.FAIL
    ends()  # which reports what came last
    return TrialState.COMPLETE if done and values else state, values


def _open_study(
    config: str, metric: Metric, space: Space, storage: Optional[str], root: Path, options: dict, seed: int
) -> optuna.Study:
    """Begin a search, or join the one in the storage, unless that is another."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=Path(config).stem,
        storage=storage or f'sqlite:///{root / "study.db"}',
        direction='maximize' if metric.rule == 'greater' else 'minimize',
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
    )
    ours = dict(
        config=Path(config).name,
        search={name: repr(kind) for name, kind in space.distributions.items()},
        cfg_options={key: str(value) for key, value in options.items()},
        seed=seed,
    )
    theirs = study.user_attrs.get('search', ours)
    if theirs != ours:
        changed = ', '.join(key for key in ours if ours[key] != theirs.get(key))
        raise SetupError(
            f'The search {study.study_name!r} was begun with another {changed}: give another --work-dir or --storage, '
            'or what it was begun with.'
        )
    study.set_user_attr('search', ours)
    study.set_user_attr('metric', metric.name)
    # One call after another is not to propose the same; calls that share a storage draw seeds of their own.
    sampler_seed = None if storage else seed + len(study.trials)
    study.sampler = optuna.samplers.TPESampler(seed=sampler_seed, n_startup_trials=6)
    # What an earlier call on this machine left unfinished comes first, each trial in the folder that it had.
    for trial in study.get_trials(False, (TrialState.RUNNING,)):
        host, pid, folder = map(trial.user_attrs.get, ('host', 'pid', 'folder'))
        if host == socket.gethostname() and (pid == os.getpid() or not psutil.pid_exists(pid)):
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params, user_attrs=dict(folder=folder))
    return study
