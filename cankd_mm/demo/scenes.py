"""Scenes of real handwritten digits on cluttered backgrounds, composed from what scikit-learn ships.

Its 1,797 digits of 8x8 pixels are enlarged and pasted on crops of its two photos, on gradients and on noise.
"""

from typing import List, NamedTuple, Optional, Tuple

import cv2
import numpy as np
from sklearn.datasets import load_digits, load_sample_images

SIZE = 128  # height and width of a scene, in pixels
CLASSES = tuple(str(digit) for digit in range(10))


class Scene(NamedTuple):
    """An image with its annotations."""

    image: np.ndarray  # (128, 128, 3) uint8 in BGR
    boxes: List[Tuple[int, int, int, int]]  # x, y, width and height in pixels
    labels: List[int]  # the digits
    label_map: np.ndarray  # (128, 128) uint8: 0 for the background, the digit + 1 elsewhere


class SceneComposer:
    """Compose scenes, each from its own seed: the same scene whenever and in whatever order it is made.

    ``'train'`` has the first 1200 digits, ``'val'`` the other 597. Segmentation needs ``cards``: every digit is written
    dark on a light card (a rectangle or an ellipse), all of which carries its label.
    """

    def __init__(self, split: str, cards: bool = False) -> None:
        digits = load_digits()
        part = slice(1200) if split == 'train' else slice(1200, None)
        self.digits, self.labels = digits.images[part] / 16.0, digits.target[part]
        self.photos = [photo[..., ::-1] for photo in load_sample_images().images]
        self.split, self.cards = split, cards

    def __call__(self, index: int) -> Scene:
        """Compose the scene of a number, from 0."""
        rng = np.random.default_rng([index, self.split == 'val', self.cards])
        image = self._background(rng)
        label_map, taken = np.zeros((SIZE, SIZE), np.uint8), np.zeros((SIZE, SIZE), bool)
        boxes, labels = [], []
        for _ in range(rng.integers(3, 7) if not self.cards else rng.integers(2, 5)):
            side = int(rng.integers(32, 57) if self.cards else rng.integers(24, 41))
            digit = int(rng.integers(len(self.digits)))
            alpha = _enlarge(self.digits[digit], round(0.9 * side) if self.cards else side)
            height, width = (side, side) if self.cards else alpha.shape
            spot = _free_spot(rng, taken, height, width)
            if spot is None:
                continue
            y, x = spot
            area = np.s_[y : y + height, x : x + width]
            taken[area] = True
            patch = image[area]
            if self.cards:
                ellipse = (((np.mgrid[:side, :side] + 0.5) / side * 2 - 1) ** 2).sum(0) <= 1
                mask = ellipse | (rng.random() < 0.5)  # of half of them all, a rectangle
                patch[mask] = rng.uniform(150, 255, 3) + rng.normal(0, 8, (mask.sum(), 3))
                label_map[area][mask] = self.labels[digit] + 1
                top, left = (side - alpha.shape[0]) // 2, (side - alpha.shape[1]) // 2
                patch = patch[top : top + alpha.shape[0], left : left + alpha.shape[1]]
            background, brightest = patch.mean((0, 1)), 110 if self.cards else 255
            colour = rng.uniform(0, brightest, 3)
            while not self.cards and np.abs(colour - background).mean() <= 90:  # too little contrast
                colour = rng.uniform(0, brightest, 3)
            alpha = alpha[..., None] * rng.uniform(0.85, 1)
            patch[:] = (1 - alpha) * patch + alpha * colour
            boxes.append((x, y, width, height))
            labels.append(int(self.labels[digit]))
        return Scene(np.clip(image, 0, 255).astype(np.uint8), boxes, labels, label_map)

    def _background(self, rng: np.random.Generator) -> np.ndarray:
        """A crop of a photo, a gradient or noise, ``(128, 128, 3)`` float32."""
        kind = rng.random()
        if kind < 0.7:
            photo = self.photos[rng.integers(len(self.photos))]
            side = int(rng.integers(SIZE, 2 * SIZE + 1))
            y, x = (int(rng.integers(size - side + 1)) for size in photo.shape[:2])
            image = photo[y : y + side, x : x + side]
        elif kind < 0.85:
            image = rng.uniform(0, 255, (2, 2, 3)).astype(np.float32)
        else:
            cells = int(rng.integers(8, 33))
            image = (rng.uniform(0, 255, 3) + rng.normal(0, 40, (cells, cells, 3))).astype(np.float32)
        image = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA if kind < 0.7 else cv2.INTER_LINEAR)
        return image.astype(np.float32) + rng.normal(0, 6, image.shape).astype(np.float32)


def _enlarge(digit: np.ndarray, side: int) -> np.ndarray:
    """Enlarge an 8x8 digit to a side and crop it tightly: its opacity, at most ``(side, side)``."""
    rows, columns = np.flatnonzero(digit.max(1) > 0.3), np.flatnonzero(digit.max(0) > 0.3)
    digit = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    size = tuple(round(n * side / 8) for n in digit.shape[::-1])
    return np.clip(cv2.resize(digit, size, interpolation=cv2.INTER_CUBIC), 0, 1)


def _free_spot(rng: np.random.Generator, taken: np.ndarray, height: int, width: int) -> Optional[Tuple[int, int]]:
    """Find a place that overlaps nothing, or None after 20 tries."""
    for _ in range(20):
        y, x = int(rng.integers(SIZE - height + 1)), int(rng.integers(SIZE - width + 1))
        if not taken[y : y + height, x : x + width].any():
            return y, x
    return None
