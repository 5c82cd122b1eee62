"""Reproduce a row of the paper's tables: check what it needs, train, export, test in the plain library, report."""

import argparse
import os
from pathlib import Path

from cankd_mm.apis.cli import add_cfg_options, one_sentence_errors
from cankd_mm.apis.config import load_config
from cankd_mm.reproduce import find_row, load_rows, reproduce
from cankd_mm.reproduce.requirements import missing
from cankd_mm.reproduce.run import row_options

TOOLS = Path(os.path.relpath(Path(__file__).resolve().parent))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('row', nargs='?', help='number, config name or config path; left out, the rows are listed')
    parser.add_argument('--check', action='store_true', help='only say what is missing, and where to put it')
    parser.add_argument('--gpus', type=int, help='how many GPUs, 0 for the processor; defaults to all there are')
    parser.add_argument('--teacher-ckpt', help="the teacher's checkpoint, for rows without public weights")
    parser.add_argument('--work-dir', help='folder of everything that is written')
    parser.add_argument('--seed', type=int, help='random seed; defaults to one that MMEngine draws and logs')
    add_cfg_options(parser)
    args = parser.parse_args()
    rows = load_rows(TOOLS.parent / 'configs')
    if args.row is None:
        for row in rows:
            figures = f'paper {row.paper}' if row.paper else f'ours {row.ours}' if row.ours else 'no figure'
            print(f'{row.number or "-":18} {row.name:68} {row.metric} {figures}')  # noqa: T201
        return
    with one_sentence_errors():
        row = find_row(rows, args.row)
        if args.check:
            options = row_options(args.teacher_ckpt, args.seed, args.cfg_options)
            lacking = missing(row, load_config(str(row.config), options, args.work_dir), args.gpus)
            print('\n'.join(lacking or [f'{row.name} has all it needs.']))  # noqa: T201
            raise SystemExit(bool(lacking))
        result = reproduce(row, TOOLS, args.gpus, args.teacher_ckpt, args.work_dir, args.seed, args.cfg_options)
    print(  # noqa: T201
        f'{row.name}: {result["metric"]} {result["value"]} (paper {row.paper or "gives none"}, student alone '
        f'{row.student.figure}, teacher {row.teacher.figure})'
    )


if __name__ == '__main__':
    main()
