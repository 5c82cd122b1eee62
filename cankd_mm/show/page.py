"""The page: one file with its pictures inside, and the pictures beside it."""

import base64
import io
from importlib.resources import files
from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence, Tuple

import mmcv
import numpy as np
from jinja2 import Environment, StrictUndefined
from PIL import Image

from cankd_mm.show.pictures import grid


class Picture(NamedTuple):
    """Images in rows under the titles of the columns, or a single plot without a title."""

    name: str  # of its file
    meaning: str  # a sentence
    rows: Sequence[Sequence[Optional[np.ndarray]]]  # (H, W, 3), None for a gap, or (H, W, 4) for a plot
    titles: Sequence[str] = ()

    @property
    def image(self) -> np.ndarray:
        """All of it as one image, ``(H, W, 3)``; a plot is put on white."""
        if self.titles:
            return grid(self.rows, self.titles)
        plot = self.rows[0][0]
        opaque = plot[..., 3:] / 255
        return (plot[..., :3] * opaque + 255 * (1 - opaque)).astype(np.uint8)


class Table(NamedTuple):
    """Rows under heads, and what they mean in a sentence."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    meaning: str


class Section(NamedTuple):
    """A part of the page: a title, what there is to say, tables, and pictures."""

    title: str
    words: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()


def write_page(out: Path, title: str, facts: Sequence[Tuple[str, str]], sections: List[Section]) -> Path:
    """Write ``report.html`` and its pictures into a folder, with facts on top by their names."""
    out.mkdir(parents=True, exist_ok=True)
    for picture in (picture for section in sections for picture in section.pictures):
        mmcv.imwrite(picture.image[..., ::-1], str(out / f'{picture.name}.png'))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files(__package__).joinpath('report.html.jinja').read_text(encoding='utf-8'))
    path = out / 'report.html'
    path.write_text(template.render(title=title, facts=facts, sections=sections, inside=_inside), encoding='utf-8')
    return path


def _inside(image: np.ndarray) -> str:
    """An image as an address that holds it: photos as JPEG, plots with what shines through them as PNG."""
    kind = 'png' if image.shape[2] == 4 else 'jpeg'
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, kind, quality=85)
    return f'data:image/{kind};base64,{base64.b64encode(encoded.getvalue()).decode()}'
