import os
import socket
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional, Sequence, TextIO

import optuna
from mmengine.config import Config
from optuna.trial import FrozenTrial, Trial, TrialState

from cankd_mm.apis.data import check_data
from cankd_mm.apis.work_dir import METRICS, final_checkpoint, read_scalars
from cankd_mm.config.pair import is_distillation
from cankd_mm.config.paths import default_work_dir
from cankd_mm.config.read import load_config
from cankd_mm.config.write import write_changes
from cankd_mm.errors import SetupError
from cankd_mm.experiments.compare_plan import count_iters
from cankd_mm.experiments.jobs import Job, Slots, failure_of
from cankd_mm.experiments.tune_report import shown, write_report
from cankd_mm.experiments.tune_space import DEFAULT, Space, make_space
from cankd_mm.models.checkpoints import check_checkpoint

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
    place: Optional[Slots] = None,
    cfg_options: Optional[dict] = None,
    stream: TextIO = sys.stdout,
) -> Path:
    """Search on the validation set for what users otherwise guess, with Optuna.

    Every trial is an ordinary ``cankd train`` of ``trial_<number>.py``, a config of a few lines. Trials that lie below
    the median of the others at an intermediate validation are given up. Several calls, on one machine or on many, share
    one storage and one search. What was interrupted goes on at its last checkpoint when the search is called again.

    Args:
        config (str): The config of a pair.
        search (Sequence[str]): What is searched, see :func:`make_space`. Defaults to ``('weight', 'levels', 'init')``.
        trials (int): How many trials the search has, those of other calls included. Defaults to 20.
        hours (float, optional): After how much time no trial is begun. Defaults to None, any.
        seed (int): Of every training. Defaults to 0.
        storage (str, optional): An address that Optuna knows. Defaults to None, a SQLite file in ``work_dir``.
        work_dir (str, optional): Takes configs, trainings, and the report. Defaults to None,
            ``./work_dirs/tune/<name of the config>``.
        place (Slots | Cluster, optional): Where the trainings run. Defaults to None, this machine's :class:`Slots`.
        cfg_options (dict, optional): Entries that override the config's in every trial. Defaults to None.
        stream (TextIO): Takes the progress. Defaults to the standard output.

    Returns:
        Path: ``tuned.py``, the config of the best trial; ``report.html`` lies beside it.

    Raises:
        SetupError: If something in the config, what is searched or a path is wrong, or if no training succeeds.
    """
    cfg = load_config(config, cfg_options)
    if not is_distillation(cfg):
        raise SetupError(f'{config!r} is no distillation config: give one that has a teacher and a student.')
    check_data(cfg, 'train', 'val')
    if cfg.model.get('teacher_ckpt'):
        check_checkpoint(cfg.model.teacher_ckpt, 'teacher')
    root = Path(work_dir or default_work_dir(config, 'tune'))
    root.mkdir(parents=True, exist_ok=True)
    space = make_space(cfg, search)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=Path(config).stem,
        storage=storage or f'sqlite:///{root / "study.db"}',
        direction='maximize',
        load_if_exists=True,
        # What several calls propose is not to be the same.
        sampler=optuna.samplers.TPESampler(seed=seed if storage is None else None, n_startup_trials=6),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
    )
    _check_same(study, config, space, cfg_options, seed)
    _take_up(study)
    _Search(study, config, cfg, space, root, seed, dict(cfg_options or {}), stream).run(trials, hours, place)
    return write_report(study, root, config)


