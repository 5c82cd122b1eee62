"""Pictures are sent while a pair is trained, and change nothing of its training."""

import pytest
import torch

from cankd_mm.apis import train
from cankd_mm.errors import SetupError

pytestmark = pytest.mark.slow


def test_pictures_arrive_and_the_training_is_the_same(pairs, tmp_path):
    seeded = {'randomness.seed': 2, 'train_cfg.val_interval': 1}
    train(str(pairs['segmentation']), work_dir=str(tmp_path / 'plain'), cfg_options=seeded)
    hooks = [dict(type='DistillVisualizationHook', interval=2, images=2)]
    train(str(pairs['segmentation']), work_dir=str(tmp_path / 'run'), cfg_options={**seeded, 'custom_hooks': hooks})
    folder = next((tmp_path / 'run').glob('*/vis_data/vis_image'))
    names = {path.stem for path in folder.glob('*.png')}
    levels = [f'neck_{i}_{what}' for i in range(3) for what in ('features', 'left', 'correlation', 'attention')]
    assert names == {f'distill_{name}_4' for name in ('predictions', *levels)}, 'after the second of two epochs'
    plain, watched = (torch.load(tmp_path / run / 'epoch_2.pth')['state_dict'] for run in ('plain', 'run'))
    assert all(torch.equal(value, watched[key]) for key, value in plain.items())


def test_model_that_is_no_pair(pairs, tmp_path):
    options = {'custom_hooks': [dict(type='DistillVisualizationHook')], 'train_cfg.val_interval': 1}
    with pytest.raises(SetupError, match='DistillVisualizationHook is for pairs .* the model is a FPN|EncoderDecoder'):
        train(
            str(pairs['segmentation'].with_name('segmentation_student.py')), work_dir=str(tmp_path), cfg_options=options
        )
