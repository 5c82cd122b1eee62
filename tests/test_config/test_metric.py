"""The metric that rates a run is the one that its config names, in whatever form; and MMEngine reports it."""

import pytest
from mmengine.config import Config
from mmengine.evaluator import Evaluator

from cankd_mm.apis import train
from cankd_mm.config.metric import check_named, metric_of, required_metric
from cankd_mm.config.read import load_config
from cankd_mm.errors import SetupError


def rated_by(evaluator, hook=None, scope='mmdet', **entries):
    hooks = dict(checkpoint=dict(type='CheckpointHook', **(hook or {})))
    return Config(
        dict(default_scope=scope, val_dataloader=dict(x=1), val_evaluator=evaluator, default_hooks=hooks, **entries)
    )


@pytest.mark.parametrize(
    'evaluator, hook, key, name, factor',
    [
        (dict(type='CocoMetric', metric='bbox'), {}, 'coco/bbox_mAP', 'box AP', 100),
        (dict(type='CocoMetric', metric=['bbox', 'segm']), {}, 'coco/bbox_mAP', 'box AP', 100),
        (dict(type='CocoMetric', metric=['segm']), {}, 'coco/segm_mAP', 'mask AP', 100),
        (dict(type='CocoMetric'), dict(save_best='coco/segm_mAP'), 'coco/segm_mAP', 'mask AP', 100),
        (
            dict(type='CocoMetric'),
            dict(save_best=['coco/bbox_mAP_50', 'x']),
            'coco/bbox_mAP_50',
            'coco/bbox_mAP_50',
            100,
        ),
        (dict(type='CocoMetric'), dict(save_best='auto'), 'coco/bbox_mAP', 'box AP', 100),
        (dict(type='CocoMetric', prefix='cells'), {}, 'cells/bbox_mAP', 'box AP', 100),
        (dict(type='mmdet.CocoMetric'), {}, 'coco/bbox_mAP', 'box AP', 100),
        (dict(type='mmdet.evaluation.CocoMetric'), {}, 'coco/bbox_mAP', 'box AP', 100),
        (dict(type='CocoOccludedSeparatedMetric'), {}, 'coco/bbox_mAP', 'box AP', 100),  # extends CocoMetric
        (dict(type='LVISMetric', metric=['bbox', 'segm']), {}, 'lvis/bbox_AP', 'box AP', 100),
        (dict(type='VOCMetric', metric='mAP', eval_mode='11points'), {}, 'pascal_voc/mAP', 'VOC mAP', 100),
        (dict(type='CocoPanopticMetric'), {}, 'coco_panoptic/PQ', 'PQ', 1),
        (
            [dict(type='DumpDetResults', out_file_path='x.pkl'), dict(type='VOCMetric')],
            {},
            'pascal_voc/mAP',
            'VOC mAP',
            100,
        ),
        (dict(metrics=[dict(type='CocoMetric')]), {}, 'coco/bbox_mAP', 'box AP', 100),
        (
            dict(
                type='MultiDatasetsEvaluator',
                metrics=[dict(type='VOCMetric'), dict(type='CocoMetric')],
                dataset_prefixes=['VOC', 'COCO'],
            ),
            {},
            'VOC/pascal_voc/mAP',
            'VOC/pascal_voc/mAP',
            100,
        ),
        (dict(type='mmseg.IoUMetric'), {}, 'mIoU', 'mIoU', 1),
        (dict(type='mmseg.IoUMetric', iou_metrics=['mDice', 'mIoU']), {}, 'mDice', 'mDice', 1),
        (dict(type='mmseg.IoUMetric', iou_metrics=['mFscore'], prefix='a'), {}, 'a/mFscore', 'a/mFscore', 1),
        (dict(type='mmseg.IoUMetric'), dict(save_best='mAcc'), 'mAcc', 'mAcc', 1),
        (dict(type='SomebodysMetric'), dict(save_best='own/error', rule='less'), 'own/error', 'own/error', 1),
    ],
)
def test_every_form_of_an_evaluator(evaluator, hook, key, name, factor):
    metric = metric_of(rated_by(evaluator, hook))
    assert (metric.key, metric.name, metric.factor, metric.rule) == (key, name, factor, hook.get('rule', 'greater'))
    assert metric.of({key: 0.4}) == 0.4 * factor and metric.of({}) == 0, 'nothing detected, nothing reported'


