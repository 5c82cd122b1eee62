"""Train a pair on images without labels: which steps of the student's pipeline they go through, and what keeps it."""

import copy
from contextlib import suppress
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from mmengine.config import Config
from mmengine.model import BaseModel

from cankd_mm.apis.data import innermost, missing_data
from cankd_mm.apis.pair.sources import Source
from cankd_mm.apis.running import running
from cankd_mm.config.differences import SWITCHING
from cankd_mm.config.images import list_images
from cankd_mm.config.metric import AGAINST_TEACHER
from cankd_mm.config.types import type_name
from cankd_mm.config.write import arguments, laid_out, literal
from cankd_mm.engine.unlabeled import without_labels
from cankd_mm.errors import SetupError
from cankd_mm.models.distillers.probe import levels_read, probe, probe_both
from cankd_mm.models.utils import count_classes

_MIXING = ('Mosaic', 'MixUp', 'Mixup', 'CopyPaste')  # several images, with their boxes
_LOGITS = 'decode_head.conv_seg'


def unlabeled_text(cfg: Config, images: str, beside: bool, val: Optional[str]) -> Tuple[List[str], List[str]]:
    """Write the data loader of a training on images without labels, and say what became of the student's pipeline.

    Args:
        cfg (Config): The student's config, with its data.
        images (str): A folder, a list or a COCO file. None of it there is a SetupError.
        beside (bool): Whether the student's labelled data set stays, with the images beside it.
        val (str, optional): The same of images to validate on, where the teacher's predictions count as true. None is
            the student's own validation data, or no validation where that is not there.
    """
    count, batch = sum(1 for _ in list_images(images)), cfg.train_dataloader.get('batch_size', 1)
    pipelines, dataset = [], cfg.train_dataloader.get('dataset') or {}
    while dataset:
        pipelines.insert(0, dataset.get('pipeline') or [])
        labeled, dataset = dataset, dataset.get('dataset') or (dataset.get('datasets') or [None])[0]
    scope, left_out = cfg.get('default_scope'), []
    steps = _fitting([step for pipeline in pipelines for step in pipeline], left_out)
    steps = running(steps, scope, left_out)
    words = arguments(_images(images, labeled))
    listed = ',\n    '.join(map(literal, steps))
    lines = [f'pipeline = [\n    {listed}]']
    unlabeled = f'dict(\n        {words},\n        pipeline=pipeline)'
    if beside:
        mix = "_delete_=True, type='LabeledAndUnlabeled', ratio=1.0, labeled=_base_.train_dataloader.dataset"
        inside = unlabeled.replace('\n', '\n    ')
        text = f'dict(\n        {mix},\n        unlabeled={inside})'
    else:
        text = unlabeled.replace('type=', '_delete_=True, type=', 1)
    loader = [f'dataset={text}']
    sampler = type_name((cfg.train_dataloader.get('sampler') or {}).get('type', 'DefaultSampler'))
    if sampler not in ('DefaultSampler', 'InfiniteSampler'):
        left_out.append(sampler)
        kind = 'InfiniteSampler' if cfg.train_cfg.get('max_epochs') is None else 'DefaultSampler'
        loader.insert(0, f"sampler=dict(_delete_=True, type='{kind}', shuffle=True)")
    lines.append(f'train_dataloader = dict(\n    {", ".join(loader)})')
    validation, said = _validation(cfg, val)
    lines += [*validation, *_hooks(cfg, beside, val is not None, left_out)]
    kept = ', '.join(dict.fromkeys(type_name(step) for step in steps))
    alone = f'an epoch of {-(-count // batch)} iterations'
    length = 'one for each labelled image, which makes an epoch twice as long' if beside else alone
    notes = [f'images without labels: {count} of {images}, {length}, through {kept}']
    return lines, [*notes, *said, f'left out, as labels are needed: {", ".join(left_out) or "nothing"}']


def _validation(cfg: Config, images: Optional[str]) -> Tuple[List[str], List[str]]:
    """Write what rates a training, where it is not the student's own validation data, and say so."""
    if images is None:
        if not any(missing_data(cfg, 'val')):
            return [], []
        advice = '--unlabeled-val IMAGES rates by the teacher, as does cankd test --against-teacher'
        return ['val_dataloader, val_evaluator, val_cfg = None, None, None'], [
            f'no validation, as its data is not there: {advice}'
        ]
    count, own = sum(1 for _ in list_images(images)), cfg.get('test_dataloader') or cfg.get('val_dataloader')
    if not own:
        raise SetupError('The student has no test_dataloader, whose pipeline would read these images: add one.')
    detects = cfg.get('default_scope') == 'mmdet'
    given = cfg.get('val_evaluator') or {}
    asked = (given[0] if isinstance(given, list) else given).get('iou_metrics', ['mIoU'])
    evaluator = dict(type='CocoMetric', metric='bbox') if detects else dict(type='IoUMetric', iou_metrics=_plain(asked))
    like = innermost(own)
    dataset = dict(_images(images, like), pipeline=_plain(like['pipeline']))
    rating = dict(dataloader=dict(_plain(own), dataset=dataset), evaluator=dict(evaluator, prefix=AGAINST_TEACHER))
    entries = {f'val_{key}': value for key, value in rating.items()}
    entries['val_cfg'] = dict(type='DistillValLoop', teacher='never')  # by itself, it would be right
    if cfg.get('test_dataloader'):
        entries.update({f'test_{key}': value for key, value in rating.items()})
    deleting = {key: dict(_delete_=True) if isinstance(cfg.get(key), dict) else {} for key in entries}
    note = f"validation: {count} of {images}, where the teacher's predictions count as true"
    return [f'{key} = {laid_out({**deleting[key], **value})}' for key, value in entries.items()], [note]


