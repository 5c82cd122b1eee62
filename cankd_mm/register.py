"""Mend the stack and register every component: what ``import cankd_mm`` does."""

from cankd_mm import compat

compat.mend()

from cankd_mm import engine, models  # noqa: E402, F401