def test_a_class_is_a_type():
    from mmdet.evaluation import CocoMetric

    assert metric_of(rated_by(dict(type=CocoMetric, metric=['segm']))).key == 'coco/segm_mAP'


@pytest.mark.parametrize('evaluator', [dict(type='SomebodysMetric'), dict(type='CocoMetric', format_only=True)])
def test_what_cannot_be_rated_is_said_before_a_training(evaluator):
    cfg = rated_by(evaluator)
    assert metric_of(cfg) is None
    with pytest.raises(SetupError, match=f'which figure of {evaluator["type"]} rates a run: name it'):
        required_metric(cfg, 'x.py')
    cfg.pop('val_evaluator')
    with pytest.raises(SetupError, match="'x.py' validates nothing that could rate a run"):
        required_metric(cfg, 'x.py')


@pytest.mark.parametrize(
    'evaluator, best, words',
    [
        (dict(type='CocoMetric'), 'bbox_mAP', "save_best is 'bbox_mAP', .* write 'coco/bbox_mAP', or leave it out"),
        (dict(type='CocoMetric'), ['coco/bbox_mAP', 'coco/segm_mAP'], "save_best is 'coco/segm_mAP'"),
        (dict(type='CocoMetric', prefix='against_teacher'), 'coco/bbox_mAP', "write 'against_teacher/bbox_mAP'"),
        (dict(type='mmseg.IoUMetric'), 'mDice', "save_best is 'mDice', .* write 'mIoU'"),
        (dict(type='mmseg.IoUMetric', prefix='a'), 'mIoU', "write 'a/mIoU'"),
        (dict(type='CocoMetric'), 'coco/bbox_mAP_50', None),
        (dict(type='CocoMetric'), 'teacher/coco/bbox_mAP', None),
        (dict(type='CocoMetric'), 'auto', None),
        ([dict(type='CocoMetric'), dict(type='mmseg.IoUMetric')], 'aAcc', None),
        ([dict(type='CocoMetric'), dict(type='SomebodysMetric')], 'error', None),
    ],
)
@pytest.mark.parametrize('hook', ['checkpoint', 'early stop'])
def test_hooks_that_wait_for_what_is_never_reported(evaluator, best, words, hook):
    if hook == 'checkpoint':
        cfg = rated_by(evaluator, dict(save_best=best))
    else:
        stops = [best] if isinstance(best, str) else best
        cfg = rated_by(evaluator, custom_hooks=[dict(type='EarlyStoppingHook', monitor=name) for name in stops])
    if words is None:
        return check_named(cfg)
    with pytest.raises(SetupError, match=words.replace('save_best', r'(save_best|\.monitor)')):
        check_named(cfg)


@pytest.mark.parametrize(
    'changes, best',
    [
        ({'val_evaluator.iou_metrics': ['mDice']}, 'mDice'),
        ({'val_evaluator.iou_metrics': ['mFscore', 'mIoU'], 'val_evaluator.prefix': 'cells'}, 'cells_mFscore'),
        ({'val_evaluator.type': 'mmseg.IoUMetric'}, 'mIoU'),
        ({'val_evaluator.type': 'mmseg.evaluation.metrics.IoUMetric'}, 'mIoU'),
        ({'default_hooks.checkpoint.save_best': 'aAcc'}, 'aAcc'),
    ],
)
def test_the_best_checkpoint_is_kept_by_it(pairs, tmp_path, changes, best):
    config = str(pairs['segmentation'])
    options = {'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1, **changes}
    metric = metric_of(load_config(config, options))
    runner = train(config, work_dir=str(tmp_path), cfg_options=options)
    (kept,) = tmp_path.glob('best_*.pth')
    assert kept.stem == f'best_{best}_epoch_1' and (tmp_path / 'student_best.pth').exists()
    assert isinstance(runner.val_evaluator, Evaluator)
    assert metric.key.replace('/', '_') == best
