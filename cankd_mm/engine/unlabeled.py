"""Images without labels as a data set of both libraries, by themselves or beside labelled ones."""

from array import array
from typing import Iterator, Optional, Sequence

import numpy as np
from mmengine.dataset import BaseDataset, Compose, ConcatDataset
from mmengine.registry import DATASETS
from PIL import Image

from cankd_mm.config.images import MIN_SIDE, list_images
from cankd_mm.config.types import class_of
from cankd_mm.errors import SetupError, reason_of, warn

_MANY = 100  # images that cannot be used, and none that can


@DATASETS.register_module()
class UnlabeledImages(BaseDataset):
    """Images without labels, which a :class:`FeatureDistill` distils alone: they have no task losses.

    Their data samples have ``unlabeled`` in their metainfo. An image that cannot be decoded, or has a side below 8
    pixels, is named in the log, and another one takes its place. Names take their own bytes and no more, so that a
    million of them is there in seconds.

    Args:
        images (str): A folder, which is looked through with all folders in it, a text file with a path in each line, or
            a COCO file, of which the images count.
        pipeline (Sequence[dict]): What loads, augments and packs them, with nothing that needs labels. ``cankd pair
            --unlabeled`` makes it of the student's. Defaults to (), nothing.
        length (int, optional): How many images an epoch has, drawn anew from even parts of all. Defaults to None, all.
        like (str, optional): Type of a data set whose METAINFO, its classes, goes into checkpoints. Defaults to None.
        metainfo (dict, optional): Classes and palette, on top of these. Defaults to None.
        lazy_init (bool): Whether the images are listed later. Defaults to False.

    Raises:
        SetupError: If there is no image, or one of a list does not exist.

    Examples:
        >>> train_dataloader = dict(dataset=dict(
        ...     _delete_=True, type='UnlabeledImages', images='data/photos', like='CocoDataset', pipeline=[
        ...         dict(type='LoadImageFromFile'), dict(type='Resize', scale=(1333, 800), keep_ratio=True),
        ...         dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]))
    """

    def __init__(
        self,
        images: str,
        pipeline: Sequence[dict] = (),
        length: Optional[int] = None,
        like: Optional[str] = None,
        metainfo: Optional[dict] = None,
        lazy_init: bool = False,
    ) -> None:
        if length is not None and length < 1:
            raise SetupError(f'UnlabeledImages got {length=}: give one or more, or leave it out for all images.')
        self.images, self.length = images, length
        self._names, self._ends, self._reported, self._usable = b'', array('q'), set(), False
        known = getattr(class_of(DATASETS, like), 'METAINFO', {}) if like else {}
        super().__init__(metainfo={**known, **(metainfo or {})}, pipeline=list(pipeline), lazy_init=lazy_init)

    def full_init(self) -> None:
        """List the images, once."""
        if self._fully_initialized:
            return
        names = bytearray()
        for path in list_images(self.images):
            names += path.encode()
            self._ends.append(len(names))
        self._names, self._fully_initialized = bytes(names), True

    def __len__(self) -> int:
        return self.length or len(self._ends)

    def paths(self) -> Iterator[str]:
        """Name all images, whatever an epoch shows of them."""
        start = 0
        for end in self._ends:
            yield self._names[start:end].decode()
            start = end

    def get_data_info(self, idx: int) -> dict:
        """Name an image, with height and width, by which samplers group images."""
        info = self._info(idx, 0.0)
        try:
            with Image.open(info['img_path']) as image:  # reads no more than its head
                info['width'], info['height'] = image.size
        except (OSError, ValueError):  # it is skipped where it is loaded
            info['width'] = info['height'] = MIN_SIDE
        return info

    def _info(self, idx: int, place: float) -> dict:
        """Name the image at a place, 0 to 1, of an item's part of all images."""
        first, end = (number * len(self._ends) // len(self) for number in (idx, idx + 1))
        number = first + int(place * (end - first))
        start = self._ends[number - 1] if number else 0
        path = self._names[start : self._ends[number]].decode()
        return dict(img_path=path, img_id=number, sample_idx=idx, seg_fields=[])

    def prepare_data(self, idx: int) -> Optional[dict]:
        """Load and augment an image; None where it cannot be used, and another one is asked for."""
        info, problem = self._info(idx, np.random.rand() if self.length else 0.0), None
        path = info['img_path']
        try:
            data = self.pipeline(info)
        except Exception as e:  # whatever a decoder raises
            if 'img' in info:
                raise
            problem = f'cannot be decoded ({reason_of(e)[:80]})'
        else:
            if min(info.get('ori_shape', (MIN_SIDE,))[:2]) < MIN_SIDE:
                problem = f'has a side of less than {MIN_SIDE} pixels'
        if problem is None:
            self._usable = True
            if data is not None:
                data['data_samples'].set_metainfo(dict(unlabeled=True))
            return data
        if path not in self._reported:
            self._reported.add(path)
            warn(f'The image {path!r} {problem}, and is left out.')
        if not self._usable and len(self._reported) >= min(len(self._ends), _MANY):
            raise SetupError(f'None of {len(self._reported)} images of {self.images!r} can be used: give whole images.')
        return None


@DATASETS.register_module()
class LabeledAndUnlabeled(ConcatDataset):
    """A labelled data set and, beside it, images without labels.

    Args:
        labeled (dict): Config of the labelled data set, whatever wraps it.
        unlabeled (dict): Config of the :class:`UnlabeledImages`, without a length.
        ratio (float): How many images without labels an epoch has for each labelled one. Defaults to 1.0.
        lazy_init (bool): Whether annotations are read later. Defaults to False.

    Raises:
        SetupError: If the ratio is not positive.

    Examples:
        >>> labeled = dict(type='CocoDataset', ann_file='data/coco/annotations/instances_train2017.json')
        >>> images = dict(type='UnlabeledImages', images='data/photos')  # both with their pipelines
        >>> train_dataloader = dict(dataset=dict(
        ...     _delete_=True, type='LabeledAndUnlabeled', labeled=labeled, unlabeled=images, ratio=2.0))
    """

    def __init__(self, labeled: dict, unlabeled: dict, ratio: float = 1.0, lazy_init: bool = False) -> None:
        if ratio <= 0:
            raise SetupError(f'LabeledAndUnlabeled got {ratio=}: give a number above zero, or the labelled set alone.')
        self.ratio, self.ignore_keys, self._fully_initialized = ratio, [], False
        first = DATASETS.build(labeled)
        second = DATASETS.build({**unlabeled, 'metainfo': first.metainfo, 'lazy_init': True})
        self.datasets, self._metainfo = [first, second], first.metainfo
        if not lazy_init:
            self.full_init()

    def full_init(self) -> None:
        """Read annotations, list images, and fix how many of these an epoch has."""
        if not self._fully_initialized:
            self.datasets[0].full_init()
            self.datasets[1].length = max(round(self.ratio * len(self.datasets[0])), 1)
        super().full_init()

    # What MMDetection's hooks exchange late in a training is the labelled part's.
    @property
    def pipeline(self) -> Compose:
        """The pipeline of the labelled data set."""
        return self.datasets[0].pipeline

    @pipeline.setter
    def pipeline(self, pipeline: Compose) -> None:
        self.datasets[0].pipeline = pipeline

    def update_skip_type_keys(self, keys: Sequence[str]) -> None:
        """Leave steps out of the pipeline of the labelled data set, which mixes images."""
        self.datasets[0].update_skip_type_keys(keys)


def without_labels(part: str) -> str:
    """Say what to do where no image has labels and a part of the student is not trained."""
    return (
        f"give a student whose {part} is as the teacher's, which then starts from it and stays (init_from_teacher and "
        'frozen_parts), or label the images by `cankd label` and train on these labels'
    )
