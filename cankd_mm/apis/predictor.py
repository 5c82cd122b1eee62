"""What a teacher predicts on many images, of which some may not be readable."""

import copy
import time
from datetime import timedelta
from itertools import islice
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Tuple, Union

import cv2
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from mmengine.utils.dl_utils import set_multi_processing
from torch.utils.data import DataLoader, Dataset

from cankd_mm.apis.data import innermost
from cankd_mm.apis.label_files import UNSURE
from cankd_mm.apis.running import needing_labels
from cankd_mm.config.images import MIN_SIDE
from cankd_mm.config.types import library_of, type_name
from cankd_mm.errors import SetupError, reason_of

_SECONDS = 10.0  # between two lines of progress
# What MMDetection's tools/test.py puts predictions on several versions of an image together with.
TTA_MODEL = dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))


class _Images(Dataset):
    """Images by their paths, or by their numbers in a data set: what a pipeline makes of each, or why nothing."""

    def __init__(self, read: Callable[[Union[str, int]], dict]) -> None:
        self.read = read

    def __getitem__(self, key: Union[str, int]) -> Tuple[Union[str, int], Union[dict, str]]:
        try:
            data = self.read(key)
        except (OSError, cv2.error, AssertionError, ValueError) as e:
            unreadable = isinstance(e, (OSError, cv2.error)) or 'failed to load image' in str(e)
            return key, 'cannot be read' if unreadable else f'its pipeline fails on it ({reason_of(e)})'
        sample = data['data_samples']
        height, width = (sample[0] if isinstance(sample, list) else sample).ori_shape[:2]
        return key, data if min(height, width) >= MIN_SIDE else f'only {width}x{height} pixels'


class Predictor:
    """A teacher with the pipeline that its test reads images with, and what it predicts on many of them."""

    def __init__(self, model: BaseModel, cfg: Config, meta: dict, tta: bool, batch_size: Optional[int]) -> None:
        loader = cfg.get('test_dataloader') or cfg.val_dataloader
        dataset, self.scope = innermost(loader), library_of(type(model))
        self.model, self.classes, self.workers = model, meta['classes'], loader.get('num_workers', 0)
        # From which score on a class counts where no data tells: of one channel for two classes as the model decides.
        head = _head_of(model) if self.scope == 'mmseg' else None
        by_one = getattr(head, 'out_channels', None) == 1 and len(self.classes) == 2
        self.unknown = [1 - head.threshold, head.threshold] if by_one else [0.5] * len(self.classes)
        self.batch_size = batch_size or (2 if get_device() == 'cpu' else 8)
        if self.batch_size < 1:
            raise SetupError(f'--batch-size is {batch_size}: give 1 or more.')
        if self.scope == 'mmseg' and len(self.classes) > UNSURE:
            raise SetupError(f'Label maps of 8 bits hold 255 classes, and the teacher has {len(self.classes)}.')
        set_multi_processing(distributed=False)  # as MMEngine's runner does: OpenCV's threads do not survive a fork
        self.masks, self.tta, self.annotated = False, None, None
        pipeline = dataset['pipeline']
        if tta:
            pipeline = self.annotated = cfg.get('tta_pipeline') or flipped(pipeline)
            if self.scope == 'mmdet':
                self.tta = MODELS.build(ConfigDict(copy.deepcopy(cfg.get('tta_model') or TTA_MODEL), module=model))
        # What a data set says of each of its images, and a pipeline may ask for.
        self.info = dict(instances=[], seg_fields=[], reduce_zero_label=False)
        if dataset.get('return_classes'):
            self.info.update(text=tuple(self.classes), custom_entities=True)
            self.info.update(caption_prompt=dataset.get('caption_prompt'))
        self.pipeline = Compose(_without_annotations(pipeline, self.scope, self.info))

    def read(self, path: str) -> dict:
        """Read an image that has no annotations."""
        return self.pipeline(dict(copy.deepcopy(self.info), img_path=path, img_id=path))

    def try_first(self, paths: Iterator[str]) -> None:
        """Predict on the first image that can be read, and say in a sentence what the teacher has against it."""
        read, reason = _Images(self.read), None
        for path in paths:
            _, data = read[path]
            if not isinstance(data, str):
                break
            reason = reason or f'{path!r}: {data}'
        else:
            raise SetupError(f'None of the images can be read, such as {reason}: give whole images.')
        (found,) = self._predict([data])
        if isinstance(found, str):
            inputs = data['inputs'][0] if isinstance(data['inputs'], list) else data['inputs']
            channels, height, width = inputs.shape
            raise SetupError(
                f'The teacher fails on the first image {path!r}, which its pipeline gives {channels} channels and '
                f'{width}x{height} pixels ({found}): give images such as it was trained on.'
            )
        if self.scope == 'mmdet':
            if 'pred_instances' not in found:
                raise SetupError(f'The teacher {type(self.model).__name__} predicts no boxes: give a detector.')
            self.masks = 'masks' in found.pred_instances

    def on(self, read: Callable, keys: Iterable, count: int, what: str) -> Iterator[List[tuple]]:
        """Predict in batches: of each image its key, and what was found, or why nothing."""
        keys = iter(keys)
        batches = iter(lambda: list(islice(keys, self.batch_size)), [])
        loader = DataLoader(_Images(read), batch_sampler=batches, num_workers=self.workers, collate_fn=list)
        start = said = time.monotonic()
        done = 0
        for batch in loader:
            whole = [data for _, data in batch if not isinstance(data, str)]
            found = iter(self._predict(whole) if whole else ())
            yield [(key, data if isinstance(data, str) else next(found)) for key, data in batch]
            done += len(batch)
            now = time.monotonic()
            if now - said > _SECONDS:
                said, rate = now, done / (now - start)
                left = timedelta(seconds=round((count - done) / rate))
                print_log(f'{what}: {done} of {count}, {rate:.1f} per second, {left} left', 'current')

    def _predict(self, items: List[dict]) -> list:
        """Predict on images, together on those of one size, so that none is padded for another."""
        shapes: Dict[tuple, List[int]] = {}
        for index, data in enumerate(items):
            inputs = data['inputs'] if isinstance(data['inputs'], list) else [data['inputs']]
            shapes.setdefault(tuple(tuple(image.shape) for image in inputs), []).append(index)
        found: list = [None] * len(items)
        for indices in shapes.values():
            results = self._step([items[index] for index in indices])
            for index, result in zip(indices, results):
                found[index] = result
        return found

    @torch.no_grad()
    def _step(self, items: List[dict]) -> list:
        views = len(items[0]['inputs']) if isinstance(items[0]['inputs'], list) else 0
        batch = pseudo_collate(items)
        try:
            batches = [{key: value[view] for key, value in batch.items()} for view in range(views)] or [batch]
            samples = list(zip(*(self.model.test_step(each) for each in batches)))
            if self.scope == 'mmdet':
                return [each.cpu() for each in (self.tta.merge_preds(samples) if views else next(zip(*samples)))]
            return [_with_probabilities(each, self.model) for each in samples]
        except torch.cuda.OutOfMemoryError as e:
            raise SetupError(f'{len(items)} images at once do not fit into memory: give a smaller --batch-size.') from e
        except SetupError:
            raise
        except (RuntimeError, AssertionError, ValueError) as e:
            if len(items) == 1:
                return [f'the teacher fails on it ({reason_of(e)})']
            return [self._step([item])[0] for item in items]


