"""Every pair goes the whole way: trained, resumed, exported, and evaluated by the plain library's own tool."""

import gc
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cankd_mm.apis import export_student, train
from cankd_mm.config.read import load_model_cfg
from cankd_mm.models.algorithms import feature_distill
from cankd_mm.stack.ops import provided
from tests.test_configs.small import make_data, narrow, shrink
from tests.test_configs.test_recipes import CONFIGS, PAIRS, VARIANTS

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    make_data(folder)
    return folder


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """A process that knows MMDetection and MMSegmentation, but not this package."""
    with open(tmp_path_factory.mktemp('plain') / 'log.txt', 'w') as log:
        worker = subprocess.Popen(
            [sys.executable, '-W', 'ignore', '-m', 'cankd_mm.plain', str(Path(__file__).with_name('plain_worker.py'))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=Path(log.name).parent,  # where this package's own folder is not on the path
            env=dict(os.environ, PYTHONPATH=''),  # Grounding DINO wants transformers
        )
        yield worker
        worker.stdin.close()
        worker.wait()


@pytest.fixture(scope='module')
def tiny_bert(tmp_path_factory):
    """A text encoder of one layer that spells every word, in place of the one that Grounding DINO fetches."""
    transformers = pytest.importorskip('transformers')
    folder = tmp_path_factory.mktemp('bert')
    letters = [chr(code) for code in range(ord('a'), ord('z') + 1)]
    words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '.', '?', *letters, *(f'##{letter}' for letter in letters)]
    (folder / 'vocab.txt').write_text('\n'.join(words))
    transformers.BertTokenizerFast(vocab_file=str(folder / 'vocab.txt')).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words), num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def tmp_path(tmp_path):
    """A folder whose gigabytes are gone after a test that fails, too."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture
def teacher_once(monkeypatch):
    """Build the teacher once for both trainings of a test, with random weights that stand in for those of its file."""
    build, built = feature_distill.build_model, []

    def build_once(model, whose, *args):
        if whose != 'teacher':
            return build(model, whose, *args)
        if not built:
            cfg = load_model_cfg(model) if isinstance(model, str) else model
            built.append(build(narrow(cfg), whose, *args))
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for parameter in built[0].parameters():
                    parameter.normal_(0, 0.02, generator=generator)
        return built[0]

    monkeypatch.setattr(feature_distill, 'build_model', build_once)
    monkeypatch.setattr(feature_distill, 'load_pretrained', lambda *args: None)


# Of a pair with and without what starts from the teacher the former, and the pairs that are of no paper.
ALL = [*(path for path in PAIRS if path not in VARIANTS.values()), *sorted((CONFIGS / 'pairs').glob('*.py'))]


# One-stage, two-stage and without anchors, a transformer, and segmentors of both backbones.
EXAMPLES = (
    'cankd-init_retinanet-r101_retinanet-r50_2x_coco',
    'cankd-init_faster-rcnn-r101_faster-rcnn-r50_2x_coco',
    'cankd-init_fcos-r101_fcos-r50_2x_coco',
    'cankd_deformable-detr-r101_deformable-detr-r50_50e_coco',
    'cankd_pspnet-r101_pspnet-r18_80k_cityscapes-512x1024',
    'cankd_segformer-b5_segformer-b0_160k_ade20k-512x512',
)
CASES = [pytest.param(path, marks=[] if path.stem in EXAMPLES else pytest.mark.full, id=path.stem) for path in ALL]


@pytest.mark.parametrize('path', CASES)
def test_trained_resumed_exported_and_evaluated_elsewhere(path, data, plain, teacher_once, tmp_path, request):
    bert = request.getfixturevalue('tiny_bert') if 'grounding' in path.stem else None
    if 'reppoints' in path.stem and provided() and 'torchvision' not in provided().sources():
        pytest.skip('deformable convolutions come from torchvision')
    cfg = shrink(path, data, bert)
    cfg.model['architecture'] = narrow(cfg.model['architecture'].to_dict())
    cfg.model['teacher_ckpt'] = cfg.model.get('teacher_ckpt') or 'trained_by_the_user.pth'
    config = tmp_path / path.name
    cfg.dump(str(config))

    work_dir, by_epoch = tmp_path / 'run', 'max_epochs' in cfg.train_cfg
    length, name = ('max_epochs', 'epoch') if by_epoch else ('max_iters', 'iter')
    train(str(config), work_dir=str(work_dir))
    gc.collect()
    runner = train(str(config), work_dir=str(work_dir), resume='auto', cfg_options={f'train_cfg.{length}': 2})
    assert runner.iter == 2
    logs = [log.read_text() for log in sorted(work_dir.glob('*/*.log'))]
    assert all('parameters get no gradient' not in log for log in logs)
    assert re.search(r'resumed epoch: \d, iter: 1', logs[1])
    steps = [json.loads(line) for file in work_dir.glob('*/vis_data/scalars.json') for line in file.open()]
    steps = [step for step in steps if 'loss' in step]
    assert len(steps) == 2
    levels = cfg.model.distiller.levels
    levels = levels if isinstance(levels, int) else len(levels)
    for step in steps:
        losses = {key: value for key, value in step.items() if key.startswith('distill.loss')}
        assert len(losses) == levels and all(value > 0 for value in losses.values())
    runner = None
    gc.collect()

    student = export_student(str(config), str(work_dir / f'{name}_2.pth'), str(tmp_path / 'student'))
    plain.stdin.write(f'{cfg.default_scope} {" ".join(student)} {tmp_path / "test"}\n')
    plain.stdin.flush()
    answer = plain.stdout.readline().strip()
    assert answer == 'ok', answer.encode().decode('unicode_escape')[-3000:]
