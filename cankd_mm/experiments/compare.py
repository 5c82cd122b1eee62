"""A comparison: every method on the same pair, with the same seeds."""

import copy
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Dict, List, Optional, Sequence, TextIO

from mmengine.config import Config

from cankd_mm.apis.data import check_data
from cankd_mm.apis.work_dir import claimed
from cankd_mm.config.metric import required_metric
from cankd_mm.config.pair import is_distillation, student_config
from cankd_mm.config.paths import default_work_dir
from cankd_mm.config.read import load_config, read_config
from cankd_mm.config.types import from_timm, type_name
from cankd_mm.errors import SetupError
from cankd_mm.experiments.jobs import Job, Local
from cankd_mm.experiments.report import ALONE
from cankd_mm.experiments.run import run_experiment
from cankd_mm.models.checkpoints import check_checkpoint

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
    """Train a student alone and with every method, with several seeds, and write one table.

    Every training is an ordinary ``cankd train`` with the config ``<method>.py`` that stands in ``work_dir``. What is
    done is kept, what was interrupted goes on, see :func:`run_experiment`.

    Args:
        pair (str): A distillation config.
        methods (Sequence[str]): Config files with what each further method changes in the pair's.
        seeds (Sequence[int]): The seeds of every method. Defaults to (0, 1, 2).
        work_dir (str, optional): Takes configs, work folders, ``results.json``, ``results.md`` and ``results.png``.
            Defaults to None, ``./work_dirs/compare/<name of the pair>``.
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
    configs = _method_configs(pair, methods, cfg_options)
    reference = next(name for name in configs if name != ALONE)
    about = dict(pair=pair, cfg_options=dict(cfg_options or {}))
    with claimed(root) if train else nullcontext():
        return run_experiment(_plan(configs, seeds, root), root, reference, place, train, stream, **about)


def load_pair(config: str, cfg_options: Optional[dict] = None) -> Config:
    """Read a pair whose trainings are to be rated, and check what can be checked before the first of them.

    Raises:
        SetupError: If it is no pair, if its data or the teacher's checkpoint is missing, or if nothing rates a run.
    """
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


def _method_configs(pair: str, methods: Sequence[str], cfg_options: Optional[dict] = None) -> Dict[str, Config]:
    """The student alone, the pair under the first part of its file's name, each method under the name of its file."""
    cfg = load_pair(pair, cfg_options)
    for key in ('work_dir', 'launcher'):
        cfg.pop(key, None)
    configs = {ALONE: student_config(cfg, exported=False), Path(pair).stem.split('_')[0]: cfg}
    for path in methods:
        name = Path(path).stem
        if name in configs:
            raise SetupError(f'Two methods of the comparison are called {name!r}: rename {path!r}.')
        configs[name] = copy.deepcopy(cfg)
        configs[name].merge_from_dict(read_config(path).to_dict())
        configs[name].merge_from_dict(copy.deepcopy(cfg_options or {}))
    return configs


def _plan(configs: Dict[str, Config], seeds: Sequence[int], root: Path) -> List[Job]:
    """Write the configs ``<method>.py``, and list the trainings in ``<method>/seed<seed>``, seed after seed."""
    folders = {name: root / name.replace(' ', '-') for name in configs}
    root.mkdir(parents=True, exist_ok=True)
    for name, cfg in configs.items():
        hooks = list(cfg.get('custom_hooks') or [])
        if is_distillation(cfg) and all(type_name(hook) != _MONITOR for hook in hooks):
            cfg.custom_hooks = [*hooks, dict(type=_MONITOR)]  # which changes nothing of the training
        path = Path(f'{folders[name]}.py')
        if path.exists() and folders[name].exists():
            reread = Config.fromstring(cfg.pretty_text, '.py').to_dict()
            if Config.fromfile(str(path)).to_dict() != reread:
                raise SetupError(
                    f'{str(folders[name])!r} holds trainings of another config than this comparison would run: give '
                    'another --work-dir, or remove that folder.'
                )
        cfg.dump(str(path))
    return [
        Job(folder / f'seed{seed}', f'{folder}.py', {'randomness.seed': seed}, method=name)
        for seed in seeds
        for name, folder in folders.items()
    ]
