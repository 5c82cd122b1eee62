"""Label images by a teacher: its predictions become a data set that any training takes."""

import copy
import os.path as osp
import shlex
from datetime import datetime
from pathlib import Path
from typing import List, Optional, Tuple

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.device import get_device
from mmengine.fileio import dump, load
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, DefaultScope
from mmengine.structures import BaseDataElement
from torch.utils.data import Dataset

from cankd_mm.apis import label_files as files
from cankd_mm.apis import thresholds
from cankd_mm.apis.data import innermost, missing_data
from cankd_mm.apis.pair.zoo import find_model
from cankd_mm.apis.predictor import Predictor
from cankd_mm.apis.thresholds import Threshold
from cankd_mm.config.images import list_images
from cankd_mm.config.pair import NO_PREDICTIONS, is_distillation, own_imports, teacher_config, without_labels
from cankd_mm.config.read import load_config, read_config
from cankd_mm.config.types import from_timm
from cankd_mm.errors import SetupError
from cankd_mm.models.algorithms.frozen_teacher import FrozenTeacher
from cankd_mm.models.builders import build_model
from cankd_mm.models.checkpoints import classes_of, load_checkpoint, load_pretrained, load_weights, pretrained_cfg
from cankd_mm.models.utils import count_classes
from cankd_mm.work_dir import locked

_WAIT = 'wait for its end, or give another --out'


def label(
    teacher: str,
    images: str,
    out: str,
    teacher_ckpt: Optional[str] = None,
    val: Optional[str] = None,
    threshold: Optional[float] = None,
    tta: bool = False,
    batch_size: Optional[int] = None,
) -> dict:
    """Label images by a teacher, and write a data set of them. What was interrupted goes on where it was.

    Args:
        teacher (str): A zoo model's name, a config file, or ``package::path``; of a pair's config, its teacher.
        images (str): What :func:`~cankd_mm.config.images.list_images` takes. The images stay where they are.
        out (str): The folder to write.
        teacher_ckpt (str, optional): Defaults to None, that of the pair or the zoo.
        val (str, optional): A config with the validation data on which each class gets the threshold of its greatest
            F1. Defaults to None, the teacher's own where it is there.
        threshold (float, optional): One for all classes. Defaults to None, those of the validation data, or else 0.5.
        tta (bool): Whether to predict with test-time augmentation, the config's or flips. Defaults to False.
        batch_size (int, optional): How many images go through the teacher at once, if of one size. Defaults to None,
            8 on an accelerator and 2 on a processor.

    Returns:
        dict: What ``labels.json`` in the folder says: ``settings``, ``classes``, ``thresholds``, ``counts``,
        ``images``, ``skipped``, and more.

    Raises:
        SetupError: If there is no teacher, no image or no weights, or if the folder is that of other labels.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise SetupError(f'--threshold is {threshold:g}, and scores are between 0 and 1: give one of these.')
    folder = Path(out)
    settings = dict(teacher=teacher, images=osp.abspath(images), threshold=threshold, val=val, tta=tta)
    cfg, checkpoint = _read_teacher(teacher, teacher_ckpt)
    count, root = _survey(images)
    if folder.resolve() == Path(images).resolve() or Path(images).resolve() in folder.resolve().parents:
        raise SetupError(f'{out!r} lies in the folder of the images {images!r}: give --out another place.')
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        model, meta = _build_teacher(cfg, checkpoint)
        frozen = FrozenTeacher(model, model)
        settings.update(checkpoint=checkpoint, root=root, weights=bytes(frozen.fingerprint[:8].tolist()).hex())
        predictor = Predictor(model.to(get_device()), cfg, meta, tta, batch_size)
        if not (folder / files.LABELS).exists():
            predictor.try_first(list_images(images))
        with locked(folder / files.LOCK, lambda: f'Another process labels into {out!r}', _WAIT):
            labels = _begun(folder, settings)
            if labels is None:
                where, reason = _validation(cfg, val, meta['classes'])
                found, source = _thresholds(predictor, where, reason, threshold)
                labels = dict(
                    command=_command(settings, out),
                    settings=settings,
                    date=datetime.now().isoformat(' ', 'seconds'),
                    scope=predictor.scope,
                    root=root,
                    **meta,
                    thresholds=dict(zip(meta['classes'], found)),
                    thresholds_of=source,
                )
                files.write_data(folder, labels, cfg, where, predictor.masks)
                dump(labels, str(folder / files.LABELS), indent=1)
            _run(predictor, labels, folder, images, count)
            return files.finish(folder, labels)


def _command(settings: dict, out: str) -> str:
    """Write the command that goes on with labels."""
    words = ['cankd', 'label', settings['teacher'], settings['images'], '--out', out]
    for option, key in (('--teacher-ckpt', 'checkpoint'), ('--val', 'val'), ('--threshold', 'threshold')):
        words += [] if settings[key] is None else [option, str(settings[key])]
    return ' '.join(map(shlex.quote, [*words, *(['--tta'] if settings['tta'] else [])]))


def _read_teacher(teacher: str, teacher_ckpt: Optional[str]) -> Tuple[Config, Optional[str]]:
    """Read a teacher's config, with the data that it is used on, and find its weights; None where its config does."""
    found = find_model(teacher, 'teacher')
    if from_timm(found.config):
        raise SetupError(f'The teacher {teacher!r} {NO_PREDICTIONS}: give a whole detector or segmentor.')
    cfg, checkpoint = load_config(found.config), teacher_ckpt or found.weights
    if is_distillation(cfg):
        # Of a pair that is rated on images without labels, their pipeline serves.
        rated = cfg.test_dataloader if without_labels(cfg, 'test') else None
        checkpoint, teacher_cfg = checkpoint or cfg.model.get('teacher_ckpt'), teacher_config(cfg)
        teacher_cfg.test_dataloader = teacher_cfg.get('test_dataloader') or rated
        if not teacher_cfg.get('val_dataloader'):
            _take_validation(teacher_cfg, cfg.model.teacher)
        cfg = teacher_cfg
    if not (cfg.get('test_dataloader') or cfg.get('val_dataloader')):
        raise SetupError(f'{teacher!r} has no test_dataloader, whose pipeline would read images: add one.')
    return cfg, checkpoint


