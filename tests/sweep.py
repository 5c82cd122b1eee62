"""One model of every family of both zoos, distilled from a sibling, from `cankd pair` to the plain library.

    python -m tests.sweep OUT.jsonl [mmdet/retinanet mmseg/pspnet ...]

writes a line of JSON for each family, at full architecture on small images, with random weights, on a processor. What
OUT.jsonl holds already is left out, so that it goes on where it stopped.
"""

import argparse
import copy
import json
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import defaultdict
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub

warnings.filterwarnings('ignore')

import cankd_mm  # noqa: E402, F401
from cankd_mm.apis import export_student, train  # noqa: E402
from cankd_mm.apis.pair import write_pair  # noqa: E402
from cankd_mm.apis.pair.zoo import zoo  # noqa: E402
from cankd_mm.config.pair import student_config  # noqa: E402
from cankd_mm.config.read import load_config, load_model_cfg  # noqa: E402
from cankd_mm.errors import SetupError, explain, reason_of  # noqa: E402
from cankd_mm.models.algorithms import feature_distill  # noqa: E402
from cankd_mm.models.builders import build_model  # noqa: E402
from cankd_mm.models.distillers.probe import PROBE_SIZES, probe  # noqa: E402
from tests.test_configs.small import offline, small_batches, small_images  # noqa: E402

MINUTES = 12  # for a family
SIDES = (128, 512)
CLASSES = ('cat', 'dog', 'bird')


def families():
    """The models of the zoos by folder: those of a metafile, without what is no training of a model."""
    found = defaultdict(list)
    for model in zoo():
        package, path = model.config.split('::')
        found[f'{package}/{path.split("/")[0]}'].append(model)
    return {family: models for family, models in found.items() if not family.endswith('/common')}


def siblings(models):
    """A teacher and a student: the two with the lowest figures of one data set and metric, which are the smallest."""
    by_metric = defaultdict(dict)
    for model in models:
        for dataset, metrics in model.figures.items():
            for metric, value in metrics.items():
                by_metric[dataset, metric].setdefault(model.config, value)
    ranked = max(by_metric.values(), key=len, default={})
    order = sorted(ranked, key=ranked.get) or sorted(model.config for model in models)
    return order[min(1, len(order) - 1)], order[0]


