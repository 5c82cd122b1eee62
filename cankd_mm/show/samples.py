"""The images that are looked at, as the student's own evaluation reads them."""

import copy
import os.path as osp
from typing import List, NamedTuple, Sequence, Tuple

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DATASETS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.utils.data import Dataset

from cankd_mm.config.types import type_name
from cankd_mm.errors import SetupError


class Sample(NamedTuple):
    """One image: ``data`` as a data loader gives it, and ``image``, ``(H, W, 3)`` in RGB, as its file has it."""

    data: dict
    image: np.ndarray

    @property
    def annotations(self) -> BaseDataElement:
        """What the pipeline says of the image."""
        return self.data['data_samples'][0]


def from_split(cfg: Config, split: str, count: int) -> List[Sample]:
    """Take images of a data set, evenly spaced over it, with their annotations.

    Args:
        cfg (Config): A config of a training.
        split (str): ``'val'``, ``'test'`` or ``'train'``, whose images go through the pipeline of the validation.
        count (int): How many.

    Returns:
        list[Sample]: The images.

    Raises:
        SetupError: If the config has no such data.
    """
    if split not in ('val', 'test', 'train') or not cfg.get(f'{split}_dataloader'):
        raise SetupError(f'The config has no data called {split!r}: give --split val, test or train, or --images.')
    dataset = innermost(cfg[f'{split}_dataloader'])
    if split == 'train':
        dataset.update(pipeline=_pipeline(cfg), test_mode=True)
    return from_dataset(DATASETS.build(dataset), count)


def from_dataset(dataset: Dataset, count: int) -> List[Sample]:
    """Take images of a data set that is built, evenly spaced over it.

    Args:
        dataset (Dataset): With the pipeline of a validation.
        count (int): How many.

    Returns:
        list[Sample]: The images.
    """
    count = min(count, len(dataset))
    return [_sample(dataset[index * len(dataset) // count]) for index in range(count)]


def from_files(cfg: Config, paths: Sequence[str]) -> List[Sample]:
    """Read image files, for which there are no annotations.

    Args:
        cfg (Config): A config of a training.
        paths (Sequence[str]): The files.

    Returns:
        list[Sample]: The images.

    Raises:
        SetupError: If one of them is not there, or is no image.
    """
    pipeline = Compose([step for step in _pipeline(cfg) if not type_name(step).startswith('LoadAnn')])
    samples = []
    for number, path in enumerate(paths):
        if not osp.isfile(path):
            raise SetupError(f'The image {path!r} does not exist: correct the path given to --images.')
        if mmcv.imread(path) is None:
            raise SetupError(f'The image {path!r} cannot be decoded: give --images files that are images.')
        data = pipeline(dict(img_path=path, img_id=number, instances=[], seg_fields=[], reduce_zero_label=False))
        for key in {'gt_instances', 'ignored_instances', 'gt_sem_seg'} & set(data['data_samples'].keys()):
            delattr(data['data_samples'], key)  # empty, as there are no annotations
        samples.append(_sample(data))
    return samples


def _pipeline(cfg: Config) -> list:
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    if not loader:
        raise SetupError('The config has no validation or test data, whose pipeline would read images: add one.')
    return innermost(loader).pipeline


def innermost(loader: dict) -> dict:
    """Copy the config of a loader's data set without its wrappers, which say how often an image comes.

    Args:
        loader (dict): Config of a data loader.

    Returns:
        dict: The config; of several data sets that of the first.
    """
    dataset = loader['dataset']
    while 'dataset' in dataset or 'datasets' in dataset:
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return copy.deepcopy(dataset)


def _sample(data: dict) -> Sample:
    image = mmcv.imread(data['data_samples'].metainfo['img_path'], channel_order='rgb')
    return Sample(pseudo_collate([data]), image)


def preprocessed(model: nn.Module, sample: Sample) -> Tuple[Tensor, List[BaseDataElement]]:
    """Take an image through a model's preprocessor.

    Args:
        model (nn.Module): In eval mode.
        sample (Sample): The image.

    Returns:
        tuple[Tensor, list[BaseDataElement]]: The model's input, ``(1, 3, H, W)``, and what belongs to it.
    """
    data = model.data_preprocessor(copy.deepcopy(sample.data), False)
    return data['inputs'], data['data_samples']
