"""The page, one file with its pictures inside and beside it, and the plots and maps over images that it shows."""

import base64
import io
from importlib.resources import files
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np
import torch
from jinja2 import Environment, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmengine.visualization import Visualizer
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

# What is compared, in the colours of every plot; all are read on white and on black.
_GREEN, _INK = '#2e8b57', '#808080'
_COLOURS = {'teacher': '#b8860b', 'student': _GREEN, 'after': _GREEN, 'student alone': '#4a80c4', 'before': '#8a8a8a'}
_SIDE = 320  # pixels of a picture's longer side


class Picture(NamedTuple):
    """Images in rows under the titles of the columns, or a single plot without a title."""

    name: str  # of its file
    meaning: str  # a sentence
    rows: Sequence[Sequence[Optional[np.ndarray]]]  # (H, W, 3) in RGB, None for a gap, or (H, W, 4) for a plot
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
        Image.fromarray(picture.image).save(out / f'{picture.name}.png')
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files(__package__).joinpath('report.html.jinja').read_text(encoding='utf-8'))
    path = out / 'report.html'
    path.write_text(template.render(title=title, facts=facts, sections=sections, inside=_inside), encoding='utf-8')
    return path


def _inside(image: np.ndarray) -> str:
    """Write an image as an address that holds it: photos as JPEG, plots as PNG, which the page shines through."""
    kind = 'png' if image.shape[2] == 4 else 'jpeg'
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, kind, quality=85)
    return f'data:image/{kind};base64,{base64.b64encode(encoded.getvalue()).decode()}'


def heat(maps: Sequence[Tensor], image: np.ndarray) -> List[np.ndarray]:
    """Lay maps ``(H, W)`` of any size over an image ``(H, W, 3)``, all on one scale: red is most, blue least."""
    image = shrunk(image)
    large = [F.interpolate(m[None, None].float().cpu(), image.shape[:2], mode='bilinear')[0] for m in maps]
    # MMEngine takes the scale from one map: side by side they share it.
    drawn = Visualizer.draw_featmap(torch.cat(large, 2), np.concatenate([image] * len(maps), 1), None, topk=-1)
    return [np.ascontiguousarray(part) for part in np.split(drawn, len(maps), 1)]


def marked(picture: np.ndarray, point: Tuple[float, float], size: Tuple[int, int]) -> np.ndarray:
    """Mark a point of an image of this height and width on a picture of it."""
    at = int(point[0] * picture.shape[1] / size[1]), int(point[1] * picture.shape[0] / size[0])
    for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 2)):
        cv2.drawMarker(picture, at, colour, cv2.MARKER_CROSS, 18, thickness, cv2.LINE_AA)
    return picture


def shrunk(image: np.ndarray, side: int = _SIDE) -> np.ndarray:
    """Bring an image ``(H, W, 3)`` to the size of a picture, whose longer side has so many pixels."""
    factor = side / max(image.shape[:2])
    size = max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST)


