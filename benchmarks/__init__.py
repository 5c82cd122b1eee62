"""Benchmarks of the loss and of whole training steps: see ``docs/benchmarks.md``."""

import cankd_mm  # noqa: F401  mends the stack before anything of it is imported