def _with_probabilities(views: Tuple[BaseDataElement, ...], model: BaseModel) -> dict:
    """The likeliest label of each pixel and its probability, ``(H, W)``, as the mean of several views of an image."""
    head = _head_of(model)
    scores = sum(_probabilities(view.seg_logits.data, head) for view in views) / len(views)
    if len(scores) == 1:  # of the second of two classes
        labels = (scores[0] > head.threshold).long()
        best = torch.where(labels > 0, scores[0], 1 - scores[0])
    else:
        best, labels = scores.max(0)
    found = dict(labels=labels.cpu().numpy().astype('uint8'), probabilities=best.cpu().numpy())
    if 'gt_sem_seg' in views[0]:
        found['truth'] = views[0].gt_sem_seg.data[0].cpu().numpy()
    return found


def _head_of(model: BaseModel) -> torch.nn.Module:
    """Find a segmentor's head, of a cascade the last."""
    return model.decode_head[-1] if isinstance(model.decode_head, torch.nn.ModuleList) else model.decode_head


def _probabilities(logits: torch.Tensor, head: torch.nn.Module) -> torch.Tensor:
    if len(logits) == 1:  # MMSegmentation gives the sigmoid already
        return logits
    # Heads that predict masks give sums of probabilities in place of logits.
    masks = any(hasattr(head, name) for name in ('num_queries', 'side_adapter_network'))
    return logits.clamp(max=1) if masks else logits.softmax(0)


def _without_annotations(pipeline: list, scope: str, info: dict) -> list:
    """Copy a pipeline without what loads or needs annotations, also inside of a test-time augmentation."""
    pipeline = _without(copy.deepcopy(pipeline), lambda step: type_name(step).startswith('LoadAnn'))
    path = []  # of several ways through an augmentation, the first
    for step in pipeline:
        path += [branch[0] for branch in step['transforms']] if type_name(step) == 'TestTimeAug' else [step]
    needing = [path[number] for number in needing_labels(path, scope, info)]
    if needing:
        names = ', '.join(map(type_name, needing))
        print_log(f'Images without labels do not go through {names} of their pipeline, which needs labels.', 'current')
    return _without(pipeline, lambda step: any(step is each for each in needing))


def _without(pipeline: list, unwanted: Callable[[dict], bool]) -> list:
    kept = []
    for step in pipeline:
        if isinstance(step, (list, tuple)):
            inner = _without(step, unwanted)
            kept += [inner] if inner else []
        elif not unwanted(step):
            several = type_name(step) == 'TestTimeAug'
            kept.append(dict(step, transforms=_without(step['transforms'], unwanted)) if several else step)
    return kept


def flipped(pipeline: list) -> list:
    """Have the end of a test's pipeline give an image twice: as it is, with its label map, and flipped."""
    flips = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
    pack = dict(pipeline[-1], meta_keys=keys)
    return [*pipeline[:-1], dict(type='TestTimeAug', transforms=[flips, [pack]])]
