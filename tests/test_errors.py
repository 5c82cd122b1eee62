"""What the command line says of errors that are the user's, and of those that are not."""

import errno
import subprocess
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest
from mmcv.cnn import build_norm_layer
from mmengine.registry import HOOKS, MODELS
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from cankd_mm.errors import SetupError, one_sentence_errors


def build(**cfg):
    return MODELS.build(dict(_scope_='mmdet', **cfg))


def raise_in(path, error):
    exec(compile('raise error', f'packages/{path}', 'exec'), dict(error=error))


class Base:
    def __init__(self, in_channels):
        self.conv = nn.Conv2d(in_channels, 1, 1)


@MODELS.register_module()
class HandsOn(Base):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)


@MODELS.register_module()
class CallsWrongly(nn.Module):
    def __init__(self, channels=1, **kwargs):
        self.made_of(**kwargs)

    def made_of(self):
        Base(channels=1)


@HOOKS.register_module()
class WantsAPackage:
    def __init__(self, words):
        raise ImportError(words)


@pytest.mark.parametrize(
    'error, words',
    [
        (SetupError('The path is wrong.'), '^error: The path is wrong.$'),
        (FileNotFoundError(2, 'No such file or directory', 'a.py'), "'a.py' does not exist: correct the path"),
        (OSError(errno.ENOSPC, 'No space left', 'w/a.pth'), "no space left for 'w/a.pth': free .* again .cankd train"),
        (OSError(errno.ENOSPC, 'No space left'), 'The disk has no space left for a file: free some'),
        (OSError(errno.EDQUOT, 'Quota exceeded', 'a'), "The disk has no space left for 'a'"),
        (OSError(errno.EROFS, 'Read-only', Path('w')), "'w' is on a read-only file system: .* name another place.$"),
        (PermissionError(errno.EACCES, 'Denied', 'w'), "no permission for 'w': change that of the file or its folder"),
        (
            SetupError('Caught SetupError in DataLoader worker process 0.\nTraceback:\nSetupError: The image is gone.'),
            '^error: The image is gone.$',
        ),
    ],
)
def test_error_of_the_user_is_one_sentence(error, words):
    with pytest.raises(SystemExit, match=words), one_sentence_errors():
        raise error


_NOT_FOUND = HTTPError('', 404, 'Not Found', {}, None)


@pytest.mark.parametrize(
    'do, words',
    [
        (
            lambda: CheckpointLoader.load_checkpoint('http://127.0.0.1:9/a.pth'),
            r'fetched \(.*refused\): fetch http://127.0.0.1:9/a.pth where',
        ),
        (lambda: raise_in('mmengine/runner/checkpoint.py', _NOT_FOUND), r'fetched \(HTTP Error 404: Not Found\)'),
        (lambda: raise_in('a.py', ModuleNotFoundError("No module named 'torchvision'")), 'pip install torchvision, or'),
        (lambda: raise_in('a.py', RuntimeError('torchvision::nms does not exist')), '`cankd doctor` names the'),
        (lambda: raise_in('a.py', RuntimeError('run: pip install fairscale')), 'fairscale, .* "transformers<5" fair'),
        (lambda: build(type='FPN', a=1), "entry 'a' that (FPN|its type) does not take"),
        (lambda: build(type='HandsOn', a=1), "entry 'a' that (Base|its type) does not take"),
        (lambda: build_norm_layer(dict(type='BN', a=1), 2), "entry 'a' that (_BatchNorm|its type) does not take"),
        (lambda: build(type='FPN'), "give FPN all .* needs: add 'in_channels', 'out_channels'"),
        (lambda: build(type='HandsOn'), "give Base all .* needs: add 'in_channels'"),
        (lambda: build(type='Nowhere'), "names the type 'Nowhere', not registered as 'mmdet::model'"),
        (lambda: subprocess.run(['no-such-program']), "program 'no-such-program' is not found: install it, or add"),
        *[
            (lambda words=words: HOOKS.build(dict(type='WantsAPackage', words=words)), f'pip install {package}, or')
            for words, package in {
                'Please run "pip install future tensorboard" to install the dependencies': 'tensorboard',
                'Please run "pip install -U neptune" to install neptune': 'neptune',
                'albumentations is not installed': 'albumentations',
                'panopticapi is not installed,\nplease install it by: pip install git+https://a.b/c.': r'git\+https://a.b/c',
            }.items()
        ],
    ],
)
def test_error_of_a_library_that_comes_of_the_config_is_one_sentence(do, words):
    with pytest.raises(SystemExit, match=words) as end, one_sentence_errors():
        do()
    assert '\n' not in str(end.value)


@pytest.mark.parametrize(
    'error, do',
    [
        (TypeError, lambda: Base(channels=1)),
        (TypeError, lambda: build(type='CallsWrongly')),
        (KeyError, lambda: raise_in('a.py', KeyError('a is not in the b'))),
        (KeyError, lambda: raise_in('a.py', KeyError('mask'))),
        (URLError, lambda: raise_in('a.py', URLError('no network'))),
    ],
)
def test_the_same_error_from_elsewhere_keeps_its_traceback(error, do):
    with pytest.raises(error), one_sentence_errors():
        do()


@pytest.mark.parametrize(
    'error', [ModuleNotFoundError("No module named 'other'"), TypeError('bad operand'), KeyError(1)]
)
def test_any_other_error_keeps_its_traceback(error):
    with pytest.raises(type(error)), one_sentence_errors():
        raise error


def test_traceback_is_shown_where_it_is_asked_for(monkeypatch):
    monkeypatch.setenv('CANKD_TRACEBACK', '1')
    with pytest.raises(SetupError, match='The path is wrong'), one_sentence_errors():
        raise SetupError('The path is wrong.')
