"""Write configs as a person would."""

import os
from pathlib import Path
from typing import Dict

from mmengine.config import Config

from cankd_mm.config.paths import config_file
from cankd_mm.config.read import read_config
from cankd_mm.errors import SetupError

_WIDTH = 104  # of what stands behind a key


def literal(value: object) -> str:
    """Write a value as in a config: dictionaries by ``dict``, where their keys are names."""
    if isinstance(value, dict):
        if all(isinstance(key, str) and key.isidentifier() for key in value):
            return f'dict({arguments(value)})'
        return '{' + ', '.join(f'{key!r}: {literal(inner)}' for key, inner in value.items()) + '}'
    if isinstance(value, list):
        return f'[{", ".join(map(literal, value))}]'
    if isinstance(value, tuple):
        return f'({", ".join(map(literal, value))}{"," if len(value) == 1 else ""})'
    return repr(value)


def laid_out(value: object, indent: int = 0) -> str:
    """Write a value as :func:`literal`, entry by entry where a line would be too long."""
    text = literal(value)
    if len(text) + indent <= _WIDTH or not isinstance(value, dict) or not text.startswith('dict('):
        return text
    entries = (f'{" " * (indent + 4)}{key}={laid_out(inner, indent + 4)}' for key, inner in value.items())
    return 'dict(\n' + ',\n'.join(entries) + ')'


def arguments(entries: dict) -> str:
    """Write entries as arguments of ``dict``: ``key=value, key=value``."""
    return ', '.join(f'{key}={literal(value)}' for key, value in entries.items())


def base_name(config: str, folder: Path) -> str:
    """Name a config as one takes it in ``_base_`` that will stand in a folder, also in the libraries' own tools."""
    config = config_file(config) if config.startswith('cankd_mm::') else config
    return config if '::' in config else Path(os.path.relpath(config, folder)).as_posix()


def write_changes(path: Path, base: str, options: Dict[str, object]) -> None:
    """Write a config that changes entries of another, ``base``, a file or ``package::path``. Keys have dots."""
    nested = Config()
    nested.merge_from_dict(_whole_lists(base, options))
    base = base if '::' in base else str(Path(config_file(base)).resolve())
    lines = [f'_base_ = {base!r}', *(f'{key} = {literal(value)}' for key, value in nested.to_dict().items())]
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')


def write_new(texts: Dict[Path, str]) -> None:
    """Write contents by file: all, or none and a SetupError where one of the files is there already."""
    for path in texts:
        if path.exists():
            raise SetupError(f'{str(path)!r} is there already: name another file with --out, or take it away.')
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding='utf-8')


def _whole_lists(base: str, options: Dict[str, object]) -> Dict[str, object]:
    """Replace entries of the base's lists by the lists: a config can change no entry of one that it inherits."""
    merged = read_config(base, options)
    found: Dict[str, object] = {}
    for key, value in options.items():
        node, path, inside = merged, [], key.split('.')
        while inside and not isinstance(node, (list, tuple)):
            path.append(inside.pop(0))
            node = node[path[-1]]
        found['.'.join(path)] = node if inside else value
    return found
