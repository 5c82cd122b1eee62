import errno
import importlib
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pickle import UnpicklingError

import numpy as np
import pytest
import torch
from mmengine.fileio import dump, load, put_text
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.runner import Runner, save_checkpoint

from cankd_mm.stack import patch
from tests.conftest import ROOT, needs_torch


def test_mmrazor_imports_and_quantization_says_that_it_is_off():
    from mmrazor.structures.quantization import BackendConfigs

    if 'native' in BackendConfigs:
        pytest.skip('this torch still has the quantization names that MMRazor needs')
    with pytest.raises(NotImplementedError, match="backend 'native'.*Distillation is not concerned"):
        BackendConfigs['native']


def test_mmrazor_imports_beside_the_mmcv_of_the_fork(monkeypatch):
    import mmcv

    monkeypatch.setattr(mmcv, '__version__', '2.3.6')
    monkeypatch.setitem(sys.modules, 'mmrazor', sys.modules['mmrazor'])  # put back afterwards
    del sys.modules['mmrazor']
    with pytest.raises(AssertionError, match='MMCV==2.3.6 is used but incompatible'):
        importlib.import_module('mmrazor')
    assert any('mmcv 2.3' in line for line in patch.apply()) and mmcv.__version__ == '2.3.6'
    assert importlib.import_module('mmrazor').__version__ == '1.0.0'


def test_a_sister_package_is_found_by_its_import_name(monkeypatch):
    """That of the maintained fork's MMSegmentation is called onedl-mmsegmentation."""
    from mmengine.config import Config
    from mmengine.config.utils import MODULE2PACKAGE

    monkeypatch.setattr(Config, '_get_cfg_path', staticmethod(Config._get_cfg_path))  # put back afterwards
    monkeypatch.setitem(MODULE2PACKAGE, 'mmseg', 'mmsegmentation')
    monkeypatch.delitem(MODULE2PACKAGE, 'cankd_mm')
    distribution = metadata.distribution

    def find(name):
        if name == 'mmsegmentation':
            raise metadata.PackageNotFoundError(name)
        return distribution(name)

    monkeypatch.setattr(metadata, 'distribution', find)
    patch.apply()
    assert MODULE2PACKAGE['mmseg'] == 'mmseg'
    path, scope = Config._get_cfg_path('mmseg::_base_/models/fpn_r50.py', '')
    assert path.endswith('mmseg/.mim/configs/_base_/models/fpn_r50.py') and scope == 'mmseg'


def test_patching_twice_changes_nothing():
    from mmengine.config import Config
    from mmengine.runner import runner
    from mmrazor.structures import quantization
    from mmseg.models.losses import cross_entropy_loss

    def patched():
        tables, functions = quantization.BackendConfigs, (Config._get_cfg_path, Config._file2dict)
        return tables, functions, cross_entropy_loss.cross_entropy, runner.default_worker_init_fn

    before = patched()
    assert patch.apply() == patch.apply()
    assert all(found is known or found == known for found, known in zip(patched(), before))


class Full:
    """What a disk does that is full, and a process that is killed, when some of a file is written."""

    def __init__(self, error):
        self.error = error

    def write(self, content):
        self.file.write(content[:1])
        raise self.error

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.file.close()

    def __call__(self, path, *args, **kwargs):
        self.file = open(path, *args, **kwargs)
        return self


WRITERS = {
    'pth': lambda path: save_checkpoint(dict(state_dict={}), str(path)),
    'json': lambda path: dump([1], str(path)),
    'pkl': lambda path: dump([1], path),
    'txt': lambda path: put_text('1', path),
}


@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, 'No space left on device'), KeyboardInterrupt()])
@pytest.mark.parametrize('kind', WRITERS)
def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch, kind, error):
    path = tmp_path / f'file.{kind}'
    monkeypatch.setattr('mmengine.logging.MMLogger.callHandlers', lambda *args: None)  # into folders of others
    for before in ([], [path]):
        with monkeypatch.context() as context, pytest.raises(type(error)) as raised:
            context.setattr('mmengine.fileio.backends.local_backend.open', Full(error), raising=False)
            WRITERS[kind](path)
        assert list(tmp_path.iterdir()) == before and getattr(raised.value, 'filename', str(path)) == str(path)
        path.write_text('before')
    assert path.read_text() == 'before'
    WRITERS[kind](path)
    assert list(tmp_path.iterdir()) == [path] and path.read_text(errors='replace') != 'before'


def test_threads_that_write_one_file_leave_one_whole(tmp_path):
    path, texts = tmp_path / 'file.json', [[number] * 20000 for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda text: [dump(text, path) for _ in range(5)], texts))
    assert load(path) in texts and list(tmp_path.iterdir()) == [path]


def test_a_file_is_written_where_a_link_leads_and_into_what_is_no_file(tmp_path):
    (tmp_path / 'disk').mkdir()
    for target in ('disk/there.json', 'disk/new.json'):
        link = tmp_path / 'link.json'
        link.symlink_to(tmp_path / target)
        (tmp_path / 'disk/there.json').touch()
        dump([1], link)
        assert link.is_symlink() and load(tmp_path / target) == [1]
        link.unlink()
    os.mkfifo(tmp_path / 'pipe.json')
    reader = os.open(tmp_path / 'pipe.json', os.O_RDONLY | os.O_NONBLOCK)
    dump([1], tmp_path / 'pipe.json')
    assert os.read(reader, 100) == b'[1]' and (tmp_path / 'pipe.json').is_fifo()
    os.close(reader)


