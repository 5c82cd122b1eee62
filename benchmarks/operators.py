"""Training steps and inference with mmcv's operators from each place that they can come from here."""

import copy
import sys
from contextlib import contextmanager

import mmcv.ops  # noqa: F401
import torch
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmrazor.registry import MODELS

from benchmarks.measure import Clock, compare, finish, parse_arguments
from benchmarks.step import batch, offline
from cankd_mm.config.read import load_model_cfg
from cankd_mm.stack.ops import Extension, provided
from cankd_mm.stack.ops.torchvision import problem

SIZE = (480, 736)
DETECTORS = {
    'RetinaNet R50': 'mmdet::retinanet/retinanet_r50_fpn_2x_coco.py',
    'Faster R-CNN R50': 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_2x_coco.py',
}


def main():
    arguments = parse_arguments(__doc__, repeats=3)
    size = (128, 192) if arguments.quick else SIZE
    results = []
    for name, config in DETECTORS.items():
        torch.manual_seed(0)
        model = build(config).to(arguments.device)
        optimizer = build_optim_wrapper(model, ConfigDict(optimizer=dict(type='SGD', lr=1e-4, momentum=0.9)))
        data = batch('mmdet', size)
        for what, step in (('training step', training), ('inference', inference)):
            sides = {source: side(extension, step, model, optimizer, data) for source, extension in places().items()}
            (measured,) = compare([sides], 1 if arguments.quick else arguments.repeats)
            results.append(dict(detector=name, what=what, size=size, sides=measured))
    finish(arguments, dict(benchmark='operators', results=results), table(results))


def places():
    """The modules that hold the operators, by where these come from."""
    found = {} if provided() else {'compiled': sys.modules['mmcv._ext']}
    if problem() is None:
        found['torchvision'] = Extension(torchvision=True)
    return {**found, 'plain torch': Extension(torchvision=False)}


def build(config):
    """A detector with random weights, all of whose boxes go through the suppression."""
    model = offline(load_model_cfg(config))
    test_cfg = model.test_cfg.get('rcnn', model.test_cfg)
    test_cfg.score_thr = 0.0
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(model)


@contextmanager
def operators(extension):
    """Let mmcv call the operators of a module."""
    modules = [m for name, m in sys.modules.items() if name.startswith('mmcv.ops.') and hasattr(m, 'ext_module')]
    before = modules[0].ext_module
    for module in modules:
        module.ext_module = extension
    yield
    for module in modules:
        module.ext_module = before


def side(extension, step, model, optimizer, data):
    def run():
        with operators(extension):
            clock = Clock()
            step(model, optimizer, copy.deepcopy(data))
            clock.phase('total')
        return clock.phases

    return run


def training(model, optimizer, data):
    model.train()
    model.train_step(data, optim_wrapper=optimizer)


def inference(model, optimizer, data):
    model.eval()
    with torch.no_grad():
        model.test_step(data)


def table(results):
    sources = list(results[0]['sides'])
    lines = [f'| detector | what | {" | ".join(f"{source} s" for source in sources)} | last / first |']
    lines.append('|---' * (len(sources) + 3) + '|')
    for entry in results:
        seconds = [entry['sides'][source]['seconds']['total'] for source in sources]
        cells = ' | '.join(f'{s:.2f}' for s in seconds)
        lines.append(f'| {entry["detector"]} | {entry["what"]} | {cells} | {seconds[-1] / seconds[0]:.2f} |')
    return '\n'.join(lines)


if __name__ == '__main__':
    main()