def _hooks(cfg: Config, beside: bool, rated: bool, left_out: List[str]) -> List[str]:
    """Write the hooks that exchange a pipeline of labelled images, or that wait for a metric, where they change."""

    def renamed(value: object) -> object:
        if isinstance(value, (list, tuple)):
            return type(value)(map(renamed, value))
        return f'{AGAINST_TEACHER}/{value.rpartition("/")[2]}' if rated and value and value != 'auto' else value

    lines, hooks = [], _plain(cfg.get('custom_hooks') or [])
    best = ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('save_best')
    if renamed(best) != best:
        lines.append(f'default_hooks = dict(checkpoint=dict(save_best={literal(renamed(best))}))')
    kept = [hook for hook in hooks if beside or type_name(hook) not in SWITCHING]
    left_out += [type_name(hook) for hook in hooks if hook not in kept]
    kept = [
        {**hook, 'monitor': renamed(hook['monitor'])} if type_name(hook) == 'EarlyStoppingHook' else hook
        for hook in kept
    ]
    if kept != hooks:
        lines.append(f'custom_hooks = [{", ".join(laid_out(hook, 4) for hook in kept)}]')
    return lines


def _images(images: str, like: dict) -> dict:
    """Describe images without labels, with the classes of a data set."""
    known = dict(metainfo=_plain(like['metainfo'])) if like.get('metainfo') else {}
    return dict(type='UnlabeledImages', images=str(Path(images).absolute()), like=like['type'], **known)


def _plain(value: object) -> object:
    return Config(dict(value=value)).to_dict()['value']


def _fitting(steps: list, left_out: List[str]) -> list:
    """Take steps that need no labels by their kind, also of those that choose among others."""
    kept = []
    for step in copy.deepcopy(_plain(steps)):
        kind = type_name(step)
        if 'Annotations' in kind or 'Proposals' in kind or any(word in kind for word in _MIXING):
            left_out.append(kind)
            continue
        if isinstance(step.get('transforms'), list):
            nested = step['transforms'] and isinstance(step['transforms'][0], list)
            inner = [_fitting(branch, left_out) for branch in step['transforms']] if nested else None
            step['transforms'] = inner if nested else _fitting(step['transforms'], left_out)
        if step.get('cat_max_ratio', 1.0) < 1:  # of MMSegmentation's RandomCrop, by the label map
            left_out.append(f'{kind}.cat_max_ratio')
            step['cat_max_ratio'] = 1.0
        kept.append(step)
    return kept


def kept_by(
    student: BaseModel, teacher: BaseModel, source: Source, parts: List[str], labeled: bool
) -> Dict[str, object]:
    """Find what keeps the parts behind the distilled features where images have no labels, as arguments of the model.

    Parts with the teacher's names and shapes start from it and stay, also beside ``labeled`` images: training them on
    few labels was worse. All levels that they read are then distilled. Where a segmentor's head does not fit and no
    image has labels, the divergence of its logits from the teacher's trains it, if both have one shape.

    Raises:
        SetupError: If neither does and no image has labels, with what to do.
    """
    heads = {name: child for name, child in student.named_children() if any(True for _ in child.parameters())}
    first = source.settings['source'].split('.')[0]
    behind = [name for name in heads if name not in ('backbone', first, 'auxiliary_head')]
    behind = [name for name in behind if name != 'neck' or first == 'backbone']
    lacking = [name for name in behind if name not in parts]
    if not lacking:  # nothing else trains what the heads read
        levels = dict(levels=None) if first == 'neck' else {}
        if first == 'backbone' and 'levels' in source.settings:
            read = levels_read(student, probe(student, source.settings['source'], 'student', training=True))
            if len(read) > 1:
                theirs = read if 'teacher_levels' in source.settings else None
                levels = dict(levels=read, teacher_levels=theirs)
        return dict(init_from_teacher='auto', frozen_parts=behind, distiller=levels)
    if labeled:
        return {}
    reason = ''
    if lacking == ['decode_head']:
        with suppress(SetupError):
            ours, theirs = probe_both(student, _LOGITS, teacher, _LOGITS)
            reason = f' (its logits are {ours[0].shape}, those of the teacher {theirs[0].shape})'
            if ours[0].shape[1] == 1:  # a softmax over one channel is 1
                reason = ' (its logits have a single channel, by which the divergence does not tell it from another)'
            elif ours[0].shape == theirs[0].shape:
                record, side = dict(logits=dict(type='ModuleOutputs', source=_LOGITS)), dict(recorder='logits')
                mapping = dict(preds_S=dict(side, from_student=True), preds_T=dict(side, from_student=False))
                # The loss is a mean over the classes as well: 10 for each pixel, as in configs/methods/kl-segmentation.
                loss = dict(type='KLDivergence', tau=1, reduction='mean', loss_weight=10.0 * ours[0].shape[1])
                recorders = dict(student_recorders=record, teacher_recorders=record)
                losses = dict(distill_losses=dict(loss_logits=loss), loss_forward_mappings=dict(loss_logits=mapping))
                return dict(distiller={**recorders, **losses})
    (part, *_), problem = lacking, f"does not fit the teacher's{reason}, and without labels nothing trains it"
    classes = count_classes(student), count_classes(teacher)
    if classes[0] != classes[1]:
        raise SetupError(f'The student predicts {classes[0]} classes and the teacher {classes[1]}: give both the same.')
    raise SetupError(f"The student's {part} {problem}: {without_labels(part)}.")
