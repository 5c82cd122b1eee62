"""Mistakes that a user can correct, and what the command line says of them."""

import errno
import logging
import os
import re
import sys
import traceback
from contextlib import contextmanager
from inspect import CO_VARKEYWORDS
from types import FrameType
from typing import Iterator, List, Optional
from urllib.error import URLError


def reason_of(error: Exception) -> str:
    """Take the first line of an error's message, or the error's type where it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class SetupError(ValueError):
    """A mistake in a config, a checkpoint or a path that its user can correct.

    Its message is one sentence that names what is wrong, where, and what to do. The command line prints it alone.
    """


class SetupWarning(str):
    """A sentence of the log on what a user may have to correct, which stops nothing."""


def warn(sentence: str) -> None:
    """Log a :class:`SetupWarning`."""
    from mmengine.logging import print_log

    print_log(SetupWarning(sentence), 'current', logging.WARNING)


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
    frames = frames_of(error)
    if frames and not text:  # a bare assertion says but its line
        text = traceback.extract_tb(error.__traceback__)[-1].line or ''
    if isinstance(error, FileNotFoundError):
        name = error.filename or (re.findall(r"No such file or directory: '(.*)'", text) or [None])[0]
        if frames and frames[-1].f_globals.get('__name__') == 'subprocess':
            return f'The program {name!r} is not found: install it, or add its folder to PATH.'
        return text if name is None else f'{name!r} does not exist: correct the path, or put it there.'
    if isinstance(error, OSError) and error.errno in _NO_PLACE:
        return _NO_PLACE[error.errno].format(repr(str(error.filename)) if error.filename else 'a file')
    trace = ''.join(traceback.format_exception(type(error), error, error.__traceback__))
    address = next((f.f_locals['url'] for f in frames if isinstance(f.f_locals.get('url'), str)), 'the file')
    owners = [type(frame.f_locals['self']).__name__ for frame in frames if 'self' in frame.f_locals]
    for kind, pattern, place, sentence in _KNOWN:
        found = isinstance(error, kind) and re.search(pattern, text)
        if found and (place in trace if isinstance(place, str) else _refused(frames, place)):
            return sentence.format(*found.groups('its type'), owner=(owners or ['The config'])[-1], address=address)
    return None


def frames_of(error: BaseException) -> List[FrameType]:
    """List the frames that an error passed, the one that raised it last; older MMEngine raises some anew."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames + (frames_of(error.__context__) if type(error.__context__) is type(error) else [])


def _refused(frames: List[FrameType], flags: int) -> bool:
    """Tell whether a constructor refused what a config gave it, or its base where it hands that on."""
    made = frames[-1].f_locals.get('self') if frames else None
    while frames and frames[-1].f_code.co_name == '__init__' and frames[-1].f_locals.get('self') is made:
        if frames[-1].f_code.co_flags & flags != flags:
            return False
        frames = frames[:-1]
    return bool(frames) and frames[-1].f_globals.get('__name__', '').startswith(_MAKERS)


# What a disk refuses.
_FULL = 'The disk has no space left for {}: free some, and give the same command again (cankd train with --resume).'
_NO_PLACE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EACCES: 'There is no permission for {}: change that of the file or its folder, or name another place.',
    errno.EROFS: '{} is on a read-only file system: make that writable, or name another place.',
}

