"""One training step over several processes.

Every process takes its share of one batch; the first one saves losses and student gradients. With one process, that is
the whole batch.
"""

import multiprocessing
import os

import torch
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import DefaultScope
from mmrazor.registry import MODELS
from torch.nn.modules.batchnorm import _BatchNorm

from tests.test_models.test_algorithms.test_feature_distill import batch


def step(processes, config, out, train_bn=False):
    """What a step of so many processes gives: losses and gradients."""
    store = out.with_suffix('.store')
    # Forked from the process of the tests, which has imported everything.
    context = multiprocessing.get_context('fork')
    started = [
        context.Process(target=_one, args=(rank, processes, store, config, out, train_bn)) for rank in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(240)
    assert [process.exitcode for process in started] == [0] * processes
    return torch.load(out)


def _one(rank, processes, store, config, out, train_bn):
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(store), processes)
    torch.distributed.init_process_group('gloo', store=store, rank=rank, world_size=processes)
    torch.manual_seed(0)
    cfg = Config.fromfile(str(config))
    task = 'detection' if cfg.default_scope == 'mmdet' else 'segmentation'
    if task == 'segmentation':
        cfg.model.architecture.decode_head.dropout_ratio = 0
    with DefaultScope.overwrite_default_scope('mmrazor'):
        model = MODELS.build(cfg.model)
    model.init_weights()
    for loss in model.distiller.distill_losses.values():
        torch.nn.init.normal_(loss.can.bn.weight)  # the block starts as the identity, which proves nothing
    model.double()  # sums of different order must not matter
    wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
    wrapped.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not train_bn:
            module.eval()
    torch.manual_seed(1)
    whole = batch(task, size=(128, 128))
    share = slice(get_rank(), None, get_world_size())
    for _ in range(2):  # the second pass fails where the first one has left a parameter without gradient
        model.zero_grad()
        data = model.data_preprocessor({key: value[share] for key, value in whole.items()}, True)
        data['inputs'] = data['inputs'].double()
        total, logged = model.parse_losses(wrapped(**data, mode='loss'))
        total.backward()
    for value in logged.values():
        torch.distributed.all_reduce(value)
    if get_rank() == 0:
        losses = {name: value.detach() / get_world_size() for name, value in logged.items()}
        gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        torch.save(dict(losses=losses, gradients=gradients), out)
    torch.distributed.barrier()
    os._exit(0)  # torch's own end of the group and of the wrapped model wait for each other at times
