"""An experiment: trainings, one evaluation of each, one file of results, one table."""

import hashlib
import io
import json
import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Dict, List, Optional, TextIO

from mmengine.fileio import load, put

from cankd_mm.config.read import read_config
from cankd_mm.errors import SetupError
from cankd_mm.experiments.evaluate import evaluate
from cankd_mm.experiments.jobs import Job, Local, run_jobs
from cankd_mm.experiments.report import write_report


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
    earlier = load(str(path)) if path.exists() else dict(methods={}, runs=[])
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
    known = {(run['method'], run['seed']) for run in runs}
    new = {(job.method, job.options.get('randomness.seed', 0)): job for job in jobs}
    new = {key: job for key, job in new.items() if key not in known}
    if train:
        run_jobs(list(new.values()), place, stream)
    for (method, seed), job in new.items():
        if job.done:
            print(f'evaluating {job.work_dir}', file=stream, flush=True)
            # The log of the evaluation's own folder has what is said. Loggers keep this stream; nothing closes it.
            with redirect_stdout(io.StringIO()):
                runs.append(dict(method=method, seed=seed, **evaluate(job.work_dir)))
    metric = runs[0]['metric'] if runs else None
    command = earlier.get('command') or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    results = dict(command=command, **about, reference=reference, metric=metric, methods=digests, runs=runs)
    root.mkdir(parents=True, exist_ok=True)
    put(_as_json(results), str(path))  # whole or not at all, as stack/patch.py has it
    write_report(results, root)
    return results


def _as_json(results: dict) -> bytes:
    """Results with a line for each training."""
    head = json.dumps({**results, 'runs': []}, indent=2)
    lines = ',\n    '.join(map(json.dumps, results['runs']))
    return head.replace('"runs": []', f'"runs": [\n    {lines}\n  ]').encode() + b'\n'


def _digest(job: Job) -> str:
    """Tell one method's config from another's, whatever the seed and the folder."""
    options = {key: value for key, value in job.options.items() if key != 'randomness.seed'}
    cfg = read_config(job.config, options).to_dict()
    cfg.pop('work_dir', None)
    text = json.dumps(cfg, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
