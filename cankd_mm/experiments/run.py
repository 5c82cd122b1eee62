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

from cankd_mm.config.read import load_config
from cankd_mm.errors import SetupError
from cankd_mm.experiments.evaluate import evaluate
from cankd_mm.experiments.jobs import Job, Slots, run_jobs
from cankd_mm.experiments.report import write_report


def run_experiment(
    jobs: List[Job],
    root: Path,
    reference: str,
    place: Optional[Slots] = None,
    train: bool = True,
    stream: TextIO = sys.stdout,
    **about: object,
) -> dict:
    """Run trainings, evaluate what each of them would deploy, and write figures, tables and pictures.

    What is done is kept, what was interrupted goes on at its last checkpoint. A training whose figures stand in
    ``results.json`` counts as done, whether its folder is still there or not, and stays in the table.

    Args:
        jobs (list[Job]): The trainings, those that others need first.
        root (Path): Takes ``results.json``, ``results.md`` and ``results.png``.
        reference (str): The method that the others are compared with.
        place (Slots | Cluster, optional): Where the trainings run. Defaults to None, this machine's :class:`Slots`.
        train (bool): Whether to train what is missing; False reports what is there. Defaults to True.
        stream (TextIO): Takes the progress. Defaults to the standard output.
        **about: What else is to stand in the results.

    Returns:
        dict: The results, as they are written: ``command``, ``reference``, ``metric``, what ``about`` says,
        ``methods`` with a digest of each one's config, and ``runs``, each with ``method``, ``seed`` and what
        :func:`evaluate` says.

    Raises:
        SetupError: If a training fails, or ``results.json`` has figures of other configs.
    """
    path = root / 'results.json'
    earlier = load(str(path)) if path.exists() else dict(methods={}, runs=[])
    digests: Dict[str, str] = {}
    for job in jobs:
        if job.method not in digests:
            digests[job.method] = _digest(job)
    for name, digest in earlier['methods'].items():
        if digests.setdefault(name, digest) != digest:
            raise SetupError(
                f'{str(path)!r} holds figures of {name!r} with another config than would run now: give another '
                'folder, or move that file away.'
            )
    known = {(run['method'], run['seed']) for run in earlier['runs']}
    jobs = [job for job in jobs if (job.method, job.seed) not in known]
    if train:
        run_jobs(jobs, place, stream)
    runs = list(earlier['runs'])
    for job in (job for job in jobs if job.done):
        stream.write(f'evaluating {job.work_dir}\n')
        stream.flush()
        # What is said stands in the log of the evaluation's own folder. Loggers keep this stream; nothing closes it.
        with redirect_stdout(io.StringIO()):
            runs.append(dict(method=job.method, seed=job.seed, **evaluate(job.work_dir)))
    metric = runs[0]['metric'] if runs else None
    command = earlier.get('command') or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    results = dict(command=command, **about, reference=reference, metric=metric, methods=digests, runs=runs)
    root.mkdir(parents=True, exist_ok=True)
    put(_dump(results), str(path))  # whole or not at all, see compat.py
    write_report(results, root)
    return results


def _dump(results: dict) -> bytes:
    """Write results as JSON, with a line for each training."""
    head = json.dumps({**results, 'runs': []}, indent=2)
    lines = ',\n    '.join(map(json.dumps, results['runs']))
    return head.replace('"runs": []', f'"runs": [\n    {lines}\n  ]').encode() + b'\n'


def _digest(job: Job) -> str:
    """Tell one method's config from another's."""
    options = {key: value for key, value in job.options.items() if key != 'randomness.seed'}
    cfg = load_config(job.config, options).to_dict()
    text = json.dumps({k: v for k, v in cfg.items() if k != 'work_dir'}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
