"""Compare methods of distillation on one teacher-student pair, over several seeds."""

import argparse
from pathlib import Path

from mmengine.fileio import load

from cankd_mm.apis.cli import add_cfg_options, one_sentence_errors
from cankd_mm.compare import compare
from cankd_mm.compare.report import tables, write_report


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('pair', help='distillation config; or the results.json of a comparison, to lay it out again')
    parser.add_argument('--methods', nargs='+', default=[], help='configs with what further methods change in the pair')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='seeds of every method')
    parser.add_argument('--work-dir', help='folder of all trainings; defaults to work_dirs/compare/<name of the pair>')
    parser.add_argument('--jobs', type=int, help='trainings side by side; defaults to one per GPU, or per core up to 4')
    parser.add_argument('--no-train', action='store_true', help='lay out what is done already, and train nothing')
    add_cfg_options(parser)
    args = parser.parse_args()
    with one_sentence_errors():
        if args.pair.endswith('.json'):
            path = Path(args.pair)
            print(write_report(load(str(path)), path.parent, path.stem))  # noqa: T201
            return
        try:
            results = compare(
                args.pair, args.methods, args.seeds, args.work_dir, args.jobs, args.cfg_options, not args.no_train
            )
        except KeyboardInterrupt:
            raise SystemExit('interrupted: the same command goes on from here') from None
    print(f'\n{tables(results)}')  # noqa: T201


if __name__ == '__main__':
    main()