# Where MMEngine and mmcv make objects of the entries of a config.
_MAKERS = ('mmengine.registry.', 'mmengine.runner.', 'mmengine.utils.manager', 'mmcv.cnn.bricks.')
# Errors of the MM libraries that a mistake in a config or in the data leads to: type, pattern, what the traceback
# passes (flags of the constructor that refuses its arguments), sentence. Of the same error from elsewhere, the user is
# not known to be at fault.
_KNOWN = (
    (
        URLError,
        r'^(?:<urlopen error )?(.*?)>?$',
        'mmengine/runner/checkpoint.py',
        'Weights that the model starts from cannot be fetched ({0}): fetch {address} where there is a network and set '
        'the init_cfg that names it to its path.',
    ),
    (
        ModuleNotFoundError,
        r"^No module named 'torchvision'$",
        '',
        'The model needs torchvision, for the weights that its backbone starts from or for an operator, which is not '
        'installed: pip install torchvision, or set its init_cfg to None to start from scratch.',
    ),
    (
        RuntimeError,
        r'torchvision::\w+ does not exist',
        '',
        'The installed torchvision is for another torch, and does not import: `cankd doctor` names the command that '
        'repairs it.',
    ),
    (
        (RuntimeError, NotImplementedError),
        r'pip install (transformers|fairscale)',
        '',
        'Grounding DINO needs {0}, which is not installed: pip install "transformers<5" fairscale',
    ),
    (
        (ImportError, RuntimeError),
        r'(?s)(?:.*pip install (?:-U |future )?|^(?=[\w-]+ is not installed))([\w+:/.-]*\w)',
        '',
        '{owner} needs {0}, which is not installed: pip install {0}, or take {owner} out of the config.',
    ),
    (
        AssertionError,
        r'failed to load image: (.*)',
        '',
        'The image {0!r} cannot be decoded: put a whole file there, or take it out of the annotations.',
    ),
    (
        AssertionError,
        r"assert 'mix_results' in results",
        'datasets/transforms/',
        'The pipeline mixes several images (Mosaic, MixUp, CopyPaste), which a data set alone does not hand it: put a '
        'MultiImageMixDataset around the data set, and what mixes into the pipeline of that.',
    ),
    (
        NotImplementedError,
        r'^(\w+) only supports bbox',
        'mmdet/datasets/transforms/',
        '{0} moves boxes and no masks, and the pipeline loads masks: leave {0} out.',
    ),
    (
        (AttributeError, NotImplementedError),
        r"(\w+)'.* (?:has no attribute|must implement) [`']get_cat_ids",
        '',
        'A {0} does not tell which classes an image has (get_cat_ids), as ClassAwareSampler and ClassBalancedDataset '
        'ask: put it inside or outside of another wrapper, or leave the balancing out.',
    ),
    (
        (ValueError, TypeError),
        r'(\d+)-th dataset',
        'mmengine/dataset/',
        'The parts of a ConcatDataset differ in their metainfo (part {0}): give all the same classes '
        'and palette, or name what may differ in its ignore_keys.',
    ),
    (
        AssertionError,
        r'assert (?:weight\.ndim|len\(weight\)|weight\.dim\(\)) ==',
        'mmseg/models/losses/',
        '{owner} takes no weight for each pixel, as the sampler of its head gives: leave one of the two out.',
    ),
    (
        AssertionError,
        r'(.+)',
        0,
        '{owner} does not take what the config gives it ({0}): correct that.',
    ),
    (
        KeyError,
        r'([\w.]+) is not in the ([\w: ]+) registry',
        'mmengine/registry/',
        'The config names the type {0!r}, not registered as {1!r}: correct it, or import its package (custom_imports).',
    ),
    (
        KeyError,
        r"^'mask'$",
        'mmdet/datasets/transforms/',
        'An object has no mask, and the pipeline loads masks (with_mask): add its segmentation, or take it out.',
    ),
    (
        TypeError,
        r'^None is not a callable object',
        'mmengine/optim/',
        'The config names an optimizer that neither torch nor MMEngine has: correct optim_wrapper.optimizer.type.',
    ),
    (
        TypeError,
        r"(?:(\w+)\.)?__init__\(\) got an unexpected keyword argument '(\w+)'",  # Python 3.8 and 3.9 name no class
        CO_VARKEYWORDS,
        'The config has an entry {1!r} that {0} does not take: correct the name.',
    ),
    (
        TypeError,
        r'(\w+)\.__init__\(\) missing \d+ required (?:keyword-only |positional )*arguments?: (.*)',
        CO_VARKEYWORDS,
        'The config does not give {0} all that it needs: add {1}.',
    ),
)
