"""Write a distilled student as plain MMDetection or MMSegmentation config and weights."""

import argparse

from cankd_mm.apis import export_student
from cankd_mm.apis.cli import add_cfg_options, one_sentence_errors


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='distillation config')
    parser.add_argument('checkpoint', help='checkpoint of the distillation run')
    parser.add_argument('--out-dir', help='folder to write; defaults to `student` beside the checkpoint')
    add_cfg_options(parser)
    args = parser.parse_args()
    with one_sentence_errors():
        config, weights = export_student(args.config, args.checkpoint, args.out_dir, args.cfg_options)
    print(f'{config}\n{weights}')  # noqa: T201


if __name__ == '__main__':
    main()
