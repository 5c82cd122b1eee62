import io
import json

import cv2
import pytest
import torch

from cankd_mm.demo import report
from cankd_mm.demo.run import TASKS, plan
from cankd_mm.demo.scenes import SceneComposer
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
        jobs = {job.work_dir.name: job for job in plan(task, tmp_path, tmp_path, seeds=[7], length='full')}
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

    root = tmp_path / 'my demo, new'

    monkeypatch.setitem(run.LENGTHS, 'quick', (0, 0, 8))
    table = run.run_demo(root, length='quick', tasks=['detection'], data=digits)
    results = json.loads((root / 'detection' / 'results.json').read_text())
    runs = results['runs']
    assert [run['method'] for run in runs] == list(results['methods']) == ['teacher, 2000 scenes', ALONE, 'cankd']
    assert all(f'| {method} ' in table for method in results['methods'])
    assert '\ncankd cannot be told from the student alone with one seed' in table and '\nteacher' not in table
    assert runs[1]['parameters'] == runs[2]['parameters'] < runs[0]['parameters']
    assert runs[0]['machine']['versions']['mmdet'] and results['metric'] == 'box AP'
    assert (root / 'comparison.jpg').stat().st_size > 10000
    page = (root / 'detection_page' / 'report.html').read_text()
    assert 'student alone' in page and 'What it changed' in page
    monkeypatch.setattr(run, 'run_jobs', lambda jobs: [1 / 0 for job in jobs if not job.done])
    assert run.run_demo(root, length='quick', tasks=['detection'], data=digits) == table
    assert 'Logging error' not in capsys.readouterr().err  # of loggers that keep a stream that was closed


def test_the_picture_is_green_where_digits_are_right_and_hides_doubtful_second_names(tmp_path):
    truth = SceneComposer('val')(0)
    boxes = torch.tensor(truth.boxes, dtype=torch.float32)[[0, -1]]
    boxes[:, 2:] += boxes[:, :2]
    labels = torch.tensor([truth.labels[0], (truth.labels[-1] + 1) % 10])
    second = boxes[:1] + torch.tensor([1, 0, 1, 0])  # of another name, on the place of the first
    nowhere = torch.tensor([[0.0, 90, 20, 120]])
    found = dict(
        bboxes=torch.cat([boxes, second, nowhere]),
        scores=torch.tensor([0.9, 0.8, 0.4, 0.2]),
        labels=torch.cat([labels, labels[1:], labels[1:]]),
    )
    samples = [dict(img_path='val/0000.png', pred_instances=found)]
    report.picture({'detection': {'student alone': samples}}, tmp_path / 'picture.png')
    drawn = cv2.imread(str(tmp_path / 'picture.png'))[..., ::-1].astype(int)
    assert drawn.shape == (2 * (26 + 160 + 6), 166, 3)
    there, alone = drawn[26:186, :160], drawn[26 + 192 : 186 + 192, :160]
    red, green, white = (
        (abs(row - colour).max(2) < 60)
        for row, colour in ((alone, (255, 0, 0)), (alone, (0, 255, 0)), (there, (255, 255, 255)))
    )
    for box, colour in zip((1.25 * boxes).int().tolist(), (green, red)):
        edge = slice(box[1] + 10, box[3] - 2), slice(box[0] - 1, box[0] + 2)
        assert white[edge].any(1).all() and colour[edge].any(1).all()
    x1, y1, x2, y2 = (1.25 * boxes[0]).int().tolist()
    assert not red[y1 - 4 : y2 + 4, x1 - 4 : x2 + 4].any(), 'nothing is drawn over the first'
    assert not red[112:150, :24].any(), 'a score below 0.3'


def test_the_picture_of_label_maps(tmp_path):
    scene = SceneComposer('val', cards=True)(0)
    nothing = torch.zeros(1, 128, 128, dtype=torch.long)
    samples = [dict(img_path='val/0000_leftImg8bit.png', pred_sem_seg=dict(data=nothing))]
    report.picture({'segmentation': {'student alone': samples}}, tmp_path / 'picture.png')
    drawn = cv2.imread(str(tmp_path / 'picture.png')).astype(int)
    there, alone = drawn[26:186, :160], drawn[26 + 192 : 186 + 192, :160]
    labelled = cv2.resize(scene.label_map, (160, 160), interpolation=cv2.INTER_NEAREST) > 0
    differs = abs(there - alone).max(2) > 10
    assert (differs == labelled).mean() > 0.98
