"""Gather the results and logs under a folder into one table beside the paper's, as Markdown and JSON."""

import argparse
from pathlib import Path

from mmengine.fileio import dump

from cankd_mm.apis.cli import one_sentence_errors
from cankd_mm.errors import SetupError
from cankd_mm.reproduce import gather, load_rows
from cankd_mm.reproduce.results import results_table


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', nargs='?', type=Path, default=Path('work_dirs'), help='defaults to work_dirs')
    args = parser.parse_args()
    with one_sentence_errors():
        entries = gather(args.folder, load_rows(Path(__file__).resolve().parents[1] / 'configs'))
        if not entries:
            raise SetupError(f'There is no training under {str(args.folder)!r}: give the folder of your work folders.')
    table = results_table(entries)
    # Not results.json: the folder may be that of a comparison or of the demo, which have their own.
    (args.folder / 'runs.md').write_text(table + '\n')
    dump(entries, str(args.folder / 'runs.json'), indent=2)
    print(f'{table}\n\nWritten to {args.folder}/runs.md and {args.folder}/runs.json')  # noqa: T201


if __name__ == '__main__':
    main()
