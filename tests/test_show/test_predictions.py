"""Boxes, masks and label maps are drawn at any size; figures are those of the libraries' own evaluation."""

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData

from cankd_mm.apis import test as evaluate
from cankd_mm.config.pair import student_config
from cankd_mm.config.read import load_config
from cankd_mm.models.builders import build_model
from cankd_mm.show import predictions

META = dict(classes=('a', 'b'), palette=[(255, 0, 0), (0, 255, 0)])


@pytest.mark.parametrize('side', [60, 900])
@pytest.mark.parametrize('masks', [True, False])
def test_instances_are_drawn_where_they_are(side, masks):
    box = torch.tensor([[0.25, 0.25, 0.75, 0.5]]) * side
    bitmap = np.zeros((1, side, side), np.uint8)
    bitmap[:, side // 4 : side // 2, side // 4 : 3 * side // 4] = 1
    truth = InstanceData(bboxes=HorizontalBoxes(box), labels=torch.tensor([1]))
    found = InstanceData(bboxes=box, labels=torch.tensor([1]), scores=torch.tensor([0.9]))
    if masks:
        truth.masks, found.masks = BitmapMasks(bitmap, side, side), torch.from_numpy(bitmap).bool()
    image = np.full((side, side, 3), 128, np.uint8)
    annotated = DetDataSample(gt_instances=truth)
    for drawn in (
        predictions.draw(image, annotated, 'mmdet', META, truth=True),
        predictions.draw(image, DetDataSample(pred_instances=found), 'mmdet', META),
    ):
        assert drawn.shape == (480, 480, 3)
        changed = (drawn.astype(int) - 128).__abs__().max(2) > 20
        rows, columns = np.nonzero(changed)
        assert abs(rows.max() - 240) < 12 and abs(columns.min() - 120) < 12 and abs(columns.max() - 360) < 12
        assert changed[200, 300] == masks
    nothing = DetDataSample(pred_instances=found[found.scores > 1])
    assert np.abs(predictions.draw(image, nothing, 'mmdet', META).astype(int) - 128).max() == 0


def test_label_maps_are_drawn():
    from mmseg.structures import SegDataSample

    labels = torch.zeros(1, 40, 60, dtype=torch.long)
    labels[:, :, 30:] = 1
    image = np.full((40, 60, 3), 128, np.uint8)
    annotated = SegDataSample(gt_sem_seg=PixelData(data=labels))
    found = SegDataSample(pred_sem_seg=PixelData(data=1 - labels))
    truth = predictions.draw(image, annotated, 'mmseg', META, truth=True)
    drawn = predictions.draw(image, found, 'mmseg', META)
    assert truth.shape == drawn.shape == (320, 480, 3)
    assert truth[160, 60, 0] > truth[160, 60, 1] and drawn[160, 60, 1] > drawn[160, 60, 0]
    assert truth[160, 400, 1] > truth[160, 400, 0]


def trained(pairs, task, tmp_path):
    """A student that finds something: its weights are random, and no score is too low."""
    config = str(pairs[task].with_name(f'{task}_student.py'))
    cfg = load_config(config)
    init_default_scope(cfg.default_scope)
    model = build_model(cfg.model, 'model').eval()
    model.init_weights()
    torch.save(model.state_dict(), tmp_path / 'model.pth')
    return config, cfg, model


@pytest.mark.slow
@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_figures_are_those_of_the_evaluation(pairs, tmp_path, task):
    config, cfg, model = trained(pairs, task, tmp_path)
    metrics = evaluate(config, str(tmp_path / 'model.pth'), work_dir=str(tmp_path / 'test'))
    found = predictions.rate_by_class(model, cfg)
    if task == 'segmentation':
        assert found.overall == pytest.approx(metrics['mIoU'], abs=0.006) and found.sizes == {}
        assert np.nanmean(list(found.classes.values())) == pytest.approx(found.overall)
        return
    assert found.overall == pytest.approx(100 * metrics.get('coco/bbox_mAP', 0))
    assert found.sizes['small'] == pytest.approx(100 * metrics.get('coco/bbox_mAP_s', 0))
    assert list(found.classes) == [str(i) for i in range(10)]
    cfg.val_evaluator = dict(type='VOCMetric', metric='mAP')
    without_file = predictions.rate_by_class(model, cfg)
    assert without_file.overall == found.overall and str(without_file.classes) == str(found.classes)


def test_classes_that_differ_most_are_shown():
    few = [predictions.Ratings('AP', 1, {'a': 1.0, 'b': float('nan')}, {})]
    assert predictions.telling_classes(few) == ['a', 'b']
    classes = {str(i): float(i) for i in range(40)}
    other = {**classes, '3': 30.0, '37': 0.0}
    both = [predictions.Ratings('AP', 1, c, {}) for c in (classes, other)]
    assert predictions.telling_classes(both, most=2) == ['3', '37']


def test_student_config_is_untouched(pairs):
    cfg = load_config(str(pairs['detection']))
    before = student_config(cfg).pretty_text
    init_default_scope(cfg.default_scope)
    assert len(predictions.dataset_meta(cfg)['palette']) == 10
    assert student_config(cfg).pretty_text == before
