"""A search on the validation set for what users otherwise guess, with Optuna."""

import os
import socket
import sys
import threading
import time
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import List, Optional, Sequence, TextIO

import optuna
import psutil
from optuna.trial import FrozenTrial, Trial, TrialState

from cankd_mm.apis.work_dir import read_scalars
from cankd_mm.config.metric import Metric, required_metric
from cankd_mm.config.paths import default_work_dir
from cankd_mm.config.write import write_changes
from cankd_mm.errors import SetupError
from cankd_mm.experiments.compare import load_pair
from cankd_mm.experiments.jobs import Job, Local, side_by_side
from cankd_mm.experiments.tune_report import shown, write_report
from cankd_mm.experiments.tune_space import DEFAULT, Space

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
        work_dir (str, optional): Takes configs, trainings, and the report. Defaults to None,
            ``./work_dirs/tune/<name of the config>``.
        place (Local | Slurm, optional): Where the trainings run. Defaults to None, this machine.
        cfg_options (dict, optional): Entries that override the config's in every trial. Defaults to None.
        stream (TextIO): Takes the progress. Defaults to the standard output.

    Returns:
        Path: ``tuned.py``, the config of the best trial; ``report.html`` lies beside it.

    Raises:
        SetupError: If something in the config, what is searched or a path is wrong, or if no training succeeds.
    """
    cfg = load_pair(config, cfg_options)
    metric, space, place = required_metric(cfg, config), Space(cfg, search), place or Local()
    root = Path(work_dir or default_work_dir(config, 'tune'))
    root.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=Path(config).stem,
        storage=storage or f'sqlite:///{root / "study.db"}',
        direction='maximize' if metric.rule == 'greater' else 'minimize',
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
    )
    # Several calls are not to propose the same, nor one call after another.
    sampler_seed = seed + len(study.trials) if storage is None else None
    study.sampler = optuna.samplers.TPESampler(seed=sampler_seed, n_startup_trials=6)
    _check_same(study, config, space, cfg_options, seed)
    _take_up(study)
    study.set_user_attr('metric', metric.name)
    deadline = time.monotonic() + 3600 * (float('inf') if hours is None else hours)
    search = _Search(study, config, metric, space, root, seed, cfg_options or {}, trials, deadline, place, stream)
    count = max(min(place.count or trials, trials), 1)
    with side_by_side(place, count) as pool:
        for future in as_completed([pool.submit(search.work) for _ in range(count)]):
            future.result()
    return write_report(study, root, config)


@dataclass
class _Search:
    """One call's part in a search; several threads work at it."""

    study: optuna.Study
    config: str
    metric: Metric
    space: Space
    root: Path
    seed: int
    options: dict
    trials: int
    deadline: float
    place: Local
    stream: TextIO
    failed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def work(self) -> None:
        """Run trial after trial until there are enough, or the time is over."""
        while not self.place.stopped:
            with self.lock:
                begun = len(self.study.get_trials(False, (*_OVER, TrialState.RUNNING)))
                if begun >= self.trials or time.monotonic() >= self.deadline:
                    return
                trial = self.study.ask(self.space.distributions)
            self._run(trial)

    def _run(self, trial: Trial) -> None:
        number = trial.user_attrs.get('folder', trial.number)
        for key, value in dict(folder=number, host=socket.gethostname(), pid=os.getpid()).items():
            trial.set_user_attr(key, value)
        path = self.root / f'trial_{number:03d}.py'
        job = Job(path.with_suffix(''), str(path), {'randomness.seed': self.seed})
        with self.lock:
            write_changes(path, self.config, {**self.options, **self.space.options(trial.params)})
            chosen = ', '.join(f'{name} {shown(value)}' for name, value in trial.params.items())
            print(f'trial {number}: {chosen}', file=self.stream, flush=True)
        poor = threading.Event()  # the trial is given up

        def ends() -> bool:
            if self._report(trial, job) and trial.should_prune():
                poor.set()
            return poor.is_set()

        done = job.done or self.place.run(job, ends)  # done where it was interrupted when it was all but told
        if self.place.stopped and not done:
            return  # the next call takes it up
        self._report(trial, job)
        values = self._validated(job)
        with self.lock:
            if not (done or poor.is_set()):
                self._fail(trial, job)
            elif not values:
                self.study.tell(trial, state=TrialState.FAIL)
                raise SetupError(
                    f'The training {job.work_dir} was never validated: set train_cfg.val_interval so that it ends with '
                    'a validation.'
                )
            else:
                self.study.tell(trial, *((None, TrialState.PRUNED) if poor.is_set() else (values[-1],)))
                given_up = ', given up' if poor.is_set() else ''
                words = f'trial {number}: {self.metric.name} {values[-1]:.2f}{given_up}'
                print(words, file=self.stream, flush=True)

    def _fail(self, trial: Trial, job: Job) -> None:
        self.study.tell(trial, state=TrialState.FAIL)
        self.failed += 1
        if self.failed >= _FAILURES and not self.study.get_trials(False, _OVER):
            raise job.failure()
        print(job.failure(), file=self.stream, flush=True)

    def _report(self, trial: Trial, job: Job) -> bool:
        """Report what a training has validated, and tell whether there is something new."""
        values, known = self._validated(job), trial.user_attrs.get('reported', 0)
        for step in range(known, len(values)):
            trial.report(values[step], step)
        if len(values) > known:
            trial.set_user_attr('reported', len(values))
        return len(values) > known

    def _validated(self, job: Job) -> List[float]:
        return [self.metric.of(entry) for entry in read_scalars(job.work_dir) if 'loss' not in entry]


def _check_same(study: optuna.Study, config: str, space: Space, cfg_options: Optional[dict], seed: int) -> None:
    """Refuse to mix two searches."""
    ours = dict(
        config=Path(config).name,
        search={name: repr(kind) for name, kind in space.distributions.items()},
        cfg_options={key: str(value) for key, value in (cfg_options or {}).items()},
        seed=seed,
    )
    theirs = study.user_attrs.get('search')
    if theirs is None:
        study.set_user_attr('search', ours)
    elif theirs != ours:
        changed = ', '.join(key for key in ours if ours[key] != theirs.get(key))
        raise SetupError(
            f'The search {study.study_name!r} was begun with another {changed}: give another --work-dir or --storage, '
            'or what it was begun with.'
        )


def _take_up(study: optuna.Study) -> None:
    """Put what an earlier call on this machine left unfinished in front, each with the folder that it had."""
    for trial in study.get_trials(False, (TrialState.RUNNING,)):
        if _is_orphan(trial):
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params, user_attrs=dict(folder=trial.user_attrs['folder']))


def _is_orphan(trial: FrozenTrial) -> bool:
    host, pid = (trial.user_attrs.get(key) for key in ('host', 'pid'))
    return host == socket.gethostname() and (pid == os.getpid() or not psutil.pid_exists(pid))