def _take_validation(cfg: Config, teacher: object) -> None:
    """Give a config the validation data of the config that a teacher is named by, with what that imports."""
    path = teacher if isinstance(teacher, str) else teacher.get('cfg_path')
    own = read_config(path) if path else {}
    for key in ('val_dataloader', 'val_evaluator'):
        cfg[key] = own.get(key)
    imports = [*dict.fromkeys([*own_imports(cfg), *own_imports(own)])]
    if imports:
        cfg.custom_imports = dict(imports=imports, allow_failed_imports=False)


def _survey(images: str) -> Tuple[int, str]:
    """Count images, and find the folder that all lie in."""
    root = osp.abspath(images) if osp.isdir(images) else None
    count = 0
    for path in list_images(images):
        count += 1
        if root is None:
            root = osp.dirname(path)
        while not path.startswith(osp.join(root, '')):
            root = osp.dirname(root)
    return count, root


def _build_teacher(cfg: Config, checkpoint: Optional[str]) -> Tuple[BaseModel, dict]:
    """Build a teacher with its weights, and find names and colours of the classes that it predicts."""
    model = build_model(cfg.model, 'teacher', cfg.get('data_preprocessor'))
    known = {}
    if checkpoint is not None:
        read = load_checkpoint(checkpoint, 'teacher')
        known = classes_of(read)
        load_weights(model, read['state_dict'], checkpoint, 'teacher')
    elif pretrained_cfg(model) is not None:
        load_pretrained(model, pretrained_cfg(model), 'teacher')
    else:
        raise SetupError('The weights of the teacher are not known: give its checkpoint with --teacher-ckpt PATH.')
    data = dict(innermost(cfg.get('test_dataloader') or cfg.val_dataloader), lazy_init=True)
    metas = [DATASETS.build(data).metainfo, known]
    number = 0 if hasattr(model, 'language_model') else count_classes(model)  # of whose classes the words are free
    for meta in metas:
        names = meta.get('classes') or ()
        if names and number in (0, len(names)):
            return model, dict(classes=list(names), palette=_palette(meta.get('palette'), len(names)))
    raise SetupError(
        f'The teacher predicts {number} classes, and its data names {len(metas[0].get("classes") or ())}: give the '
        'config that it was trained with, whose metainfo.classes names those that it predicts.'
    )


def _palette(palette: object, number: int) -> List[tuple]:
    if not isinstance(palette, (list, tuple)) or len(palette) != number:
        palette = np.random.RandomState(42).randint(0, 255, (number, 3))  # as the libraries choose colours
    return [tuple(map(int, colour)) for colour in palette]


