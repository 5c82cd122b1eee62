"""Every config at full architecture, with random weights: one true training step on small images."""

import copy
import logging

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmrazor.registry import MODELS

from cankd_mm.models.algorithms import feature_distill
from cankd_mm.models.builders import build_model, load_model_cfg
from tests.test_configs.test_recipes import PAIRS
from tests.test_models.test_algorithms.test_feature_distill import batch

# Students that leave parameters without gradient, and which: none does.
UNUSED = {}


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


def offline(model, bert=None):
    """A model's config with nothing left to fetch."""
    if isinstance(model, dict):
        model = {key: offline(value, bert) for key, value in model.items() if key != 'pretrained'}
        if (model.get('init_cfg') or {}).get('type') == 'Pretrained':
            model['init_cfg'] = None
        if 'language_model' in model:
            model['language_model']['name'] = bert
    elif isinstance(model, (list, tuple)):
        model = type(model)(offline(value, bert) for value in model)
    return model


@pytest.mark.parametrize('path', PAIRS, ids=lambda path: path.stem)
def test_one_training_step(path, request, monkeypatch):
    MMLogger.get_current_instance().setLevel(logging.WARNING)
    cfg = Config.fromfile(str(path))
    bert = request.getfixturevalue('tiny_bert') if 'grounding' in path.stem else None
    # Building a model of MMDetection changes its config.
    teacher_cfg, teacher_twin, student_cfg = (
        ConfigDict(offline(model.to_dict(), bert))
        for model in (*[load_model_cfg(cfg.model.teacher)] * 2, cfg.model.architecture)
    )
    # The weights that the config names, as if they had been fetched.
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        teacher = build_model(teacher_twin, 'teacher')
        teacher.init_weights()
        weights = dict(state_dict=teacher.state_dict())
        monkeypatch.setattr(feature_distill, 'load_checkpoint', lambda path, whose: weights)
        checkpoint = cfg.model.teacher_ckpt or 'trained_by_the_user.pth'
        changes = dict(teacher=teacher_cfg, architecture=student_cfg, teacher_ckpt=checkpoint)
        model = MODELS.build({**cfg.model, **changes})
        model.init_weights()
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    for part, source in model.init_from_teacher.items():
        torch.testing.assert_close(
            model.student.get_submodule(part).state_dict(), teacher.get_submodule(source).state_dict(), rtol=0, atol=0
        )
    before = copy.deepcopy(model.teacher.state_dict())
    student_before = {name: p.detach().clone() for name, p in model.student.named_parameters()}

    model.train()
    data = model.data_preprocessor(small_batch(cfg, model), training=True)
    losses = model(**data, mode='loss')
    distill = [loss for key, loss in losses.items() if key.startswith('distill.')]
    assert len(distill) == (cfg.model.distiller.get('levels') or 1)
    assert all(loss.isfinite() and loss > 0 for loss in distill)
    total, _ = model.parse_losses(losses)
    assert total.isfinite()
    optimizer.optimizer.zero_grad()
    optimizer.backward(total)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # Without one, distributed training would need find_unused_parameters.
    unused = {n for n, p in trainable.items() if p.grad is None and not n.startswith('teacher.')}
    assert unused == UNUSED.get(path.stem, set())
    assert not any(p.grad is not None for p in model.teacher.parameters())
    optimizer.step()
    assert any(not torch.equal(p, student_before[name]) for name, p in model.student.named_parameters())
    torch.testing.assert_close(model.teacher.state_dict(), before, rtol=0, atol=0)


def small_batch(cfg, model):
    """Two images, as small as the model takes them."""
    if cfg.default_scope == 'mmseg':
        model.data_preprocessor.size = (128, 128)
        return batch('segmentation', size=(128, 128))
    # DINO selects its 900 queries among the pixels of all levels.
    side = 256 if 'dino-r' in cfg.filename else 128
    data = batch('detection', size=(side, side))
    if 'grounding' in cfg.filename:
        for sample in data['data_samples']:
            sample.set_metainfo(dict(text=('cat', 'dog', 'bird', 'car'), custom_entities=True))
    return data
