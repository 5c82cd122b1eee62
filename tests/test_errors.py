"""What the command line says of errors that are the user's, and of those that are not."""

import errno
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest

from cankd_mm.errors import SetupError, one_sentence_errors


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
        (URLError(OSError('no network')), r'cannot be fetched \(no network\): see the last address above'),
        (HTTPError('', 404, 'Not Found', {}, None), r'cannot be fetched \(HTTP Error 404: Not Found\)'),
        (ModuleNotFoundError("No module named 'torchvision'"), 'pip install torchvision, or set its init_cfg to None'),
        (RuntimeError('run: pip install fairscale'), 'needs fairscale, which is not .* "transformers<5" fairscale$'),
        (TypeError("FPN.__init__() got an unexpected keyword argument 'a'"), "entry 'a' that FPN does not take"),
        (TypeError("__init__() got an unexpected keyword argument 'a'"), "entry 'a' that its type does not take"),
        (TypeError("FPN.__init__() missing 1 required positional argument: 'a'"), "give FPN all .* needs: add 'a'"),
        (
            SetupError('Caught SetupError in DataLoader worker process 0.\nTraceback:\nSetupError: The image is gone.'),
            '^error: The image is gone.$',
        ),
    ],
)
def test_error_of_the_user_is_one_sentence(error, words):
    with pytest.raises(SystemExit, match=words), one_sentence_errors():
        raise error


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
