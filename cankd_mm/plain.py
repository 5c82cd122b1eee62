"""Run a program of the plain libraries where mmcv has no operators: ``python -m cankd_mm.plain TOOL ARGUMENTS``.

It finds those of :mod:`cankd_mm.stack.ops`, and nothing else of this package is registered or patched.
"""

import runpy
import sys

from cankd_mm.stack.ops import provide


def main() -> None:
    """Run the program that the command line names."""
    if len(sys.argv) < 2:
        sys.exit('usage: python -m cankd_mm.plain TOOL ARGUMENTS')
    provide()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name='__main__')


if __name__ == '__main__':
    main()