def grid(rows: Sequence[Sequence[Optional[np.ndarray]]], titles: Sequence[str], side: int = _SIDE) -> np.ndarray:
    """Put pictures ``(H, W, 3)`` into rows, each of one shape, under the titles of the columns; None leaves a gap."""
    gap = 6
    strips = [np.full((26, len(titles) * (side + gap), 3), 255, np.uint8)]
    lefts = range(0, strips[0].shape[1], side + gap)
    for left, title in zip(lefts, titles):
        cv2.putText(strips[0], title, (left + 2, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
    for row in rows:
        like = next(picture for picture in row if picture is not None)
        height = max(round(side * like.shape[0] / like.shape[1]), 1)
        strips.append(np.full((height + gap, *strips[0].shape[1:]), 255, np.uint8))
        for left, picture in zip(lefts, row):
            if picture is not None:
                strips[-1][:height, left : left + side] = cv2.resize(picture, (side, height))
    return np.concatenate(strips)


def per_cent(figure: float) -> str:
    """Write a figure in per cent; not a number is 'none'."""
    return 'none' if np.isnan(figure) else f'{figure:.1f}'


def histogram(values: Dict[str, Tensor], label: str) -> np.ndarray:
    """Draw how numbers between -1 and 1, ``(C,)`` of every model, are spread over the channels."""
    axis = _plot(label, 'channels')
    low = min(-0.2, *(float(v.min()) for v in values.values()))
    for name, numbers in values.items():
        colour = _COLOURS.get(name, _INK)
        axis.hist(numbers.cpu().numpy(), bins=np.linspace(low, 1, 41), color=colour, alpha=0.5, label=name)
    return _pixels(axis)


def bars(values: Dict[str, Sequence[float]], labels: Sequence[str], what: str) -> np.ndarray:
    """Draw figures of several models side by side, one group for each label; ``what`` says what the figures are."""
    axis = _plot(what, '', (4.6, max(1.4, 0.12 * len(labels) * (1 + len(values)))))
    height = 0.8 / len(values)
    for number, (name, figures) in enumerate(values.items()):
        at = np.arange(len(labels)) + (number - (len(values) - 1) / 2) * height
        drawn = axis.barh(at, np.nan_to_num(figures), height, color=_COLOURS.get(name, _GREEN), label=name)
        axis.bar_label(drawn, [per_cent(f) for f in figures], padding=2, fontsize=7, color=_INK)
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    axis.margins(x=0.1)
    return _pixels(axis)


def curves(lines: Dict[str, Sequence[tuple]], what: str, log: bool = False, at: str = 'iteration') -> np.ndarray:
    """Draw lines through pairs of iteration, or what ``at`` says, and figure; ``log`` scales the figures."""
    axis = _plot(at, what)
    for name, pairs in lines.items():
        style = dict(label=name, lw=1.3, color=_COLOURS.get(name))
        if len(pairs) == 1 and name == 'teacher':  # who is rated once, and does not change
            axis.axhline(pairs[0][1], ls='--', **style)
        else:
            axis.plot(*zip(*pairs), marker='o' if len(pairs) < 12 else None, markersize=3, **style)
    figures = [figure for pairs in lines.values() for _, figure in pairs]
    axis.set_yscale('log' if log and max(figures, default=0) > 0 else 'linear')  # of zeros alone there is no logarithm
    axis.xaxis.get_major_locator().set_params(integer=True)
    _from_zero(axis, figures)
    return _pixels(axis)


def points(pairs: Sequence[Tuple[object, float]], across: str, what: str) -> np.ndarray:
    """Draw pairs of a choice and its figure, numbers on a logarithmic scale where they span more than ten times."""
    axis = _plot(across, what)
    chosen, figures = zip(*pairs)
    numbers = all(isinstance(c, (int, float)) and not isinstance(c, bool) for c in chosen)
    axis.plot(chosen if numbers else list(map(str, chosen)), figures, 'o', markersize=4, color=_GREEN)
    if numbers and min(chosen) > 0 and max(chosen) > 10 * min(chosen):
        axis.set_xscale('log')
    _from_zero(axis, figures)
    return _pixels(axis)


def _from_zero(axis: Axes, figures: Sequence[float]) -> None:
    """Start an axis of zeros alone at zero, which would otherwise lie between -0.05 and 0.05."""
    if not any(figures):
        axis.set_ylim(0, 1)


def _plot(across: str, what: str, size: Tuple[float, float] = (4.2, 2.6)) -> Axes:
    # A Figure of its own, without pyplot: nothing of a user's matplotlib session changes.
    figure = Figure(size, dpi=140, layout='constrained', facecolor=(1, 1, 1, 0))
    axis = figure.subplots(subplot_kw=dict(facecolor='none', axisbelow=True))
    axis.tick_params(colors=_INK, labelsize=8)
    axis.spines[:].set(color=_INK, linewidth=0.6)
    axis.set_xlabel(across, color=_INK, fontsize=8)
    axis.set_ylabel(what, color=_INK, fontsize=8)
    axis.grid(color=_INK, alpha=0.2, linewidth=0.5)
    return axis


def _pixels(axis: Axes) -> np.ndarray:
    if axis.get_legend_handles_labels()[0]:
        look = dict(fontsize=7, labelcolor=_INK, frameon=False, ncols=4, columnspacing=1, handlelength=1.2)
        axis.legend(loc='lower left', bbox_to_anchor=(0, 1), **look)
    canvas = FigureCanvasAgg(axis.figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()
