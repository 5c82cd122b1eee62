"""What type an entry of a config has: a name, a name with its scope or its module, or a class."""

import importlib
from importlib.util import find_spec
from typing import Optional, Union

from mmengine.registry import Registry

LIBRARIES = ('mmdet', 'mmseg')
TIMM = 'timm::'


def type_name(entry: object) -> str:
    """Name the type of an entry, or a type itself, without scope and module.

    It is ``'CocoMetric'`` for that name, ``'mmdet.CocoMetric'``, ``'mmdet.evaluation.CocoMetric'`` and the class.
    """
    kind = entry.get('type') if isinstance(entry, dict) else entry
    return kind.__name__ if isinstance(kind, type) else str(kind).split('.')[-1]


def class_of(registry: Registry, kind: Union[str, type], scope: Optional[str] = None) -> Optional[type]:
    """Find the class that a type means, in a library or else in the default scope; None where there is none."""
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(scope) as found_in:
        return found_in.get(kind)


def library_of(kind: Union[str, type, None]) -> Optional[str]:
    """Tell which library a model's type is of: ``'mmdet'``, ``'mmseg'`` or another scope, and None of a name alone.

    A class of the user's own is of the library whose class it extends.
    """
    package, _, name = str(kind).rpartition('.')
    if isinstance(kind, str) and package:  # a module, or a scope, which has no such attribute
        try:
            kind = getattr(importlib.import_module(package), name)
        except (ImportError, AttributeError):
            return package.split('.')[0]
    if not isinstance(kind, type):
        return None
    packages = [base.__module__.split('.')[0] for base in kind.__mro__]
    return next((package for package in packages if package in LIBRARIES), packages[0])


def from_timm(name: object) -> bool:
    """Tell whether what a config has as its teacher is ``'timm::NAME'``."""
    return isinstance(name, str) and name.startswith(TIMM)


def installed_libraries() -> tuple:
    """List the import names of MMDetection and MMSegmentation, as far as they are installed."""
    return tuple(filter(find_spec, LIBRARIES))
