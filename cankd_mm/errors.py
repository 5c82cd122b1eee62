"""Mistakes that a user can correct, and what the command line says of them."""

import errno
import logging
import os
import re
import sys
import traceback
from contextlib import contextmanager
from typing import Iterator, Optional
from urllib.error import URLError


def reason_of(error: Exception) -> str:
    """Take the first line of an error's message, or the error's type where it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class SetupError(ValueError):
    """A mistake in a config, a checkpoint or a path that its user can correct.

    Its message is one sentence that names what is wrong, where, and what to do. The command line prints it alone.
    """


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """End with one sentence and status 1 where the user is at fault, or with CANKD_TRACEBACK=1 with the traceback."""
    try:
        yield
    except Exception as e:
        sentence = explain(e)
        if sentence is None or os.environ.get('CANKD_TRACEBACK') == '1':
            raise
        # The traceback, which the sentence leaves out, goes into the log file of the run.
        from mmengine.logging import MMLogger

        handlers = MMLogger.get_current_instance().handlers if MMLogger.check_instance_created('mmengine') else ()
        for handler in handlers:
            if isinstance(handler, logging.FileHandler) and handler.stream is not None:
                handler.stream.write(f'{traceback.format_exc()}\n')
                handler.flush()
        sys.exit(f'error: {sentence}')


def explain(error: Exception) -> Optional[str]:
    """Say in one sentence what the user can correct, or None where the user is not known to be at fault."""
    # Older MMEngine wraps what a constructor raises once per registry it passes.
    while isinstance(error, SetupError) and type(error.__context__) is type(error):
        error = error.__context__
    # A worker process of a data loader hands on its whole traceback, the message last.
    text = re.sub(r'(?s)^Caught .*\n\w[\w.]*: ', '', str(error).strip())
    if isinstance(error, SetupError):
        return text
    if isinstance(error, FileNotFoundError):
        name = error.filename or (re.findall(r"No such file or directory: '(.*)'", text) or [None])[0]
        return text if name is None else f'{name!r} does not exist: correct the path, or put it there.'
    if isinstance(error, OSError) and error.errno in _NO_PLACE:
        return _NO_PLACE[error.errno].format(repr(str(error.filename)) if error.filename else 'a file')
    for kind, pattern, sentence in _KNOWN:
        if isinstance(error, kind) and (found := re.search(pattern, text)):
            return sentence.format(*found.groups('its type'))
    return None


# What a disk refuses.
_FULL = 'The disk has no space left for {}: free some, and give the same command again (cankd train with --resume).'
_NO_PLACE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EACCES: 'There is no permission for {}: change that of the file or its folder, or name another place.',
    errno.EROFS: '{} is on a read-only file system: make that writable, or name another place.',
}

# Errors of the MM libraries that a mistake in a config or in the data leads to: type, pattern, sentence.
_KNOWN = (
    (
        URLError,
        r'^(?:<urlopen error )?(.*?)>?$',
        'Weights that the model starts from cannot be fetched ({0}): see the last address above, fetch the file where '
        'there is a network and set the init_cfg that names it to its path.',
    ),
    (
        ModuleNotFoundError,
        r"^No module named 'torchvision'$",
        'The model needs torchvision, for the weights that its backbone starts from or for an operator, which is not '
        'installed: pip install torchvision, or set its init_cfg to None to start from scratch.',
    ),
    (
        (RuntimeError, NotImplementedError),
        r'pip install (transformers|fairscale)',
        'Grounding DINO needs {0}, which is not installed: pip install "transformers<5" fairscale',
    ),
    (
        AssertionError,
        r'failed to load image: (.*)',
        'The image {0!r} cannot be decoded: put a whole file there, or take it out of the annotations.',
    ),
    (
        KeyError,
        r'([\w.]+) is not in the ([\w:]+)(?: registry)?',
        'The config names the type {0!r}, not registered as {1!r}: correct it, or import its package (custom_imports).',
    ),
    (
        KeyError,
        r"^'mask'$",
        'An object has no mask, and the pipeline loads masks (with_mask): add its segmentation, or take it out.',
    ),
    (
        TypeError,
        r'^None is not a callable object',
        'The config names an optimizer that neither torch nor MMEngine has: correct optim_wrapper.optimizer.type.',
    ),
    (
        TypeError,
        r"(?:(\w+)\.)?__init__\(\) got an unexpected keyword argument '(\w+)'",  # Python 3.8 and 3.9 name no class
        'The config has an entry {1!r} that {0} does not take: correct the name.',
    ),
    (
        TypeError,
        r'(\w+)\.__init__\(\) missing \d+ required (?:keyword-only |positional )*arguments?: (.*)',
        'The config does not give {0} all that it needs: add {1}.',
    ),
)
