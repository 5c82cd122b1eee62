"""Benchmarks of the loss and of whole training steps: see ``docs/benchmarks.md``."""

import sys

# Mends the stack before anything of it is imported. `benchmarks.gpu` imports nothing of it, and waits for no device.
if 'benchmarks.gpu' not in getattr(sys, 'orig_argv', ()):
    import cankd_mm  # noqa: F401
