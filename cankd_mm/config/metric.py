"""The metric that rates a run: the best checkpoint, comparisons, searches, tables and pages all ask here."""

from typing import Dict, Iterator, Mapping, NamedTuple, Optional, Sequence, Tuple

from mmengine.config import Config
from mmengine.registry import METRICS

from cankd_mm.config.types import class_of, library_of, type_name
from cankd_mm.errors import SetupError


class Metric(NamedTuple):
    """A figure that an evaluator reports."""

    key: str  # MMEngine's name of it
    name: str  # that of tables
    factor: float = 1  # makes per cent of it
    rule: str = 'greater'  # or 'less', what is better

    def of(self, reported: Mapping[str, float]) -> float:
        """Take the metric in per cent out of what was reported: 0 where it is missing, as of what detects nothing."""
        return round(self.factor * float(reported.get(self.key, 0.0)), 2)


# Evaluators of the libraries: the argument that chooses figures and its default, the figure that each choice reports,
# and what makes per cent of it.
_EVALUATORS = {
    'LVISMetric': ('metric', 'bbox', {'bbox': 'bbox_AP', 'segm': 'segm_AP'}, 100),
    'CocoMetric': ('metric', 'bbox', {'bbox': 'bbox_mAP', 'segm': 'segm_mAP', 'proposal': 'AR@100'}, 100),
    'VOCMetric': ('metric', 'mAP', {'mAP': 'mAP', 'recall': 'AR@100'}, 100),
    'OpenImagesMetric': (None, 'mAP', {'mAP': 'mAP'}, 100),
    'CityScapesMetric': (None, 'mAP', {'mAP': 'mAP'}, 100),
    'CrowdHumanMetric': ('metric', 'AP', {'AP': 'mAP', 'JI': 'JI'}, 100),
    'CocoPanopticMetric': (None, 'PQ', {'PQ': 'PQ'}, 1),
    'SemSegMetric': ('iou_metrics', 'mIoU', {'mIoU': 'mIoU', 'mDice': 'mDice', 'mFscore': 'mFscore'}, 1),
    'IoUMetric': ('iou_metrics', 'mIoU', {'mIoU': 'mIoU', 'mDice': 'mDice', 'mFscore': 'mFscore'}, 1),
}
TEACHER = 'teacher/'  # the prefix of the teacher's own, beside the student's
AGAINST_TEACHER = 'against_teacher'  # the prefix of metrics that take the teacher's predictions for true
_NAMES = {
    'bbox_mAP': 'box AP',
    'bbox_AP': 'box AP',
    'segm_mAP': 'mask AP',
    'segm_AP': 'mask AP',
    'pascal_voc/mAP': 'VOC mAP',
    'coco_panoptic/PQ': 'PQ',
}


def of_teacher(reported: Mapping[str, float]) -> Dict[str, float]:
    """Take what a validation has reported of the teacher, under the plain names."""
    return {key[len(TEACHER) :]: value for key, value in reported.items() if key.startswith(TEACHER)}


def metric_of(cfg: Config, split: str = 'val') -> Optional[Metric]:
    """Find the metric that rates a run, by the evaluators of a split, ``'val'`` or ``'test'``.

    It is the one that ``default_hooks.checkpoint.save_best`` names, or else the first that the first evaluator of the
    config is asked for: box AP, mIoU, mDice, ...; None where nothing is evaluated, labels are kept elsewhere
    (``format_only``), or the config does not tell what its evaluators report.
    """
    evaluators = cfg.get(f'{split}_evaluator')
    if not evaluators or not cfg.get(f'{split}_dataloader'):
        return None
    known = list(_known(evaluators, cfg.get('default_scope')))
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    named, rule = _first(hook.get('save_best')), _first(hook.get('rule')) or 'greater'
    if named in (None, 'auto'):
        return known[0] if known else None
    for metric in known:
        if metric.key.rpartition('/')[0] == named.rpartition('/')[0]:  # of the same evaluator
            return Metric(named, _name(named), metric.factor, rule)
    # Of the user's own evaluator, or reported under another name in the test.
    return Metric(named, _name(named), rule=rule) if split == 'val' or not known else known[0]