class _Search:
    """One call's part in a search."""

    def __init__(
        self,
        study: optuna.Study,
        config: str,
        cfg: Config,
        space: Space,
        root: Path,
        seed: int,
        cfg_options: dict,
        stream: TextIO,
    ) -> None:
        self.study, self.config, self.cfg, self.space = study, config, cfg, space
        self.root, self.seed, self.cfg_options, self.stream = root, seed, cfg_options, stream
        self.iters = count_iters(cfg)
        self.metric: Optional[str] = study.user_attrs.get('metric')

    def run(self, trials: int, hours: Optional[float], place: Optional[Slots]) -> None:
        """Try until there are enough trials, or the time is over."""
        end = None if hours is None else time.monotonic() + 3600 * hours
        running: Dict[Path, Trial] = {}
        failed = 0
        with place or Slots() as place:
            while True:
                wanted = trials - self._count(*_OVER, TrialState.RUNNING)
                if wanted > 0 and place.free and (end is None or time.monotonic() < end):
                    trial = self.study.ask(self.space.distributions)
                    job = self._job(trial)
                    running[job.work_dir] = trial
                    if not job.done:
                        place.start(job)
                        continue
                    ended = [(job, True)]  # interrupted when it was all but told
                elif not running:
                    return
                else:
                    ended = place.ended()
                for job in place.running:
                    if self._is_poor(running[job.work_dir], job):
                        place.end(job)
                        self._tell(running.pop(job.work_dir), job, TrialState.PRUNED)
                for job, done in ended:
                    trial = running.pop(job.work_dir)
                    self._report(trial, job)
                    if done:
                        self._tell(trial, job, TrialState.COMPLETE)
                        continue
                    failed += 1
                    self.study.tell(trial, state=TrialState.FAIL)
                    if failed >= _FAILURES and not self._count(*_OVER):
                        raise failure_of(job)
                    self._say(str(failure_of(job)))

    def _count(self, *states: TrialState) -> int:
        return len(self.study.get_trials(False, states))

    def _job(self, trial: Trial) -> Job:
        """Write down what a trial chooses."""
        number = trial.user_attrs.get('folder', trial.number)
        for key, value in dict(folder=number, host=socket.gethostname(), pid=os.getpid()).items():
            trial.set_user_attr(key, value)
        options = {**self.cfg_options, **self.space.options(trial.params)}
        path = self.root / f'trial_{number:03d}.py'
        write_changes(path, self.config, options)
        self._say(f'trial {number}: {", ".join(f"{name} {shown(value)}" for name, value in trial.params.items())}')
        seed = {'randomness.seed': self.seed}
        return Job(path.with_suffix(''), str(path), seed, final_checkpoint(self.cfg.train_cfg), self.iters, 0.2)

    def _report(self, trial: Trial, job: Job) -> int:
        """Report what a training has validated, and count it."""
        values = self._validated(job.work_dir)
        known = trial.user_attrs.get('reported', 0)
        for number in range(known, len(values)):
            trial.report(values[number], number)
        if len(values) > known:
            trial.set_user_attr('reported', len(values))
        return len(values) - known

    def _is_poor(self, trial: Trial, job: Job) -> bool:
        return bool(self._report(trial, job)) and trial.should_prune()

    def _tell(self, trial: Trial, job: Job, state: TrialState) -> None:
        values = self._validated(job.work_dir)
        if not values:
            self.study.tell(trial, state=TrialState.FAIL)
            raise SetupError(
                f'The training {job.work_dir} was not validated by a metric that is known here '
                f'({", ".join(METRICS)}): set val_evaluator, and train_cfg.val_interval so that it ends with one.'
            )
        complete = state == TrialState.COMPLETE
        self.study.tell(trial, values[-1] if complete else None, None if complete else state)
        self._say(
            f'trial {trial.user_attrs["folder"]}: {self.metric} {values[-1]:.2f}{"" if complete else ", given up"}'
        )

    def _validated(self, work_dir: Path) -> List[float]:
        entries = [entry for entry in read_scalars(work_dir) if 'loss' not in entry]
        if self.metric is None:
            keys = {key for entry in entries for key in entry}
            self.metric = next((name for name, (key, _) in METRICS.items() if key in keys), None)
            if self.metric is None:
                return []
            self.study.set_user_attr('metric', self.metric)
        key, factor = METRICS[self.metric]
        return [factor * entry.get(key, 0.0) for entry in entries]  # of what detects nothing, nothing is reported

    def _say(self, text: str) -> None:
        self.stream.write(f'{text}\n')
        self.stream.flush()


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
    if trial.user_attrs.get('host') != socket.gethostname():
        return False
    try:
        os.kill(trial.user_attrs['pid'], 0)
    except ProcessLookupError:
        return True
    return trial.user_attrs['pid'] == os.getpid()