def make_data(folder, side):
    """Data of three classes for boxes and masks, label maps, and panoptic segmentation, and a config of each."""
    rng = np.random.RandomState(0)
    (folder / 'images').mkdir(parents=True)
    (folder / 'labels').mkdir()
    (folder / 'panoptic').mkdir()
    images, boxes, segments = [], [], []
    for i in range(4):
        images.append(dict(id=i, file_name=f'{i}.jpg', height=side, width=side))
        cv2.imwrite(str(folder / 'images' / f'{i}.jpg'), rng.randint(0, 255, (side, side, 3), np.uint8))
        labels = rng.randint(0, len(CLASSES), (8, 8)).astype(np.uint8)
        cv2.imwrite(str(folder / 'labels' / f'{i}.png'), cv2.resize(labels, (side, side), interpolation=0))
        x, w = side // 5, side // 2
        outline = [x, x, x + w, x, x + w, x + w, x, x + w]
        for k, (kind, at) in enumerate([(1, x), (2, x // 2)]):
            boxes.append(
                dict(
                    id=2 * i + k + 1,
                    image_id=i,
                    category_id=kind,
                    bbox=[at, at, w, w],
                    area=w * w,
                    iscrowd=0,
                    segmentation=[[value - x + at for value in outline]],
                )  # fmt: skip
            )
        parts = np.zeros((side, side, 3), np.uint8)  # blue, green, red: the number of a part is in red
        parts[..., 2] = 1
        parts[x : x + w, x : x + w, 2] = 2
        cv2.imwrite(str(folder / 'panoptic' / f'{i}.png'), parts)
        parts = [dict(id=1, category_id=200, iscrowd=0, area=side**2 - w * w, bbox=[0, 0, side, side]),
                 dict(id=2, category_id=1, iscrowd=0, area=w * w, bbox=[x, x, w, w])]  # fmt: skip
        segments.append(dict(image_id=i, file_name=f'{i}.png', segments_info=parts))
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    (folder / 'boxes.json').write_text(json.dumps(dict(images=images, annotations=boxes, categories=categories)))
    from mmdet.datasets import CocoPanopticDataset

    names = CocoPanopticDataset.METAINFO
    things = [dict(id=i + 1, name=name, isthing=1) for i, name in enumerate(names['thing_classes'])]
    stuff = [dict(id=200 + i, name=name, isthing=0) for i, name in enumerate(names['stuff_classes'])]
    (folder / 'panoptic.json').write_text(
        json.dumps(dict(images=images, annotations=segments, categories=[*things, *stuff]))
    )
    config = (
        "data = dict(type='{}', data_root='{}/', {})\n"
        'train_dataloader = dict(dataset=data)\nval_dataloader = dict(dataset=data)\ntest_dataloader = val_dataloader\n'
        'val_evaluator = {}\ntest_evaluator = val_evaluator\n'
    )
    for name, (kind, where, evaluator) in dict(
        boxes=(
            'CocoDataset',
            f"ann_file='boxes.json', data_prefix=dict(img='images/'), metainfo=dict(classes={CLASSES})",
            f"dict(type='CocoMetric', ann_file='{folder}/boxes.json', metric='bbox')",
        ),
        labels=(
            'BaseSegDataset',
            f"data_prefix=dict(img_path='images', seg_map_path='labels'), img_suffix='.jpg', seg_map_suffix='.png', "
            f'metainfo=dict(classes={CLASSES}, palette=[[0, 0, 0], [1, 1, 1], [2, 2, 2]])',
            "dict(type='IoUMetric', iou_metrics=['mIoU'])",
        ),
        panoptic=(
            'CocoPanopticDataset',
            "ann_file='panoptic.json', data_prefix=dict(img='images/', seg='panoptic/')",
            f"dict(type='CocoPanopticMetric', ann_file='{folder}/panoptic.json', seg_prefix='{folder}/panoptic/')",
        ),
    ).items():
        (folder / f'{name}.py').write_text(config.format(kind, folder, where, evaluator))


def data_of(student, folder):
    """The config of the data that a student's pipeline reads."""
    cfg = load_config(student)
    if cfg.get('default_scope') == 'mmseg':
        return folder / 'labels.py'
    dataset = cfg.train_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    panoptic = dataset.type == 'CocoPanopticDataset'
    return folder / ('panoptic.py' if panoptic else 'boxes.py')


def side_of(student, side):
    """How large images have to be."""
    model = build_model(ConfigDict(offline(load_model_cfg(student).to_dict())), 'student')
    sources = [name for name in ('neck', 'backbone') if isinstance(getattr(model, name, None), torch.nn.Module)]
    if not sources:  # of which `cankd pair` says what it makes
        return side
    try:
        size = probe(model, sources[0], 'student', training=True)[0].image
    except SetupError:  # it gives more than maps
        return side
    return side if size == PROBE_SIZES[0] else max(size)


def shrink(path, side):
    """A pair on small images that trains for one iteration."""
    cfg = load_config(str(path))
    cfg.model = ConfigDict(offline(cfg.model.to_dict()))
    cfg.model.teacher = ConfigDict(offline(load_model_cfg(cfg.model.teacher).to_dict()))
    for split in ('val', 'test'):  # nothing is evaluated
        cfg.update({f'{split}_{part}': None for part in ('cfg', 'dataloader', 'evaluator')})
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False, batch_size=2)
    cfg.train_dataloader.pop('prefetch_factor', None)
    dataset = cfg.train_dataloader.dataset
    while dataset is not None:
        if 'pipeline' in dataset:
            dataset.pipeline = small_images(dataset.pipeline, side)
        dataset = dataset.get('dataset')
    if cfg.model.architecture.get('data_preprocessor'):
        small_batches(cfg, side)
    length = 'max_iters' if 'max_iters' in cfg.train_cfg else 'max_epochs'
    cfg.train_cfg[length] = 1
    if cfg.optim_wrapper.get('type') == 'AmpOptimWrapper':  # for accelerators alone
        cfg.optim_wrapper.type = 'OptimWrapper'
        cfg.optim_wrapper.pop('loss_scale', None)
        cfg.optim_wrapper.pop('dtype', None)
    if 'lr' in cfg.optim_wrapper.get('optimizer', {}):
        cfg.optim_wrapper.optimizer.lr = 1e-6  # of random weights, with which some training ends in no number
    if length == 'max_epochs':  # of two iterations
        cfg.train_cfg.pop('dynamic_intervals', None)
    cfg.default_hooks.checkpoint.update(interval=1)
    for key in ('save_best', 'max_keep_ckpts'):
        cfg.default_hooks.checkpoint.pop(key, None)
    cfg.work_dir, cfg.load_from = str(path.parent / 'run'), None
    cfg.dump(str(path.with_name('small.py')))
    return str(path.with_name('small.py')), length


def random_weights(model, init_cfg, whose):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02, generator=generator)


def step(model, batch):
    """Losses of a step, and which parameters get no gradient."""
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(0)
    hub = MessageHub.get_current_instance()
    for key, value in dict(iter=0, epoch=0, max_iters=100, max_epochs=100).items():
        hub.update_info(key, value)
    model.train()
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    losses = model(**data, mode='loss')
    total, logged = model.parse_losses(losses)
    total.backward()
    idle = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    return {key: float(value) for key, value in logged.items()}, idle


def groups(runner, model):
    """Learning rate and weight decay of every parameter."""
    wrapper = runner.build_optim_wrapper(copy.deepcopy(runner.cfg.optim_wrapper))
    names = {id(p): name for name, p in model.named_parameters()}
    optimizers = wrapper.values() if hasattr(wrapper, 'values') else [wrapper]
    return {
        names[id(p)]: (group['lr'], group['weight_decay'])
        for optimizer in optimizers
        for group in optimizer.optimizer.param_groups
        for p in group['params']
    }


def compare_with_the_student_alone(config):
    """The task losses, the idle parameters and the optimizer's groups of a plain training."""
    from mmengine.runner import Runner

    cfg = load_config(config)
    pair = Runner.from_cfg(cfg)
    alone_cfg = student_config(cfg)
    alone_cfg.experiment_name = 'alone'
    alone = Runner.from_cfg(alone_cfg)
    batch = next(iter(pair.build_dataloader(cfg.train_dataloader)))
    pair.model.init_weights()
    own = {key: value for key, value in pair.model.state_dict().items() if key in alone.model.state_dict()}
    alone.model.load_state_dict(own)
    # Before the step: some forward passes add parameters under further names.
    (ours, theirs) = groups(pair, pair.model), groups(alone, alone.model)
    assert {k: v for k, v in ours.items() if not k.startswith('distiller.')} == theirs, 'other optimizer groups'
    (expected, idle_alone), (found, idle) = step(alone.model, batch), step(pair.model, batch)
    extra = sorted(idle - idle_alone)
    assert not extra, f'{len(extra)} parameters more get no gradient: {extra[0]}'
    for key, value in expected.items():
        if 'loss' in key and key != 'loss':
            other = found[f'student.{key}']
            assert abs(other - value) <= 1e-4 * max(abs(value), 1e-3), f'{key} is {other} and {value} alone'
    distilled = [value for key, value in found.items() if key.startswith('distill.loss')]
    assert distilled and all(value > 0 for value in distilled), f'distillation losses {distilled}'


def whole_way(teacher, student, folder, side, result):
    """Everything but the plain library; `result` says how far it came."""
    weights = folder / 'teacher.pth'
    weights.touch()
    result['stage'] = 'build'
    side = max(side_of(student, side), side_of(teacher, side))
    make_data(folder / 'data', side)
    result.update(stage='pair', side=side)
    data = data_of(student, folder / 'data')
    write_pair(teacher, student, str(folder / 'pair.py'), str(weights), str(data))
    cfg = load_config(str(folder / 'pair.py'))
    result['distiller'] = {key: value for key, value in cfg.model.distiller.items() if key not in ('type', 'loss')}
    result['lines'] = len((folder / 'pair.py').read_text().splitlines())
    config, length = shrink(folder / 'pair.py', side)
    with patch.object(feature_distill, 'load_pretrained', random_weights):
        result['stage'] = 'step'
        compare_with_the_student_alone(config)
        result['stage'] = 'train'
        train(config)
        result['stage'] = 'resume'
        runner = train(config, resume='auto', cfg_options={f'train_cfg.{length}': 2})
        name = f'{"iter" if length == "max_iters" else "epoch"}_2.pth'
        assert runner.iter >= 2
        result['stage'] = 'export'
        result['exported'] = export_student(config, str(folder / 'run' / name), str(folder / 'student'))
        result['stage'] = 'plain'


def child(teacher, student, folder, side, result):
    with open(folder / 'log.txt', 'w') as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            whole_way(teacher, student, folder, side, result)
        except BaseException as e:
            traceback.print_exc()
            sentence = explain(e) if isinstance(e, Exception) else None
            result['error'] = sentence or f'{type(e).__name__}: {reason_of(e)[:300]}'
            result['one_sentence'] = sentence is not None
        log.flush()
        os._exit(0)


PLAIN = """
import sys, warnings; warnings.filterwarnings('ignore')
out, sys.stdout = sys.stdout, sys.stderr
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
for line in sys.stdin:
    config, weights = line.split()
    try:
        cfg = Config.fromfile(config)
        scope = cfg.get('default_scope')
        registry = __import__(f'{scope}.registry').registry
        init_default_scope(scope)
        if cfg.get('data_preprocessor') is not None:
            cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
        load_checkpoint(registry.MODELS.build(cfg.model), weights, map_location='cpu', strict=True)
        answer = 'ok'
    except BaseException as e:
        answer = f'{type(e).__name__}: {e}'.splitlines()[0][:300]
    print(answer, file=out, flush=True)
"""


def table(lines):
    """The page's account of a sweep: what took all of it, and where the others stopped and why."""
    done = [line for line in lines if line['stage'] == 'done']
    kinds = defaultdict(list)
    for line in done:
        settings = ', '.join(f'{key}={value!r}' for key, value in line['distiller'].items())
        kinds[settings].append(line['family'])
    minutes = sorted(line['minutes'] for line in lines)
    rows = [
        f'Of {len(lines)} families {len(done)} took all of it, in {minutes[len(minutes) // 2]} minutes at the median.',
        '',
        '| what `cankd pair` wrote | families |',
        '|---|---|',
        *(
            f'| `{settings}` | {", ".join(found)} |'
            for settings, found in sorted(kinds.items(), key=lambda k: -len(k[1]))
        ),
        '',
        '| the others | stopped at | by |',
        '|---|---|---|',
        *(f'| {line["family"]} | {line["stage"]} | {_cell(line["error"])} |' for line in lines if line not in done),
    ]
    return '\n'.join(rows)


def _cell(error):
    return re.sub(r'\s+', ' ', error.replace('|', '\\|'))[:200]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('out', type=Path)
    parser.add_argument('--table', action='store_true', help='lay out what OUT.jsonl holds, and sweep nothing')
    parser.add_argument('families', nargs='*')
    parser.add_argument('--part', type=int, nargs=2, default=(0, 1), help='this part of so many')
    arguments = parser.parse_args()
    if arguments.table:
        sys.stdout.write(table([json.loads(line) for line in arguments.out.open()]) + '\n')
        return
    done = {json.loads(line)['family'] for line in arguments.out.open()} if arguments.out.exists() else set()
    torch.set_num_threads(1)
    chosen = {key: models for key, models in families().items() if key in (arguments.families or [key])}
    keys = sorted(chosen)[arguments.part[0] :: arguments.part[1]]
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / 'plain.py'
        script.write_text(PLAIN)
        plain = subprocess.Popen(
            [sys.executable, '-W', 'ignore', '-m', 'cankd_mm.plain', str(script)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        for key in keys:
            if key in done:
                continue
            start = time.monotonic()
            teacher, student = siblings(chosen[key])
            place = Path(folder) / key.replace('/', '_')
            for side in SIDES:  # some take no small images
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                result = multiprocessing.Manager().dict(stage='build')
                process = multiprocessing.Process(target=child, args=(teacher, student, place, side, result))
                process.start()
                process.join(60 * MINUTES)
                if process.is_alive():
                    process.kill()
                    result['error'] = f'took more than {MINUTES} minutes'
                elif process.exitcode != 0:
                    result['error'] = f'ended with status {process.exitcode}'
                if 'error' not in result or result.get('side') != side:
                    break
            line = dict(family=key, teacher=teacher, student=student, **result)
            if 'exported' in line:
                plain.stdin.write(f'{" ".join(line.pop("exported"))}\n')
                plain.stdin.flush()
                answer = plain.stdout.readline().strip()
                line.update(dict(stage='done') if answer == 'ok' else dict(error=answer))
            line['minutes'] = round((time.monotonic() - start) / 60, 2)
            with arguments.out.open('a') as out:
                out.write(json.dumps(line) + '\n')
            sys.stdout.write(f'{key}: {line["stage"]} {line.get("error", "")}\n')
            sys.stdout.flush()
            if 'error' in line and os.environ.get('KEEP_LOGS'):
                shutil.copy(place / 'log.txt', Path(os.environ['KEEP_LOGS']) / f'{place.name}.txt')
            shutil.rmtree(place)
        plain.stdin.close()


if __name__ == '__main__':
    main()
