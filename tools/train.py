"""Train what a config describes: a distillation, or a plain detector or segmentor."""

import argparse

import cankd_mm  # noqa: F401  mends the stack for plain configs, too
from cankd_mm.apis import train
from cankd_mm.apis.cli import add_runner_arguments, one_sentence_errors, parse_runner_arguments


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate to the batch size')
    parser.add_argument(
        '--resume', nargs='?', const='auto', help='resume from this checkpoint, or from the latest one in the work dir'
    )
    parser.add_argument('--check', action='store_true', help='look at everything before the first iteration, and stop')
    parser.add_argument(
        '--teacher-eval', type=int, default=0, metavar='N', help='evaluate the teacher on N images first'
    )
    add_runner_arguments(parser)
    with one_sentence_errors():
        train(**parse_runner_arguments(parser))


if __name__ == '__main__':
    main()
