"""Which trainings a comparison consists of: every method on the same pair, with the same seeds."""

import copy
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, DefaultScope

from cankd_mm.apis.data import check_data
from cankd_mm.apis.work_dir import final_checkpoint
from cankd_mm.config.pair import is_distillation, student_config
from cankd_mm.config.paths import config_file
from cankd_mm.config.read import load_config
from cankd_mm.errors import SetupError
from cankd_mm.experiments.jobs import Job
from cankd_mm.experiments.report import ALONE
from cankd_mm.models.checkpoints import check_checkpoint

MONITOR = 'CanBlockMonitorHook'


def method_configs(pair: str, methods: Sequence[str], cfg_options: Optional[dict] = None) -> Dict[str, Config]:
    """Put every method on a pair.

    Args:
        pair (str): A distillation config.
        methods (Sequence[str]): Config files with what a method changes in the pair's, such as
            ``model = dict(distiller=dict(loss=dict(_delete_=True, type='PKDLoss', loss_weight=10)))``.
        cfg_options (dict, optional): Entries that override those of every config. Defaults to None.

    Returns:
        dict[str, Config]: The student alone, the pair under the first part of its file's name, and every method under
        the name of its file.

    Raises:
        SetupError: If the pair is no distillation, or two methods have one name.
    """
    cfg = load_config(pair, cfg_options)
    if not is_distillation(cfg):
        raise SetupError(f'{pair!r} is no distillation config: give one that has a teacher and a student.')
    for key in ('work_dir', 'launcher'):
        cfg.pop(key, None)
    configs = {ALONE: student_config(cfg, exported=False), Path(pair).stem.split('_')[0]: cfg}
    for path in methods:
        name = Path(path).stem
        if name in configs:
            raise SetupError(f'Two methods of the comparison are called {name!r}: rename {path!r}.')
        configs[name] = copy.deepcopy(cfg)
        configs[name].merge_from_dict(_read_method(path))
        configs[name].merge_from_dict(copy.deepcopy(cfg_options or {}))
    return configs


def _read_method(path: str) -> dict:
    file = config_file(path)
    if not Path(file).is_file():
        raise SetupError(f'The method {path!r} does not exist: correct the path.')
    return Config.fromfile(file).to_dict()


def plan(configs: Dict[str, Config], seeds: Sequence[int], root: Path) -> List[Job]:
    """Write the configs of a comparison, and list its trainings, all methods with the first seed first.

    Args:
        configs (dict[str, Config]): By method, as :func:`method_configs` makes them.
        seeds (Sequence[int]): The seeds of every method.
        root (Path): Takes ``<method>.py`` and the work folders ``<method>/seed<seed>``.

    Returns:
        list[Job]: The trainings.

    Raises:
        SetupError: If the data or the teacher's checkpoint is missing, or if ``root`` holds trainings of other configs.
    """
    pair = next(cfg for cfg in configs.values() if is_distillation(cfg))
    check_data(pair, 'train', 'val')
    checkpoint = pair.model.get('teacher_ckpt')
    if checkpoint is None:
        raise SetupError('The pair names no checkpoint of its teacher: add --cfg-options model.teacher_ckpt=PATH.')
    check_checkpoint(checkpoint, 'teacher')
    iters = count_iters(pair)
    jobs = []
    for name, cfg in configs.items():
        _write_config(_with_monitor(cfg), root, folder_name(name))
    for seed in seeds:
        for name, cfg in configs.items():
            folder = root / folder_name(name)
            options = {'randomness.seed': seed}
            final = final_checkpoint(cfg.train_cfg)
            jobs.append(Job(folder / f'seed{seed}', f'{folder}.py', options, final, iters, 0.2, method=name))
    return jobs


def folder_name(method: str) -> str:
    """Name the folder of a method.

    Args:
        method (str): The method.

    Returns:
        str: Its name without blanks.
    """
    return method.replace(' ', '-')


def _with_monitor(cfg: Config) -> Config:
    """Have a distillation log what its Can blocks add, which changes nothing of the training."""
    hooks = list(cfg.get('custom_hooks') or [])
    if not is_distillation(cfg) or any(hook.get('type') == MONITOR for hook in hooks):
        return cfg
    cfg = copy.deepcopy(cfg)
    cfg.custom_hooks = [*hooks, dict(type=MONITOR)]
    return cfg


def _write_config(cfg: Config, root: Path, name: str) -> None:
    path = root / f'{name}.py'
    root.mkdir(parents=True, exist_ok=True)
    if path.exists() and (root / name).exists() and Config.fromfile(str(path)).to_dict() != _reread(cfg):
        raise SetupError(
            f'{str(root / name)!r} holds trainings of another config than this comparison would run: give another '
            '--work-dir, or remove that folder.'
        )
    cfg.dump(str(path))


def _reread(cfg: Config) -> dict:
    """The config as it is once it has been written and read."""
    return Config.fromstring(cfg.pretty_text, '.py').to_dict()


def count_iters(cfg: Config) -> int:
    """Count the iterations of a training, for its progress.

    Args:
        cfg (Config): Its config.

    Returns:
        int: The number, with one process.
    """
    if cfg.train_cfg.get('max_iters'):
        return cfg.train_cfg.max_iters
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')):
        dataset = DATASETS.build(ConfigDict(cfg.train_dataloader.dataset))
    return cfg.train_cfg.max_epochs * -(-len(dataset) // cfg.train_dataloader.batch_size)
