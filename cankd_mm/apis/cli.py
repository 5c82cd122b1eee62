"""What the command line tools share: their common arguments, and errors in one sentence."""

import argparse
import os
import re
import sys
from contextlib import contextmanager
from typing import Iterator
from urllib.error import URLError

from mmengine.config import DictAction

from cankd_mm.errors import SetupError


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that train and test share.

    Args:
        parser (ArgumentParser): The parser, changed in place.
    """
    parser.add_argument('--work-dir', help='folder of logs and checkpoints')
    add_cfg_options(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    # torch.distributed.launch passes --local-rank from torch 2.0 on, and --local_rank before.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``.

    Args:
        parser (ArgumentParser): The parser, changed in place.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override entries of the config, as KEY=VALUE with dots in KEY: '
        'model.teacher_ckpt=teacher.pth train_dataloader.batch_size=4. Lists are "[a,b]" in quotes, without blanks.',
    )


def parse_runner_arguments(parser: argparse.ArgumentParser) -> dict:
    """Parse the command line and set the local rank that the launcher gave.

    Args:
        parser (ArgumentParser): The parser.

    Returns:
        dict: The arguments by name, without the local rank.
    """
    args = vars(parser.parse_args())
    os.environ.setdefault('LOCAL_RANK', str(args.pop('local_rank', 0)))
    return args


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """End the process with one sentence and status 1 where the user's input is at fault."""
    try:
        yield
    except ModuleNotFoundError as e:
        if e.name != 'torchvision':
            raise
        sys.exit(
            "error: The backbone starts from torchvision's weights, and torchvision is not installed: pip install "
            'torchvision, or set its init_cfg to None to start from scratch.'
        )
    except (RuntimeError, NotImplementedError) as e:
        package = re.search(r'pip install (transformers|fairscale)', str(e))
        if package is None:
            raise
        requirement = {'transformers': '"transformers<5"', 'fairscale': 'fairscale'}[package[1]]
        sys.exit(f'error: Grounding DINO needs {package[1]}, which is not installed: pip install {requirement}')
    except URLError as e:
        sys.exit(
            f'error: Weights that the model starts from cannot be fetched ({e.reason}): see the last address above, '
            'fetch the file where there is a network and set the init_cfg that names it to its path.'
        )
    except (SetupError, FileNotFoundError) as e:
        # Older MMEngine wraps what a constructor raises once per registry it passes.
        while type(e.__context__) is type(e):
            e = e.__context__
        message = (
            f'{e.filename!r} does not exist: correct the path, or put it there.'
            if getattr(e, 'filename', None)
            else str(e)
        )
        sys.exit(f'error: {message}')
