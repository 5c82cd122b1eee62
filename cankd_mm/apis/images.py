"""Images without labels, by a folder, a list or a COCO file."""

import mmap
import os
import os.path as osp
import re
from io import TextIOWrapper
from json import JSONDecoder
from pathlib import Path
from typing import Iterator

from cankd_mm.errors import SetupError

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.ppm', '.pgm', '.tif', '.tiff', '.webp')
MIN_SIDE = 8  # pixels: what is smaller shows nothing


def list_images(source: str) -> Iterator[str]:
    """List the absolute paths of images one by one, in an order that stays: no image is opened.

    Args:
        source (str): A folder, which is looked through with all folders in it; a text file with a path in each line;
            or a ``.json`` in COCO format, of which the images count. Relative paths of a list are taken from its folder
            or the current one, those of a COCO file from its folder, that above, or one in it that has the first image.

    Raises:
        SetupError: If there is no image, or one of a list or COCO file does not exist.
    """
    if osp.isdir(source):
        paths = _in_folder(source)
    elif not osp.isfile(source):
        raise SetupError(f'{source!r} does not exist: give a folder of images, a list of paths or a COCO file.')
    else:
        paths = _of_coco(source) if source.lower().endswith('.json') else _of_list(source)
    path = None
    for path in paths:
        yield osp.abspath(path)
    if path is None:
        raise SetupError(f'There is no image in {source!r}: give a folder or file with {", ".join(SUFFIXES)}.')


def _in_folder(source: str) -> Iterator[str]:
    for folder, inside, files in os.walk(source, followlinks=True):
        inside.sort()
        yield from (osp.join(folder, name) for name in sorted(files) if name.lower().endswith(SUFFIXES))


def _of_list(source: str) -> Iterator[str]:
    with open(source, encoding='utf-8') as lines:
        names = filter(None, (line.rstrip('\r\n') for line in lines))
        yield from _found(names, source, lambda name: [osp.dirname(source), os.curdir])


def _of_coco(source: str) -> Iterator[str]:
    folder = Path(source).absolute().parent

    def bases(name: str) -> list:
        near = [folder, folder.parent]
        for pattern in () if any((base / name).is_file() for base in near) else ('*/', '*/*/'):
            near += sorted(folder.parent.glob(pattern))
        fitting = [base for base in near if (base / name).is_file()]
        # Splits have images of equal names: instances_val2017.json is of the folder val2017.
        named = [base for base in fitting if base.name in Path(source).stem] or fitting
        if len(named) > 1 and named[0] not in near[:2]:
            where = ' and in '.join(repr(str(base)) for base in named[:2])
            raise SetupError(f'{name!r} of {source!r} is in {where}: give a text file with the paths that are meant.')
        return list(map(str, named)) or [str(folder)]

    yield from _found(_file_names(source), source, bases)


def _found(names: Iterator[str], source: str, bases) -> Iterator[str]:
    """Complete names by the first of the folders ``bases(name)`` that has the first of them."""
    base = None
    for name in names:
        if base is None and not osp.isabs(name):
            places = bases(name)
            base = next((place for place in places if osp.isfile(osp.join(place, name))), places[0])
        path = osp.join(base or '', name)
        if not osp.isfile(path):
            raise SetupError(f'{source!r} names the image {path!r}, which does not exist: correct the path.')
        yield path


def _file_names(source: str) -> Iterator[str]:
    """Read the ``file_name`` of images one by one, of a file that may hold gigabytes of annotations."""
    sentence = f'{source!r} lists no images as the COCO format does: give one with images=[dict(file_name=...), ...].'
    decode, between = JSONDecoder().raw_decode, re.compile(r'[\s,]*')
    with open(source, 'rb') as f:
        start = None
        if osp.getsize(source):
            with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
                start = re.search(rb'"images"\s*:\s*\[', content)
                start = start and start.end()
        if start is None:
            raise SetupError(sentence)
        f.seek(start)
        reader, text, at = TextIOWrapper(f, encoding='utf-8'), '', 0
        while not text.startswith(']', at):
            try:
                entry, at = decode(text, at)
                yield entry['file_name']
            except ValueError as e:  # the entry goes on in the next piece of the file
                more = reader.read(2**16)
                if not more:
                    raise SetupError(sentence) from e
                text, at = text[at:] + more, 0
            except (KeyError, TypeError) as e:
                raise SetupError(sentence) from e
            at = between.match(text, at).end()
