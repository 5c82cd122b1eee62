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

MONITOR = 'CanBlockMonitorHook'


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
        methods (Sequence[str]): Config files with what each further method changes in the pair's, such as
            ``model = dict(distiller=dict(loss=dict(_delete_=True, type='PKDLoss', loss_weight=10)))``.
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
    configs = method_configs(pair, methods, cfg_options)
    reference = next(name for name in configs if name != ALONE)
    about = dict(pair=pair, cfg_options=dict(cfg_options or {}))
    with claimed(root) if train else nullcontext():
        return run_experiment(plan(configs, seeds, root), root, reference, place, train, stream, **about)


def load_pair(config: str, cfg_options: Optional[dict] = None) -> Config:
    """Read a pair whose trainings are to be rated, and check what can be checked before the first of them.

    Args:
        config (str): A distillation config.
        cfg_options (dict, optional): Entries that override the config's. Defaults to None.

    Returns:
        Config: The config.

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


def method_configs(pair: str, methods: Sequence[str], cfg_options: Optional[dict] = None) -> Dict[str, Config]:
    """Put every method on a pair.

    Args:
        pair (str): A distillation config.
        methods (Sequence[str]): Config files with what a method changes in the pair's.
        cfg_options (dict, optional): Entries that override those of every config. Defaults to None.

    Returns:
        dict[str, Config]: The student alone, the pair under the first part of its file's name, and every method under
        the name of its file.

    Raises:
        SetupError: If the pair is no distillation, or two methods have one name.
    """
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


def plan(configs: Dict[str, Config], seeds: Sequence[int], root: Path) -> List[Job]:
    """Write the configs of a comparison, and list its trainings, all methods with the first seed first.

    Args:
        configs (dict[str, Config]): By method, as :func:`method_configs` makes them.
        seeds (Sequence[int]): The seeds of every method.
        root (Path): Takes ``<method>.py`` and the work folders ``<method>/seed<seed>``.

    Returns:
        list[Job]: The trainings.

    Raises:
        SetupError: If ``root`` holds trainings of other configs.
    """
    folders = {name: root / name.replace(' ', '-') for name in configs}
    for name, cfg in configs.items():
        _write_config(_with_monitor(cfg), folders[name])
    return [
        Job(folder / f'seed{seed}', f'{folder}.py', {'randomness.seed': seed}, method=name)
        for seed in seeds
        for name, folder in folders.items()
    ]


def _with_monitor(cfg: Config) -> Config:
    """Have a distillation log what its Can blocks add, which changes nothing of the training."""
    hooks = list(cfg.get('custom_hooks') or [])
    if not is_distillation(cfg) or any(type_name(hook) == MONITOR for hook in hooks):
        return cfg
    cfg = copy.deepcopy(cfg)
    cfg.custom_hooks = [*hooks, dict(type=MONITOR)]
    return cfg


def _write_config(cfg: Config, folder: Path) -> None:
    path = folder.with_name(f'{folder.name}.py')
    path.parent.mkdir(parents=True, exist_ok=True)
    # As it is once it has been written and read.
    if path.exists() and folder.exists() and Config.fromfile(str(path)).to_dict() != _reread(cfg):
        raise SetupError(
            f'{str(folder)!r} holds trainings of another config than this comparison would run: give another '
            '--work-dir, or remove that folder.'
        )
    cfg.dump(str(path))


def _reread(cfg: Config) -> dict:
    return Config.fromstring(cfg.pretty_text, '.py').to_dict()
