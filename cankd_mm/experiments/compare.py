import sys
from pathlib import Path
from typing import Optional, Sequence, TextIO

from cankd_mm.config.paths import default_work_dir
from cankd_mm.experiments.compare_plan import ALONE, method_configs, plan
from cankd_mm.experiments.jobs import Slots
from cankd_mm.experiments.run import run_experiment


def compare(
    pair: str,
    methods: Sequence[str],
    seeds: Sequence[int] = (0, 1, 2),
    work_dir: Optional[str] = None,
    place: Optional[Slots] = None,
    cfg_options: Optional[dict] = None,
    train: bool = True,
    stream: TextIO = sys.stdout,
) -> dict:
    """Train a student alone and with every method, with several seeds, and write one table.

    Every training is an ordinary ``cankd train`` with the config ``<method>.py`` that stands in ``work_dir``. What
    is done is kept, what was interrupted goes on at its last checkpoint. A training whose figures stand in
    ``results.json`` counts as done, whether its folder is still there or not, and stays in the table.

    Args:
        pair (str): A distillation config.
        methods (Sequence[str]): Config files with what each further method changes in the pair's.
        seeds (Sequence[int]): The seeds of every method. Defaults to (0, 1, 2).
        work_dir (str, optional): Takes configs, work folders, ``results.json``, ``results.md`` and ``results.png``.
            Defaults to None, ``./work_dirs/compare/<name of the pair>``.
        place (Slots | Cluster, optional): Where the trainings run. Defaults to None, this machine's :class:`Slots`.
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
    jobs = plan(configs, seeds, root)
    reference = next(name for name in configs if name != ALONE)
    return run_experiment(jobs, root, reference, place, train, stream, pair=pair, cfg_options=dict(cfg_options or {}))
