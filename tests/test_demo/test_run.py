import io
import json

import numpy as np
import pytest
import torch

from cankd_mm.demo import report
from cankd_mm.demo.plan import TASKS, plan
from cankd_mm.demo.scenes import Scene
from cankd_mm.errors import SetupError
from cankd_mm.experiments.jobs import Job, Local, run_jobs
from cankd_mm.experiments.report import ALONE

pytestmark = pytest.mark.slow


def test_plan_trains_teachers_before_their_students(tmp_path):
    for task in TASKS:
        seen = set()
        for job in plan(task, tmp_path, tmp_path, seeds=[0, 1], controls=True):
            assert job.needs is None or job.needs in seen
            seen.add(job.work_dir)
        assert len(seen) == 10


def test_distilled_student_and_student_alone_differ_in_nothing_but_the_distillation(tmp_path):
    for task in TASKS:
        jobs = {job.work_dir.name: job for job in plan(task, tmp_path, tmp_path, seeds=[7])}
        alone, distilled = jobs['student_seed7'], jobs['cankd_seed7']
        extra = {'model.teacher_ckpt': str(jobs['teacher'].work_dir / f'epoch_{task.teacher_epochs}.pth')}
        assert distilled.options == {**alone.options, **extra}


def test_failed_training_names_its_log(tmp_path):
    job = Job(tmp_path / 'job', 'configs/nowhere.py', {'train_cfg.max_epochs': 1})
    with pytest.raises(SetupError, match=r"'configs/nowhere.py' does not exist.*train.log"):
        run_jobs([job], Local(1), stream=io.StringIO())


def test_demo_from_end_to_end(digits, forked, tmp_path, monkeypatch, capsys):
    """The way of `make demo-quick`, on a few scenes; the second call has nothing left to do."""
    from cankd_mm.demo import run

    monkeypatch.setattr('cankd_mm.demo.plan.NUM_TRAIN', 8)
    monkeypatch.setattr('cankd_mm.demo.plan.NUM_SMALL', 8)
    table = run.run_demo(tmp_path, quick=True, tasks=['detection'], data=digits)
    results = json.loads((tmp_path / 'detection' / 'results.json').read_text())
    runs = results['runs']
    assert [run['method'] for run in runs] == list(results['methods']) == ['teacher, 2000 scenes', ALONE, 'cankd']
    assert all(f'| {method} ' in table for method in results['methods'])
    assert runs[1]['parameters'] == runs[2]['parameters'] < runs[0]['parameters']
    assert runs[0]['machine']['versions']['mmdet'] and results['metric'] == 'box AP'
    assert (tmp_path / 'comparison.jpg').stat().st_size > 10000
    page = (tmp_path / 'detection_page' / 'report.html').read_text()
    assert 'student alone' in page and 'What it changed' in page
    monkeypatch.setattr(run, 'run_jobs', lambda jobs: [1 / 0 for job in jobs if not job.done])
    assert run.run_demo(tmp_path, quick=True, tasks=['detection'], data=digits) == table
    assert 'Logging error' not in capsys.readouterr().err  # of loggers that keep a stream that was closed


def test_a_doubtful_second_name_is_not_drawn_over_the_first():
    scene = Scene(np.zeros((128, 128, 3), np.uint8), [(10, 10, 20, 30), (60, 60, 20, 30)], [3, 7], None)
    boxes = torch.tensor([[10.0, 10, 30, 40], [11, 10, 31, 40], [60, 60, 80, 90], [0, 90, 20, 120]])
    found = dict(bboxes=boxes, scores=torch.tensor([0.9, 0.4, 0.8, 0.2]), labels=torch.tensor([3, 8, 1, 5]))
    drawn = report._found_boxes(dict(pred_instances=found), scene)
    assert [(label, colour) for _, label, colour in drawn] == [(3, 'lime'), (1, 'red')]