@needs_torch('2.6', 'weights_only is not the default and takes no such list')
def test_own_checkpoints_load_with_weights_only(tmp_path):
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    path = tmp_path / 'checkpoint.pth'
    torch.save(dict(state_dict={}, message_hub=dict(log_scalars=dict(loss=history))), path)
    loaded = torch.load(path, weights_only=True)['message_hub']['log_scalars']['loss']
    assert loaded.mean() == history.mean()


@needs_torch('2.6', 'nothing is patched')
@pytest.mark.parametrize('owner, name', [(HistoryBuffer, '__init__'), (torch.Tensor, 'min')])
def test_getattr_stays_closed_to_everything_else(tmp_path, owner, name):
    class Escape:
        def __reduce__(self):
            return getattr, (owner, name)

    path = tmp_path / 'escape.pth'
    torch.save(Escape(), path)
    with pytest.raises(Exception, match='which no checkpoint needs'):
        torch.load(path, weights_only=True)


class Code:
    """What runs code when it is read."""

    def __reduce__(self):
        return print, ('run',)


@needs_torch('2.6', 'checkpoints are read as pickles')
def test_no_reader_of_mmengine_turns_weights_only_off(tmp_path, monkeypatch, capsys):
    """The maintained fork's MMEngine falls back to reading whatever a file holds."""
    from mmengine.runner import CheckpointLoader, checkpoint

    path = tmp_path / 'code.pth'
    torch.save(dict(state_dict={}, more=Code()), path)
    with pytest.raises(UnpicklingError, match='weights_only'):
        CheckpointLoader.load_checkpoint(str(path), map_location='cpu', logger='silent')
    monkeypatch.setattr(
        checkpoint, '_safe_torch_load', lambda *a, **k: torch.load(*a, weights_only=False), raising=False
    )
    patch.apply()
    with pytest.raises(UnpicklingError, match='weights_only'):
        checkpoint._safe_torch_load(str(path), map_location='cpu')
    assert 'run' not in capsys.readouterr().out


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
        unpatched = PointAssigner(**arguments).assign(points, truth)
    assert unpatched.gt_inds.sum() == 0
    torch.testing.assert_close(found.gt_inds, PointAssigner(**arguments).assign(points, truth).gt_inds)
    assert found.gt_inds.sum() == 1


def test_a_stack_that_does_not_import_names_the_doctor():
    code = 'import sys; sys.modules["mmrazor"] = None; import cankd_mm'
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert done.returncode == 1
    assert '`cankd doctor`' in done.stderr.splitlines()[-1]


def test_a_torchvision_of_another_torch_ends_in_one_sentence(tmp_path):
    """As timm's import of it does, which MMSegmentation imports."""
    (tmp_path / 'timm.py').write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    code = 'import sys; sys.argv[0] = "cankd"; from cankd_mm.__main__ import main; main()'
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code, 'check', 'none.py'],
        capture_output=True,
        text=True,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)])),
    )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith('error: The OpenMMLab stack does not import here')
    assert 'install the torchvision of this torch: pip install' in line


class _Numbers(torch.utils.data.Dataset):
    """Draws numbers as augmentations do."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return dict(inputs=torch.tensor([random.random(), np.random.rand(), float(torch.rand(()))]))


@pytest.mark.parametrize('workers, persistent', [(1, False), (2, False), (2, True)])
def test_epochs_draw_augmentations_of_their_own(workers, persistent):
    loader = dict(
        dataset=_Numbers(),
        sampler=dict(type='DefaultSampler', shuffle=False),
        batch_size=1,
        num_workers=workers,
        persistent_workers=persistent,
    )
    epochs = []
    for _ in range(2):  # the same again with the same seed
        torch.manual_seed(4)
        built = Runner.build_dataloader(loader, seed=0)
        epochs.append([[tuple(batch['inputs'][0].tolist()) for batch in built] for _ in range(3)])
    assert epochs[0] == epochs[1]
    drawn = [numbers for epoch in epochs[0] for numbers in epoch]
    assert len(set(drawn)) == len(drawn) == 18


@pytest.mark.parametrize('avg_non_ignore', [False, True])
def test_class_weights_with_ignored_labels(avg_non_ignore):
    from mmseg.models import CrossEntropyLoss

    weights = [0.5, 1.0, 2.0]
    loss = CrossEntropyLoss(class_weight=weights, avg_non_ignore=avg_non_ignore)
    scores, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    weight = torch.tensor(weights)
    plain = torch.nn.functional.cross_entropy(scores, labels, weight)
    torch.testing.assert_close(loss(scores, labels), plain)
    labels[0] = 255
    some = torch.nn.functional.cross_entropy(scores, labels, weight, ignore_index=255)
    torch.testing.assert_close(loss(scores, labels, ignore_index=255), some)
    # A label that has a weight is counted as MMSegmentation counts it.
    labels[0] = 2
    expected = torch.nn.functional.cross_entropy(scores, labels, weight, ignore_index=2, reduction='sum')
    count = weight[labels].sum() if not avg_non_ignore else (weight[labels] * (labels != 2)).sum()
    torch.testing.assert_close(loss(scores, labels, ignore_index=2), expected / count)
