from itertools import zip_longest
from pathlib import Path
from typing import Optional

import mmcv
import numpy as np
from mmengine.registry import DefaultScope
from PIL import Image

from cankd_mm.apis.label_files import read_samples
from cankd_mm.show.page import grid
from cankd_mm.show.predictions import draw

_COLUMNS, _COUNT = 4, 16


def write_sheet(folder: Path, labels: dict) -> Optional[Path]:
    """Draw some of the images that ``cankd label`` has labelled, evenly spaced over all, into one picture."""
    meta, pictures = dict(classes=labels['classes'], palette=list(map(tuple, labels['palette']))), []
    with DefaultScope.overwrite_default_scope(labels['scope']):
        for path, sample in read_samples(folder, labels, _COUNT):
            image = mmcv.imread(path, channel_order='rgb')
            pictures.append(_square(draw(image, sample, labels['scope'], meta, truth=True)))
    if not pictures:
        return None
    rows = list(zip_longest(*[iter(pictures)] * _COLUMNS))
    title = f'{len(pictures)} of {labels["images"]} images'
    Image.fromarray(grid(rows, [title] + [''] * (_COLUMNS - 1))).save(folder / 'sheet.jpg', quality=90)
    return folder / 'sheet.jpg'


def _square(picture: np.ndarray) -> np.ndarray:
    """Put a picture on white, as those in a row have one shape."""
    height, width = picture.shape[:2]
    square = np.full((max(height, width),) * 2 + (3,), 255, np.uint8)
    top, left = (square.shape[0] - height) // 2, (square.shape[0] - width) // 2
    square[top : top + height, left : left + width] = picture
    return square
