"""Show CanKD on scenes of handwritten digits: detection and segmentation, with nothing to download."""

import argparse
from pathlib import Path

from cankd_mm.apis.cli import one_sentence_errors
from cankd_mm.demo import run_demo


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--root', type=Path, default=None, help='folder of all results; defaults to work_dirs/demo')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0], help='seeds of the students')
    parser.add_argument('--controls', action='store_true', help='train the fair controls, too')
    parser.add_argument(
        '--quick', action='store_true', help='one short epoch each: shows the way, figures mean nothing'
    )
    parser.add_argument(
        '--tasks',
        nargs='+',
        choices=['detection', 'segmentation'],
        default=['detection', 'segmentation'],
        help='which tasks',
    )
    args = parser.parse_args()
    root = args.root or Path('work_dirs/demo-quick' if args.quick else 'work_dirs/demo')
    try:
        with one_sentence_errors():
            table = run_demo(root, args.seeds, args.controls, args.quick, args.tasks)
    except KeyboardInterrupt:
        raise SystemExit('interrupted: the same command goes on from here') from None
    print(f'\n{table}\n\nThe table as JSON: {root}/results.json\nThe picture: {root}/comparison.jpg')  # noqa: T201
    if args.quick:
        print('One short epoch each: the figures mean nothing.')  # noqa: T201


if __name__ == '__main__':
    main()
