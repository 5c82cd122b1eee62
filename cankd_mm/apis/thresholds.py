"""The score from which on a prediction counts: for each class that of the greatest F1 on labelled images."""

from typing import Dict, Iterable, List, NamedTuple, Optional, Tuple

import numpy as np

BINS = 1000  # of the probability of pixels, of which there are too many to keep


class Threshold(NamedTuple):
    """A score, and what those from it on are worth; None where no labelled images tell."""

    score: float
    precision: Optional[float] = None
    recall: Optional[float] = None


def best_f1(scores: np.ndarray, right: np.ndarray, found: np.ndarray, total: float) -> Optional[Threshold]:
    """Find the score from which on the F1 is greatest, the highest of several; None where nothing is right.

    Args:
        scores (np.ndarray): Scores, (N,), in any order.
        right, found (np.ndarray): How many predictions of each score are right, and how many there are, (N,).
        total (float): How many there are to be found.
    """
    scores, where = np.unique(scores, return_inverse=True)
    right, found = (np.bincount(where, counts, len(scores))[::-1].cumsum() for counts in (right, found))
    if not len(scores) or not total or not right[-1]:
        return None
    best = (2 * right / np.maximum(found + total, 1)).argmax()
    return Threshold(float(scores[::-1][best]), float(right[best] / found[best]), float(right[best] / total))


Boxes = Tuple[np.ndarray, np.ndarray, np.ndarray]  # (N, 4) as two corners, labels (N,), scores (N,) or what to ignore


def of_boxes(images: Iterable[Tuple[Boxes, Boxes]], classes: int) -> List[Optional[Threshold]]:
    """Find the threshold of each class at an IoU of 0.5, from the predictions and the annotations of images."""
    from mmdet.evaluation.functional.mean_ap import tpfp_default  # not there beside MMSegmentation alone

    scored: Dict[int, list] = {label: [] for label in range(classes)}
    total = np.zeros(classes)
    for (boxes, labels, scores), (true_boxes, true_labels, ignored) in images:
        for label in range(classes):
            mine, true = labels == label, true_labels == label
            total[label] += (true & ~ignored).sum()
            if mine.any():
                found = np.column_stack([boxes[mine], scores[mine]])
                right, wrong = tpfp_default(found, true_boxes[true & ~ignored], true_boxes[true & ignored])
                scored[label].append(np.stack([scores[mine], right[0], right[0] + wrong[0]]))  # an ignored one is none
    found = [np.concatenate(parts, 1) if parts else np.zeros((3, 0)) for parts in scored.values()]
    return [best_f1(*figures, number) for figures, number in zip(found, total)]


Pixels = Tuple[np.ndarray, np.ndarray, np.ndarray]  # labels, their probabilities, and those of the annotations, (H, W)


def of_pixels(images: Iterable[Pixels], classes: int, ignore_index: int) -> List[Optional[Threshold]]:
    """Find the threshold of each class, a multiple of 1 / BINS, from the predicted and the true labels of pixels."""
    right, found = np.zeros((2, classes * (BINS + 1)))
    total = np.zeros(classes)
    for labels, probabilities, truth in images:
        known = truth != ignore_index
        labels, truth = labels[known].astype(int), truth[known].astype(int)
        bins = labels * (BINS + 1) + (probabilities[known] * BINS).astype(int).clip(0, BINS)
        right += np.bincount(bins[labels == truth], minlength=len(right))
        found += np.bincount(bins, minlength=len(found))
        total += np.bincount(truth, minlength=classes)[:classes]
    scores = np.arange(BINS + 1) / BINS
    right, found = right.reshape(classes, -1), found.reshape(classes, -1)
    return [best_f1(scores, *figures) for figures in zip(right, found, total)]
