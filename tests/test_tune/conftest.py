"""Optuna is an extra: on a machine that has none, as GPU machines without a registry, the other tests run."""

from importlib.util import find_spec

if find_spec('optuna') is None:
    collect_ignore_glob = ['test_*.py']
