"""Evaluate the student of a distillation config, its teacher, or a plain model."""

import argparse

import cankd_mm  # noqa: F401  mends the stack for plain configs, too
from cankd_mm.apis import test
from cankd_mm.apis.cli import add_runner_arguments, one_sentence_errors, parse_runner_arguments


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file; not needed with --teacher')
    parser.add_argument('--teacher', action='store_true', help='evaluate the teacher with its own checkpoint')
    parser.add_argument('--out', help='write the predictions to this .pkl file')
    add_runner_arguments(parser)
    with one_sentence_errors():
        test(**parse_runner_arguments(parser))


if __name__ == '__main__':
    main()
