"""Distillation losses that rise, fall and end, by nothing but the number of the iteration."""

import pytest
import torch

from cankd_mm.apis import train
from cankd_mm.engine import DistillScheduleHook
from cankd_mm.errors import SetupError
from cankd_mm.models import FeatureDistill

pytestmark = pytest.mark.slow


@pytest.fixture
def factors(monkeypatch):
    """What the losses were multiplied by, None where there were none, over the iterations of trainings."""
    seen, loss = [], FeatureDistill.loss

    def watch(self, *args, **kwargs):
        losses = loss(self, *args, **kwargs)
        seen.append(None if self.distillation_stopped else self.distill_scale)
        return losses

    monkeypatch.setattr(FeatureDistill, 'loss', watch)
    return seen


def run(pair, work_dir, epochs, resume=None, **hook):
    options = {'train_cfg.max_epochs': epochs, 'train_cfg.val_begin': 9, 'default_hooks.checkpoint.interval': 1}
    hooks = [dict(type='DistillScheduleHook', **hook)] if hook else []
    train(str(pair), work_dir=str(work_dir), cfg_options={**options, 'custom_hooks': hooks}, resume=resume)


def unchecked(factors):
    """Without the iterations of the preflight, which come before each training."""
    return factors[-8:]


def test_losses_rise_fall_and_end(pairs, tmp_path, factors):
    """Two iterations an epoch, four epochs."""
    run(pairs['detection'], tmp_path / 'a', 4, warmup=3, begin=2)
    assert unchecked(factors) == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 3 / 4, 2 / 4, 1 / 4])
    run(pairs['detection'], tmp_path / 'b', 4, begin=1, end=3)
    assert unchecked(factors) == [1, 1, 1, 3 / 4, 2 / 4, 1 / 4, None, None]
    run(pairs['detection'], tmp_path / 'c', 4, begin=2, end=2)
    assert unchecked(factors) == [1] * 4 + [None] * 4


def test_a_resumed_training_goes_on_with_its_factor(pairs, tmp_path, factors):
    run(pairs['detection'], tmp_path, 3, begin=1, end=4)
    run(pairs['detection'], tmp_path, 5, resume='auto', begin=1, end=4)
    assert factors[-4:] == pytest.approx([2 / 6, 1 / 6, None, None])


def test_iterations_where_the_training_counts_them(pairs, tmp_path, factors):
    config = pairs['segmentation'].with_name('by_iteration.py')
    config.write_text(
        f"_base_ = '{pairs['segmentation'].name}'\n"
        "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=4, val_begin=9)\n"
        'param_scheduler = []\n'
    )
    hooks = [dict(type='DistillScheduleHook', begin=1)]
    train(str(config), work_dir=str(tmp_path), cfg_options={'custom_hooks': hooks})
    assert factors[-4:] == pytest.approx([1, 1, 2 / 3, 1 / 3])


def test_a_factor_of_one_changes_nothing(pairs, tmp_path):
    seeded = dict(seed=3)
    for name, hooks in (('with', [dict(type='DistillScheduleHook', begin=9)]), ('without', [])):
        options = {'randomness': seeded, 'custom_hooks': hooks, 'train_cfg.max_epochs': 1, 'train_cfg.val_begin': 9}
        train(str(pairs['detection']), work_dir=str(tmp_path / name), cfg_options=options)
    one, other = (torch.load(tmp_path / name / 'epoch_1.pth')['state_dict'] for name in ('with', 'without'))
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize(
    'arguments, words',
    [
        (dict(warmup=-1), 'both are zero or more'),
        (dict(end=3), 'begin=None and end=3: set begin, at or before end'),
        (dict(begin=4, end=3), 'begin=4 and end=3'),
    ],
)
def test_mistakes(arguments, words):
    with pytest.raises(SetupError, match=words):
        DistillScheduleHook(**arguments)


def test_model_that_is_no_pair(pairs, tmp_path):
    student = pairs['detection'].with_name('detection_student.py')
    with pytest.raises(SetupError, match='DistillScheduleHook is for pairs .* the model is a RetinaNet: take it out'):
        run(student, tmp_path, 1, warmup=1)
