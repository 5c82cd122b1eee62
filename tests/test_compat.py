import subprocess
import sys
from pickle import UnpicklingError

import pytest
import torch
from mmengine.logging.history_buffer import HistoryBuffer

from cankd_mm import compat
from tests.conftest import needs_torch


def test_mmrazor_imports_and_quantization_says_that_it_is_off():
    from mmrazor.structures.quantization import BackendConfigs

    if 'native' in BackendConfigs:
        pytest.skip('this torch still has the quantization names that MMRazor needs')
    with pytest.raises(NotImplementedError, match="backend 'native'.*Distillation is not concerned"):
        BackendConfigs['native']


def test_mending_twice_changes_nothing():
    assert not any('quantization' in line for line in compat.mend())


@needs_torch('2.6', 'weights_only is not the default and takes no such list')
def test_own_checkpoints_load_with_weights_only(tmp_path):
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    path = tmp_path / 'checkpoint.pth'
    torch.save(dict(state_dict={}, message_hub=dict(log_scalars=dict(loss=history))), path)
    loaded = torch.load(path, weights_only=True)['message_hub']['log_scalars']['loss']
    assert loaded.mean() == history.mean()


@pytest.mark.skipif(torch.__version__ < '2.6', reason='nothing is mended there')
def test_getattr_stays_closed_to_everything_else(tmp_path):
    class Escape:
        def __reduce__(self):
            return getattr, (HistoryBuffer, '__init__')

    path = tmp_path / 'escape.pth'
    torch.save(Escape(), path)
    with pytest.raises(Exception, match='which no checkpoint needs'):
        torch.load(path, weights_only=True)
    with pytest.raises(UnpicklingError):
        compat._history_buffer_method(torch, 'save')


@needs_torch('2.1', 'the meta device lacks operators')
def test_points_are_assigned_on_their_own_device():
    """A default device other than the priors' stands in for priors on a GPU."""
    from mmdet.models.task_modules.assigners import PointAssigner
    from mmdet.registry import TASK_UTILS
    from mmengine.registry import DefaultScope
    from mmengine.structures import InstanceData

    priors = torch.tensor([[8.0 * x, 8.0 * y, 8.0] for y in range(8) for x in range(8)])
    points = InstanceData(priors=priors)
    truth = InstanceData(bboxes=torch.tensor([[8.0, 8, 40, 40]]), labels=torch.tensor([3]))
    arguments = dict(scale=4, pos_num=1)
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmdet'):
        found = TASK_UTILS.build(dict(type='PointAssigner', **arguments)).assign(points, truth)
        unmended = PointAssigner(**arguments).assign(points, truth)
    assert unmended.gt_inds.sum() == 0
    torch.testing.assert_close(found.gt_inds, PointAssigner(**arguments).assign(points, truth).gt_inds)
    assert found.gt_inds.sum() == 1


def test_a_stack_that_does_not_import_names_the_doctor():
    code = 'import sys; sys.modules["mmrazor"] = None; import cankd_mm'
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'python -m cankd_mm.doctor' in done.stderr.splitlines()[-1]