def _begun(folder: Path, settings: dict) -> Optional[dict]:
    """Read what labels in a folder were begun with, None where none were; other settings are a SetupError."""
    path = folder / files.LABELS
    if not path.exists():
        others = [each.name for each in folder.iterdir() if each.name not in (files.LOCK, files.DATA)]
        if others:
            raise SetupError(f'{str(folder)!r} holds {others[0]!r} and no labels: give --out a new folder.')
        return None
    labels = load(str(path))
    for key, value in settings.items():
        before = labels['settings'].get(key)
        if before != value:
            raise SetupError(
                f'The labels in {str(folder)!r} were begun with {key}={before!r}, and now it is {value!r}: give the '
                'same again to go on, or another --out.'
            )
    return labels


def _validation(cfg: Config, val: Optional[str], classes: List[str]) -> Tuple[Optional[Config], str]:
    """Find the config with validation data of these classes; None and the reason where there is none."""
    where, reason = (cfg if val is None else read_config(val)), ''
    if not where.get('val_dataloader') or not where.get('val_evaluator'):
        reason = 'there is no val_dataloader with a val_evaluator'
    else:
        reason = next((f'{path!r} does not exist' for _, path in missing_data(where, 'val')), '')
    if not reason:
        data = dict(innermost(where.val_dataloader), lazy_init=True)
        if list(DATASETS.build(data).metainfo.get('classes') or ()) != classes:
            reason = 'it has other classes than the teacher'
    if reason and val is not None:
        raise SetupError(f'The validation data of {val!r} does not serve, as {reason}: correct it, or leave --val out.')
    return (None if reason else where), reason


def _thresholds(
    predictor: Predictor, where: Optional[Config], reason: str, threshold: Optional[float]
) -> Tuple[List[Threshold], str]:
    """Find the threshold of each class, and say where they come from."""
    number, unknown = len(predictor.classes), [Threshold(score) for score in predictor.unknown]
    said = f'{unknown[-1].score:g}'  # of two classes by one channel, that of the second
    if threshold is not None:
        return [Threshold(float(threshold))] * number, 'as --threshold says'
    if where is None:
        return unknown, f'{said}, without validation data ({reason})'
    dataset = DATASETS.build(innermost(where.val_dataloader))
    if predictor.annotated is not None:
        dataset.pipeline = Compose(copy.deepcopy(predictor.annotated))
    batches = predictor.on(dataset.__getitem__, range(len(dataset)), len(dataset), 'validation')
    found = (each for batch in batches for each in batch if not isinstance(each[1], str))
    if predictor.scope == 'mmdet':
        best = thresholds.of_boxes((_boxes(dataset, *each) for each in found), number)
    else:
        pixels = ((f['labels'], f['probabilities'], f['truth']) for _, f in found)
        best = thresholds.of_pixels(pixels, number, dataset.ignore_index)
    source = f'greatest F1 of each class on {len(dataset)} validation images; {said} where nothing of it is found'
    return [each or other for each, other in zip(best, unknown)], source


def _boxes(dataset: Dataset, index: int, sample: BaseDataElement) -> Tuple[thresholds.Boxes, thresholds.Boxes]:
    found, true = sample.pred_instances, dataset.get_data_info(index)['instances']
    boxes = np.array([each['bbox'] for each in true], np.float32).reshape(-1, 4)
    labels = np.array([each['bbox_label'] for each in true], int)
    ignored = np.array([each.get('ignore_flag', 0) for each in true], bool)
    return tuple(found[key].numpy() for key in ('bboxes', 'labels', 'scores')), (boxes, labels, ignored)


def _run(predictor: Predictor, labels: dict, folder: Path, images: str, count: int) -> None:
    """Predict on all images that have no line yet."""
    done, prefix = files.done_images(folder), osp.join(labels['root'], '')
    scores = np.array([labels['thresholds'][name][0] for name in labels['classes']])
    if done:
        print_log(f'{len(done)} of {count} images have labels already: {str(folder)!r} is gone on with.', 'current')
    left = (path for path in list_images(images) if path[len(prefix) :] not in done)
    with (folder / files.LINES).open('ab') as lines:
        for batch in predictor.on(predictor.read, left, count - len(done), 'images'):
            entries = []
            for path, found in batch:
                entry: dict = dict(image=path[len(prefix) :])
                if isinstance(found, str):
                    entry['skipped'] = found
                elif predictor.scope == 'mmdet':
                    size = found.ori_shape[:2]
                    instances = found.pred_instances
                    given = instances.scores.double().numpy()
                    keep = given >= scores[instances.labels.numpy()]
                    entry.update(size=size[::-1], objects=files.objects_of(instances, given, size, keep))
                else:
                    unsure = found['probabilities'] < scores[found['labels']]
                    found['labels'][unsure] = files.UNSURE
                    entry['pixels'] = files.write_map(folder, entry['image'], found['labels'])
                entries.append(entry)
            files.write_lines(lines, entries)
