"""Real runs through MMEngine's Runner on tiny models: train, resume, evaluate, export, load without this package."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from mmengine.config import Config
from mmengine.utils import get_installed_path

from cankd_mm.apis import export_student, test, train
from cankd_mm.errors import SetupError
from cankd_mm.work_dir import read_scalars

evaluate = test
del test  # pytest would collect it

TASKS = dict(detection='coco/bbox_mAP', segmentation='mIoU')

# Runs an exported student where neither this package nor MMRazor can be imported.
PLAIN = """
import sys, warnings
warnings.filterwarnings('ignore')
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('cankd_mm', 'mmrazor'):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
for module in [name for name in sys.modules if name.split('.')[0] == 'cankd_mm']:
    del sys.modules[module]  # python -m cankd_mm.plain has started this, for the operators alone
import numpy as np
config, checkpoint, task = sys.argv[1:]
image = np.zeros((128, 128, 3), np.uint8)
if task == 'detection':
    from mmdet.apis import inference_detector, init_detector
    model = init_detector(config, checkpoint, device='cpu')
    result = inference_detector(model, image).pred_instances
else:
    from mmseg.apis import inference_model, init_model
    model = init_model(config, checkpoint, device='cpu')
    result = inference_model(model, image).pred_sem_seg.data
assert model.dataset_meta['classes'][-1] == '9', model.dataset_meta
print(type(model).__name__, len(result))
"""


@pytest.fixture(scope='module', params=list(TASKS))
def run(request, pairs, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('run')
    runner = train(str(pairs[request.param]), work_dir=str(work_dir))
    return request.param, pairs[request.param], work_dir, runner


def test_train_validates_and_saves(run):
    task, _, work_dir, runner = run
    assert runner.iter == 4 and (work_dir / 'epoch_2.pth').exists()
    scalars = next(work_dir.glob('*/vis_data/scalars.json')).read_text()
    assert TASKS[task] in scalars


def test_resume(run):
    _, pair, work_dir, _ = run
    longer = {'train_cfg.max_epochs': 3, 'train_cfg.val_interval': 3}
    runner = train(str(pair), work_dir=str(work_dir), resume='auto', cfg_options=longer)
    assert runner.iter == 6
    optimizer = torch.load(work_dir / 'epoch_3.pth')['optimizer']
    assert all(state['step'] == 6 for state in optimizer['state'].values())


def test_evaluate_student_and_teacher(run):
    task, pair, work_dir, runner = run
    student = evaluate(str(pair), str(work_dir / 'epoch_2.pth'), work_dir=str(work_dir / 'test'))
    assert student[TASKS[task]] == pytest.approx(_last_metric(work_dir, TASKS[task]), abs=1e-6)
    teacher = evaluate(str(pair), teacher=True, work_dir=str(work_dir / 'test'))
    assert TASKS[task] in teacher


def _last_metric(work_dir, key):
    return next(entry[key] for entry in read_scalars(work_dir) if key in entry and entry['step'] == 2)


def test_exported_student_runs_without_this_package(run, tmp_path):
    task, pair, work_dir, _ = run
    config, checkpoint = export_student(str(pair), str(work_dir / 'epoch_2.pth'), str(tmp_path))
    text = Path(config).read_text()
    assert 'cankd' not in text.lower() and 'mmrazor' not in text and '_scope_' not in text
    weights = torch.load(checkpoint, weights_only=True)['state_dict']
    trained = torch.load(work_dir / 'epoch_2.pth')['state_dict']
    assert all(torch.equal(value, trained[key]) for key, value in weights.items())
    assert not any('teacher' in key or 'distiller' in key for key in weights)
    # From another folder, so that this package's own is not on the path.
    script = tmp_path / 'plain.py'
    script.write_text(PLAIN)
    words = [sys.executable, '-m', 'cankd_mm.plain', script, config, checkpoint, task]
    done = subprocess.run(list(map(str, words)), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-2] == ('RetinaNet' if task == 'detection' else 'EncoderDecoder')


def flipped(task, *probabilities):
    """Entries of a config for test-time augmentation: one version of each image for each probability of a flip."""
    kind = dict(detection='Det', segmentation='Seg')[task]
    size = [dict(type='Resize', scale=(128, 128), keep_ratio=True)]
    meta = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
    flips = [dict(type='RandomFlip', prob=p) for p in probabilities]
    steps = [size, flips, [dict(type='LoadAnnotations')], [dict(type=f'Pack{kind}Inputs', meta_keys=meta)]]
    model = dict(type=f'{kind}TTAModel')
    if task == 'detection':
        model['tta_cfg'] = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
    return dict(
        tta_model=model, tta_pipeline=[dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=steps)]
    )


@pytest.mark.parametrize('whose', ['student', 'teacher', pytest.param('model', marks=pytest.mark.full)])
def test_test_time_augmentation(run, tmp_path, whose):
    task, pair, work_dir, _ = run
    config, checkpoint = str(pair), None if whose == 'teacher' else str(work_dir / 'epoch_2.pth')
    if whose == 'model':
        config, checkpoint = export_student(config, checkpoint, str(tmp_path))
    options = dict(teacher=whose == 'teacher', work_dir=str(tmp_path / 'test'))
    predicted, model = [], import_module(dict(detection='mmdet', segmentation='mmseg')[task]).models
    kind = dict(detection='RetinaNet', segmentation='EncoderDecoder')[task]
    with patch.object(
        getattr(model, kind), 'predict', autospec=True, side_effect=getattr(model, kind).predict
    ) as predict:
        plain = evaluate(config, checkpoint, **options)
        predicted.append(predict.call_count)
        once = evaluate(config, checkpoint, tta=True, cfg_options=flipped(task, 0.0), **options)
        twice = evaluate(config, checkpoint, tta=True, cfg_options=flipped(task, 0.0, 1.0), **options)
        assert predict.call_count == 4 * predicted[0]
    if task == 'segmentation':
        assert once == plain != twice
    assert once.keys() == plain.keys() == twice.keys()


@pytest.mark.slow
@pytest.mark.full
def test_test_time_augmentation_is_that_of_the_libraries(run, tmp_path):
    """MMDetection has flips where a config says nothing, and MMSegmentation no default."""
    task, pair, work_dir, _ = run
    config = tmp_path / 'pair.py'
    entries = flipped(task, 0.0, 1.0) if task == 'segmentation' else {}
    config.write_text('\n'.join([f"_base_ = '{pair}'", *(f'{key} = {value!r}' for key, value in entries.items())]))
    student, checkpoint = export_student(str(config), str(work_dir / 'epoch_2.pth'), str(tmp_path))
    library = dict(detection='mmdet', segmentation='mmseg')[task]
    tool = Path(get_installed_path(library)) / '.mim' / 'tools' / 'test.py'
    words = [
        sys.executable,
        '-m',
        'cankd_mm.plain',
        tool,
        student,
        checkpoint,
        '--tta',
        '--work-dir',
        tmp_path / 'plain',
    ]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(next((tmp_path / 'plain').glob('*/*.json')).read_text())
    ours = evaluate(str(config), str(work_dir / 'epoch_2.pth'), tta=True, work_dir=str(tmp_path / 'test'))
    assert {key: theirs[key] for key in ours} == pytest.approx(ours, nan_ok=True)


def test_test_time_augmentation_inside_other_data_sets(run, tmp_path):
    task, pair, work_dir, _ = run
    inner = Config.fromfile(str(pair)).test_dataloader.dataset.to_dict()
    repeated = dict(_delete_=True, type='RepeatDataset', times=1, dataset=inner)
    options = {**flipped(task, 0.0, 1.0), 'test_dataloader.dataset': repeated}
    found = evaluate(str(pair), str(work_dir / 'epoch_2.pth'), tta=True, work_dir=str(tmp_path), cfg_options=options)
    assert TASKS[task] in found


def test_test_time_augmentation_of_no_config(pairs, tmp_path):
    with pytest.raises(SetupError, match='--tta needs tta_model and tta_pipeline, which .* does not say: add them as'):
        evaluate(str(pairs['segmentation']), teacher=True, tta=True, work_dir=str(tmp_path))


@pytest.mark.parametrize(
    'prefix', ['_orig_mod.', *(pytest.param(p, marks=pytest.mark.full) for p in ('module.', 'net.'))]
)
def test_weights_under_a_prefix_are_evaluated_and_exported(run, tmp_path, prefix):
    task, pair, work_dir, _ = run
    saved = torch.load(work_dir / 'epoch_2.pth')
    saved['state_dict'] = {f'{prefix}{key}': value for key, value in saved['state_dict'].items()}
    path = str(tmp_path / 'renamed.pth')
    torch.save(saved, path)
    student = evaluate(str(pair), path, work_dir=str(tmp_path / 'test'))
    assert student[TASKS[task]] == pytest.approx(_last_metric(work_dir, TASKS[task]), abs=1e-6)
    _, checkpoint = export_student(str(pair), path, str(tmp_path))
    for key, value in torch.load(checkpoint, weights_only=True)['state_dict'].items():
        assert torch.equal(value, saved['state_dict'][f'{prefix}{key}'])
    config = pair.with_name(f'{task}_student.py')
    assert evaluate(str(config), checkpoint, work_dir=str(tmp_path / 'plain')) == student


def test_export_names_what_is_not_as_in_the_run(run, tmp_path, monkeypatch):
    """Unless it is given on the command line."""
    _, pair, work_dir, _ = run
    key, checkpoint, said = 'test_dataloader.dataset.pipeline.0.color_type', str(work_dir / 'epoch_2.pth'), []
    monkeypatch.setattr('cankd_mm.config.differences.warn', said.append)
    export_student(str(pair), checkpoint, str(tmp_path / 'same'), {'train_dataloader.batch_size': 2})
    other = pair.with_name('grey.py')
    other.write_text(
        f"_base_ = '{pair.name}'\n"
        'pipeline = [*_base_.test_dataloader.dataset.pipeline]\n'
        "pipeline[0] = dict(type='LoadImageFromFile', color_type='grayscale')\n"
        'test_dataloader = dict(dataset=dict(pipeline=pipeline))\n'
    )
    export_student(str(other), checkpoint, str(tmp_path / 'meant'), {key: 'unchanged'})
    assert said == []
    export_student(str(other), checkpoint, str(tmp_path / 'other'))
    assert len(said) == 1 and f"not that of the run: {key} was None and is 'grayscale'; give the run's own" in said[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is an accelerator')
def test_amp_without_an_accelerator(pairs, tmp_path):
    with pytest.raises(SetupError, match='--amp needs an accelerator'):
        train(str(pairs['segmentation']), work_dir=str(tmp_path), amp=True)


def test_auto_scale_lr(pairs, tmp_path):
    options = {'train_cfg.max_epochs': 1, 'train_cfg.val_begin': 9}
    runner = train(str(pairs['detection']), work_dir=str(tmp_path), auto_scale_lr=True, cfg_options=options)
    assert runner.optim_wrapper.param_groups[0]['initial_lr'] == pytest.approx(2e-3 * 4 / 8)


@pytest.mark.parametrize(
    'changes, words',
    [
        ({'train_dataloader.dataset.data_root': 'nowhere/'}, r"train data set needs 'nowhere/', which does not exist"),
        ({'val_dataloader.dataset.ann_file': 'none.json'}, r"val data set needs '.*none.json'"),
        ({'model.teacher_ckpt': 'nowhere.pth'}, r"checkpoint 'nowhere.pth' does not exist"),
        ({'model.distiller.source': 'nekc'}, r"no module 'nekc'; did you mean 'neck'"),
    ],
)
def test_mistakes(pairs, tmp_path, changes, words):
    with pytest.raises(SetupError, match=words):
        train(str(pairs['detection']), work_dir=str(tmp_path), cfg_options=changes)


def test_resume_from_nowhere(pairs):
    with pytest.raises(SetupError, match="'nowhere.pth' to resume from does not exist"):
        train(str(pairs['detection']), resume='nowhere.pth')


def test_teacher_of_a_plain_config(pairs):
    student = pairs['detection'].with_name('detection_student.py')
    with pytest.raises(SetupError, match='no teacher in this config'):
        evaluate(str(student), 'any.pth', teacher=True)


def test_export_keeps_other_custom_imports(pairs):
    from cankd_mm.config.pair import student_config

    cfg = Config.fromfile(str(pairs['detection']))
    cfg.custom_imports = dict(imports=['cankd_mm', 'json'], allow_failed_imports=False)
    assert student_config(cfg).custom_imports.imports == ['json']
