"""``KEY=VALUE`` of a command line: read as MMEngine reads it, and written so that every value arrives as it was."""

import ast
import os
import re
from typing import Dict, List, Sequence

from cankd_mm.errors import SetupError


def parse_options(words: Sequence[str]) -> Dict[str, object]:
    """Read ``--cfg-options``, words of the form ``KEY=VALUE``, as MMEngine's ``DictAction`` does.

    But blanks stay, quotes keep commas, and a path that is there is a path whatever stands in it. A word without ``=``
    and a value that is no literal are a SetupError.
    """
    for word in words:
        if '=' not in word:
            raise SetupError(f'--cfg-options got {word!r}: write KEY=VALUE.')
    return {key: _parsed(value) for key, value in (word.split('=', 1) for word in words)}


def format_options(options: Dict[str, object]) -> List[str]:
    """Write entries as words that :func:`parse_options` reads."""
    return [f'{key}={value!r}' for key, value in options.items()]


def _parsed(text: str) -> object:
    text = text.strip()
    if text[:1] in tuple('\'"([{'):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):  # words without quotes, such as [a, b]
            pass
    if os.path.exists(text):
        return text
    if re.fullmatch(r'\w+\(.*\)', text):
        raise SetupError(
            f'--cfg-options got {text!r}, which is no literal: give numbers, words, lists or tuples, and write '
            'anything else into a config.'
        )
    brackets = text[:1] + text[-1:]
    parts = _split(text[1:-1] if brackets in ('()', '[]') else text)
    if brackets == '()':
        return tuple(map(_parsed, parts))
    if brackets == '[]' or len(parts) > 1:
        return list(map(_parsed, parts))
    from mmengine.config import DictAction

    return DictAction._parse_int_float_bool(text.strip('\'"'))


def _split(text: str) -> List[str]:
    """Split at the commas that stand in no brackets."""
    parts, depth = [''], 0
    for character in text:
        depth += (character in '([') - (character in ')]')
        if character == ',' and depth == 0:
            parts.append('')
        else:
            parts[-1] += character
    return [part for part in parts if part.strip()]
