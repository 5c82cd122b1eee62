import hashlib
import json
import sys
from pathlib import Path
from statistics import median
from typing import Dict, List, Optional, Sequence, TextIO

from mmengine.config import Config
from mmengine.fileio import load, put

from cankd_mm.apis.config import is_distillation
from cankd_mm.compare.plan import ALONE, folder_name, method_configs, plan
from cankd_mm.compare.report import write_report
from cankd_mm.errors import SetupError
from cankd_mm.machine import describe_machine
from cankd_mm.runs import METRICS, Job, Slots, peak_memory, read_scalars, run_jobs, seconds_per_step

_POINTS = 10  # at how many iterations what the Can blocks do is kept


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
    root = Path(work_dir or Path('work_dirs', 'compare', Path(pair).stem))
    configs = method_configs(pair, methods, cfg_options)
    digests = {name: _digest(cfg) for name, cfg in configs.items()}
    earlier = load(str(root / 'results.json')) if (root / 'results.json').exists() else dict(methods={}, runs=[])
    for name, digest in earlier['methods'].items():
        if digests.setdefault(name, digest) != digest:
            raise SetupError(
                f'{str(root / "results.json")!r} holds figures of {name!r} with another config than this comparison '
                'would run: give another --work-dir, or move that file away.'
            )
    names = {folder_name(name): name for name in configs}
    jobs = [(names[job.work_dir.parent.name], job) for job in plan(configs, seeds, root)]
    known = {(run['method'], run['seed']) for run in earlier['runs']}
    jobs = [(name, job) for name, job in jobs if (name, job.options['randomness.seed']) not in known]
    if train:
        run_jobs([job for _, job in jobs], place, stream)
    runs = earlier['runs'] + [_describe(job, name, configs[name]) for name, job in jobs if job.done]
    results = dict(
        pair=pair,
        reference=next(name for name in configs if name != ALONE),
        metric=_rate(runs),
        methods=digests,
        cfg_options=dict(cfg_options or {}),
        runs=runs,
    )
    put(_dump(results), str(root / 'results.json'))  # whole or not at all, see compat.py
    write_report(results, root)
    return results


def _dump(results: dict) -> bytes:
    """Write results as JSON, with a line for each training."""
    head = json.dumps({**results, 'runs': []}, indent=2)
    lines = ',\n    '.join(map(json.dumps, results['runs']))
    return head.replace('"runs": []', f'"runs": [\n    {lines}\n  ]').encode() + b'\n'


def _digest(cfg: Config) -> str:
    """Tell one method's config from another's."""
    text = json.dumps(cfg.to_dict(), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _describe(job: Job, method: str, cfg: Config) -> dict:
    """Gather what a finished training has logged."""
    scalars = read_scalars(job.work_dir)
    # A training shorter than the log's interval logs no step.
    steps = [entry for entry in scalars if 'loss' in entry] or [{}]
    ratios = [entry['distill_to_task'] for entry in steps if 'distill_to_task' in entry]
    distill = [value for key, value in steps[-1].items() if key.startswith('distill.loss')]
    validations = [entry for entry in scalars if 'loss' not in entry]
    loss = cfg.model.distiller.get('loss') if is_distillation(cfg) else None
    return dict(
        method=method,
        seed=job.options['randomness.seed'],
        metrics={key: value for key, value in validations[-1].items() if key not in ('step', 'time', 'data_time')}
        if validations
        else {},
        seconds_per_step=seconds_per_step(job.work_dir),
        peak_mb=peak_memory(job.work_dir),
        distill_to_task=round(median(ratios), 3) if ratios else None,
        distill_loss=round(sum(distill), 4) if distill else None,
        loss=loss and loss.type,
        blocks=_blocks(steps),
        machine=describe_machine(),
    )


def _blocks(steps: List[dict]) -> Dict[str, list]:
    """What the Can blocks' monitor has logged, each quantity as pairs of iteration and value."""
    keys = [key for key in steps[-1] if key.startswith('can/')]
    measured: List[dict] = []
    for entry in steps:
        # What was measured last is logged until it is measured again.
        if keys and keys[0] in entry and (not measured or any(entry[key] != measured[-1][key] for key in keys)):
            measured.append(entry)
    kept = [*measured[: -1 : max(len(measured) // _POINTS, 1)], *measured[-1:]]
    return {key[len('can/') :]: [[int(entry['step']), round(entry[key], 5)] for entry in kept] for key in keys}


def _rate(runs: List[dict]) -> Optional[str]:
    """Pick the metric that all are compared by, and note its value in every run."""
    reported = [key for run in runs for key in run['metrics']]
    name = next((name for name, (key, _) in METRICS.items() if key in reported), None)
    key, factor = METRICS[name] if name else (next(iter(reported), None), 1)
    for run in runs:
        # CocoMetric reports nothing where nothing at all is detected.
        run['value'] = round(factor * run['metrics'].get(key, 0.0), 2)
    return name or key
