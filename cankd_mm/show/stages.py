"""What is looked at: a pair at the stages of its training, and images as the student's own evaluation reads them."""

import copy
import os.path as osp
from typing import Dict, List, NamedTuple, Optional, Sequence

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import set_random_seed
from mmengine.structures import BaseDataElement
from torch.utils.data import Dataset

from cankd_mm.apis.data import innermost
from cankd_mm.config.pair import is_feature_distill
from cankd_mm.config.types import type_name
from cankd_mm.errors import SetupError, reason_of
from cankd_mm.models import FeatureDistill
from cankd_mm.models.builders import build_model
from cankd_mm.models.checkpoints import load_checkpoint, load_weights, student_state_dict
from cankd_mm.models.utils import quiet, untouched_generators

BEFORE, AFTER, ALONE = 'before', 'after', 'student alone'


class Stages(NamedTuple):
    """A pair at the stages of its training."""

    model: FeatureDistill  # in eval mode
    weights: Dict[str, Optional[dict]]  # by stage; None leaves the model as it is
    notes: Sequence[str] = ()  # what to say of the weights

    def at(self, stage: str) -> FeatureDistill:
        """Put the weights of a stage into the model; the distiller of the student alone is that of the training."""
        if self.weights[stage] is not None:
            self.model.load_state_dict(self.weights[stage])
        return self.model


def read_stages(cfg: Config, checkpoint: str, against: Optional[str] = None) -> Stages:
    """Build a pair, read its weights after the training and those of the student alone, and draw those before it."""
    if not is_feature_distill(cfg):
        problem = f'Only pairs with FeatureDistill can be shown, no {type_name(cfg.model)}'
        raise SetupError(f'{problem}: give the config of a distillation.')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    read = load_checkpoint(checkpoint, 'student')
    model = build_model(cfg.model, 'model', cfg.get('data_preprocessor'))
    load_weights(model, read['state_dict'], checkpoint, 'student')
    weights, notes = {AFTER: copy.deepcopy(model.state_dict())}, []
    fingerprint = read['state_dict'].get('_extra_state')
    if fingerprint is not None and not torch.equal(fingerprint.cpu(), model.get_extra_state()):
        notes.append(f'The training had another teacher than {model.teacher_ckpt}, which is shown: weights differ.')
    seed = read.get('meta', {}).get('seed')
    try:
        with untouched_generators(), quiet():
            if isinstance(seed, int):
                set_random_seed(seed)
            model.init_weights()
        weights[BEFORE] = copy.deepcopy(model.state_dict())
    except Exception as e:  # whatever fetches the weights that the student starts from
        notes.append(f'The time before the training is left out, as its weights are not here ({reason_of(e)}).')
    if against is not None:
        student = student_state_dict(load_checkpoint(against, 'student')['state_dict'])
        with model.student_alone() as alone:
            load_weights(alone, student, against, 'student')
            weights[ALONE] = {**weights[AFTER], **copy.deepcopy(alone.state_dict())}
    return Stages(model.to(get_device()).eval(), weights, notes)


class Sample(NamedTuple):
    """One image."""

    data: dict  # as a data loader gives it
    image: np.ndarray  # as its file has it, (H, W, 3) in RGB
    annotations: BaseDataElement  # what the pipeline says of it


def from_split(cfg: Config, split: str, count: int) -> List[Sample]:
    """Take images of ``'val'``, ``'test'`` or ``'train'``, evenly spaced over it, as the validation reads them."""
    if split not in ('val', 'test', 'train') or not cfg.get(f'{split}_dataloader'):
        raise SetupError(f'The config has no data called {split!r}: give --split val, test or train, or --images.')
    dataset = innermost(cfg[f'{split}_dataloader'])
    if split == 'train':
        dataset.update(pipeline=_pipeline(cfg), test_mode=True)
    return from_dataset(DATASETS.build(dataset), count)


def from_dataset(dataset: Dataset, count: int) -> List[Sample]:
    """Take images of a data set with the pipeline of a validation, evenly spaced over it."""
    count = min(count, len(dataset))
    return [_sample(dataset[index * len(dataset) // count]) for index in range(count)]


def from_files(cfg: Config, paths: Sequence[str]) -> List[Sample]:
    """Read image files, for which there are no annotations, as the test or the validation reads them."""
    pipeline = Compose([step for step in _pipeline(cfg) if not type_name(step).startswith('LoadAnn')])
    samples = []
    for number, path in enumerate(paths):
        if not osp.isfile(path) or mmcv.imread(path) is None:
            problem = 'cannot be decoded' if osp.isfile(path) else 'does not exist'
            raise SetupError(f'The image {path!r} {problem}: give --images the paths of images.')
        data = pipeline(dict(img_path=path, img_id=number, instances=[], seg_fields=[], reduce_zero_label=False))
        for key in ('gt_instances', 'ignored_instances', 'gt_sem_seg'):  # empty, as there are no annotations
            data['data_samples'].pop(key, None)
        samples.append(_sample(data))
    return samples


def _pipeline(cfg: Config) -> list:
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    if not loader:
        raise SetupError('The config has no validation or test data, whose pipeline would read images: add one.')
    return innermost(loader).pipeline


def _sample(data: dict) -> Sample:
    image = mmcv.imread(data['data_samples'].metainfo['img_path'], channel_order='rgb')
    return Sample(pseudo_collate([data]), image, data['data_samples'])