def required_metric(cfg: Config, config: str) -> Metric:
    """Find the metric that rates a run as :func:`metric_of`, and raise a :class:`SetupError` where there is none."""
    metric = metric_of(cfg)
    if metric is not None:
        return metric
    if not cfg.get('val_evaluator') or not cfg.get('val_dataloader'):
        raise SetupError(f'{config!r} validates nothing that could rate a run: add val_dataloader and val_evaluator.')
    kinds = ', '.join(type_name(entry) for entry, _ in _entries(cfg.val_evaluator))
    raise SetupError(
        f'{config!r} does not tell which figure of {kinds} rates a run: name it as it is logged, with '
        'default_hooks.checkpoint.save_best.'
    )


def check_named(cfg: Config) -> None:
    """Raise a SetupError where a hook waits for a metric that no evaluator of the validation reports.

    MMEngine finds that out at the first validation, and an early stop goes on without it.
    """
    evaluators, scope = cfg.get('val_evaluator'), cfg.get('default_scope')
    if not evaluators or not cfg.get('val_dataloader'):
        return
    found = list(_reported(evaluators, scope))
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    named = {'default_hooks.checkpoint.save_best': checkpoint.get('save_best')}
    for number, hook in enumerate(cfg.get('custom_hooks') or ()):
        if type_name(hook) == 'EarlyStoppingHook':  # others may wait for something else
            named[f'custom_hooks[{number}].monitor'] = hook.get('monitor')
    for where, names in named.items():
        for name in [names] if isinstance(names, str) else names or ():
            prefix, _, figure = name[len(TEACHER) * name.startswith(TEACHER) :].rpartition('/')
            if name == 'auto' or any(
                figures is None or prefix == begin and (figure in chosen or figure not in figures.values())
                for begin, chosen, figures, _ in found
            ):
                continue
            known = ' or '.join(repr(metric.key) for metric in _known(evaluators, scope)) or "'auto'"
            problem = f'{where} is {name!r}, which val_evaluator does not report'
            raise SetupError(f'{problem}: write {known}, or leave it out.')


def _reported(evaluators: object, scope: Optional[str]) -> Iterator[Tuple[str, list, Optional[Mapping], float]]:
    """Yield of each evaluator what its figures begin with, those it is asked for, all, and what makes per cent of them.

    Of one that is not known, all is None.
    """
    for entry, dataset in _entries(evaluators):
        kind = class_of(METRICS, entry['type'], library_of(entry['type']) or scope)
        names = [base.__name__ for base in getattr(kind, '__mro__', ())] or [type_name(entry)]
        found = next((_EVALUATORS[name] for name in names if name in _EVALUATORS), None)
        if found is None or entry.get('format_only'):
            yield '', [], None, 1
            continue
        argument, default, figures, factor = found
        asked = (entry.get(argument) if argument else None) or default
        chosen = [figures[name] for name in ([asked] if isinstance(asked, str) else asked) if name in figures]
        prefix = entry.get('prefix') or getattr(kind, 'default_prefix', None)
        yield '/'.join(filter(None, (dataset, prefix))), chosen, figures, factor


def _known(evaluators: object, scope: Optional[str]) -> Iterator[Metric]:
    """List the first figure of each evaluator that is known."""
    for begin, chosen, _, factor in _reported(evaluators, scope):
        for figure in chosen[:1]:
            key = '/'.join(filter(None, (begin, figure)))
            yield Metric(key, _name(key), factor)


def _entries(evaluators: object) -> Iterator[Tuple[Mapping, Optional[str]]]:
    """Every evaluator's config, with the name of its data set where several are evaluated apart."""
    if isinstance(evaluators, Mapping) and 'metrics' in evaluators:
        datasets: Sequence = evaluators.get('dataset_prefixes') or ()
        for number, (entry, _) in enumerate(_entries(evaluators['metrics'])):
            yield entry, datasets[number] if number < len(datasets) else None
    elif isinstance(evaluators, Mapping):
        yield evaluators, None
    elif isinstance(evaluators, (list, tuple)):
        for entry in evaluators:
            yield from _entries(entry)


def _name(key: str) -> str:
    if key.startswith(f'{AGAINST_TEACHER}/'):
        return f'{_name(key.partition("/")[2])} against the teacher'
    return _NAMES.get(key) or _NAMES.get(key.rpartition('/')[2], key)


def _first(value: object) -> Optional[str]:
    return value[0] if isinstance(value, (list, tuple)) and value else value or None
