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
from torch.nn import functional as F
from torch.utils.data import Dataset

from cankd_mm.errors import SetupError

SPLITS = ('val', 'test', 'train')


class Sample(NamedTuple):
    """One image: ``name`` for its files, ``data`` as a data loader gives it, and ``image``, ``(H, W, 3)`` in RGB."""

    name: str
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
    if split not in SPLITS or not cfg.get(f'{split}_dataloader'):
        raise SetupError(f'The config has no data called {split!r}: give --split val, test or train, or --images.')
    dataset = innermost(cfg[f'{split}_dataloader'])
    if split == 'train':
        dataset.pipeline = _pipeline(cfg)
        dataset.test_mode = True
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
    return [_sample(dataset[index * len(dataset) // count], index) for index in range(count)]


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
    pipeline = Compose([step for step in _pipeline(cfg) if not str(step['type']).split('.')[-1].startswith('LoadAnn')])
    samples = []
    for number, path in enumerate(paths):
        if not osp.isfile(path):
            raise SetupError(f'The image {path!r} does not exist: correct the path given to --images.')
        if mmcv.imread(path) is None:
            raise SetupError(f'The image {path!r} cannot be decoded: give --images files that are images.')
        data = dict(img_path=path, img_id=number, instances=[], seg_fields=[], reduce_zero_label=False)
        data = pipeline(data)
        for key in {'gt_instances', 'ignored_instances', 'gt_sem_seg'} & set(data['data_samples'].keys()):
            delattr(data['data_samples'], key)  # empty, as there are no annotations
        samples.append(_sample(data, number))
    return samples


def _pipeline(cfg: Config) -> list:
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    if not loader:
        raise SetupError('The config has no validation or test data, whose pipeline would read images: add one.')
    return innermost(loader).pipeline


def innermost(loader: dict) -> dict:
    """Take a data set out of its wrappers, which are about how often an image comes; of several the first.

    Args:
        loader (dict): Config of a data loader.

    Returns:
        dict: A copy of the data set's config.
    """
    dataset = loader['dataset']
    while 'dataset' in dataset or 'datasets' in dataset:
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return copy.deepcopy(dataset)


def _sample(data: dict, number: int) -> Sample:
    path = data['data_samples'].metainfo['img_path']
    name = f'{number}_{osp.splitext(osp.basename(path))[0]}'
    return Sample(name, pseudo_collate([data]), mmcv.imread(path, channel_order='rgb'))


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


def picture_of(sample: Sample, inputs: Tensor) -> np.ndarray:
    """Show what a model was given, padding included.

    Args:
        sample (Sample): The image.
        inputs (Tensor): What the model's preprocessor makes of it, ``(1, C, H, W)``.

    Returns:
        np.ndarray: ``(H, W, 3)`` in RGB, black where it is padded.
    """
    image = sample.data['inputs'][0].float().clamp(0, 255)
    image = image.flip(0) if len(image) == 3 else image[:1].expand(3, -1, -1)  # OpenCV reads blue first
    height, width = inputs.shape[2:]
    padded = F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1]))
    return padded.byte().permute(1, 2, 0).numpy()
