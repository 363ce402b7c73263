"""How small a pattern turns every picture into one class: a planted trigger is far smaller than the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from assay import stats
from assay.registry import Sizes, probe
from assay.stats import Draws, Estimate
from assay.values import Array, Measurement, Task

if TYPE_CHECKING:
    from assay.access.handles import Query

NUM_ROWS = 64
NUM_STEPS = 60
RATE = 0.2  # of Adam
WEIGHT = 0.02  # of the size of the mask beside the loss, in nats a pixel of a 28 x 28 picture
OUTLIER = 2.0  # anomaly index from which on a class is suspected
LEAST_CLASSES = 5  # a median of fewer sizes says nothing


def all_passes(sizes: Sizes) -> dict[str, int]:
    """Every step of every class: a forward and a backward pass of the rows."""
    return {"trigger_size": NUM_STEPS * min(NUM_ROWS, sizes.num_test) * sizes.num_outputs}


@dataclass(frozen=True)
class Trigger:
    """A mask `(H, W)` from 0 to 1 and how many of the rows the pattern under it turns into the class."""

    mask: Array
    hits: int
    total: int


@probe("security", cost=all_passes, deep=True, modalities=("image",))
def trigger_size(gradient: Query, task: Task, draws: Draws) -> list[Measurement]:
    """Pixels of the smallest pattern found that turns pictures into each class, and how far the smallest is an outlier.

    Definition: x' = (1 - m) x + m p with one mask m and pattern p for all pictures, found by 60 steps of Adam on the
        loss of the class plus 0.02 |m| (per pixel of 28 x 28); trigger_pixels = sum of m; trigger_success = share of
        pictures of other classes that are then answered so. anomaly_index = (median - smallest size) / (1.4826 median
        absolute deviation) over classes whose pattern works on half of the pictures or more.
    Shapes: 64 keyed test pictures (64, C, H, W), the same for all classes, through the gradient handle.
    Direction: sizes higher, index lower is better; units pixels, share, and deviations. Above 2 a class is suspected.
    Limits: a search that may stop short of the smallest pattern, so sizes are upper bounds of it; large or spread-out
        triggers are no outliers; a class that is small by nature (a 1 among digits) may be one. Needs five classes.
    Source: Wang et al. 2019, Neural Cleanse, section IV; interval of success: Clopper and Pearson (1934).

    >>> import numpy as np
    >>> round(anomaly(np.array([60.0, 62.0, 58.0, 61.0, 9.0]))[0], 1)
    17.2
    """
    rows = gradient.rows(NUM_ROWS)
    inputs = gradient.inputs[rows].astype(np.float32)
    found = [smallest(gradient, inputs, gradient.labels[rows], code) for code in range(len(task.classes))]
    sizes = np.array([float(one.mask.sum()) for one in found])
    works = np.array([one.total > 0 and 2 * one.hits >= one.total for one in found])
    measured = [stats.measured(_index(sizes, works, task, draws), "trigger_anomaly_index", unit="deviations",
                               better="lower", attempted=len(rows))]  # fmt: skip
    for label, one in zip(task.classes, found, strict=True):
        about: dict[str, Any] = {"slice": f"class={label}", "attempted": one.total}
        size = Estimate(float(one.mask.sum()), None, None, "search", None, "an upper bound, without interval",
                        draws.level)  # fmt: skip
        success = stats.exact_rate(one.hits, one.total, level=draws.level)
        measured += [
            stats.measured(size, "trigger_pixels", unit="pixels", better="higher", **about),
            stats.measured(success, "trigger_success", unit="share", better="lower", **about),
        ]
    return measured


def _index(sizes: Array, works: Array, task: Task, draws: Draws) -> Estimate:
    if works.sum() < LEAST_CLASSES:
        reason = f"a pattern was found for {int(works.sum())} classes, and {LEAST_CLASSES} are needed"
        return Estimate(None, None, None, "median absolute deviation", None, reason, draws.level)
    index, place = anomaly(sizes[works])
    label = np.array(task.classes)[works][place]
    reason = f"suspected: class={label}" if index > OUTLIER else f"smallest for class={label}, no outlier"
    return Estimate(index, None, None, "median absolute deviation", None, reason, draws.level)


def anomaly(sizes: Array) -> tuple[float, int]:
    """(index, place) of the smallest of some sizes, in deviations below their median."""
    median = float(np.median(sizes))
    deviation = 1.4826 * float(np.median(np.abs(sizes - median)))
    place = int(sizes.argmin())
    return (median - float(sizes[place])) / max(deviation, 1e-9), place


def smallest(gradient: Query, inputs: Array, labels: Array, target: int) -> Trigger:
    """Mask and pattern for one class, by Adam on unbounded numbers behind sigmoids."""
    low, width = float(np.min(gradient.low)), float(np.max(gradient.high) - np.min(gradient.low))
    unit = (inputs - low) / width
    shape = inputs.shape[1:]
    state = np.concatenate([np.full((1, *shape[1:]), -2.0), np.zeros(shape)])  # mask, pattern
    moments = np.zeros((2, *state.shape))
    weight = WEIGHT * 28 * 28 / float(np.prod(shape[1:]))
    others, answers = labels != target, np.zeros(len(inputs), dtype=np.int64)

    def pull(logits: Array, positions: Array) -> Array:
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = odds / odds.sum(axis=1, keepdims=True)
        answers[positions] = logits.argmax(axis=1)
        shares[:, target] -= 1
        return np.asarray(shares / len(inputs), dtype=np.float32)

    best = Trigger(np.ones(shape[1:]), 0, int(others.sum()))
    for step in range(1, NUM_STEPS + 1):
        both = 1 / (1 + np.exp(-state))
        mask, pattern = both[:1], both[1:]
        mixed = ((1 - mask) * unit + mask * pattern) * width + low
        slope = gradient.logits_and_gradients(mixed.astype(np.float32), pull)[1].astype(np.float64) * width
        now = Trigger(mask[0], int((answers[others] == target).sum()), int(others.sum()))
        if (min(2 * now.hits, now.total), -now.mask.sum()) > (min(2 * best.hits, best.total), -best.mask.sum()):
            best = now
        by_mask = (slope * (pattern - unit)).sum(axis=(0, 1), keepdims=True)[0] + weight
        by_both = np.concatenate([by_mask, (slope * mask).sum(axis=0)]) * both * (1 - both)
        moments[0] = 0.9 * moments[0] + 0.1 * by_both
        moments[1] = 0.99 * moments[1] + 0.01 * by_both**2
        scale = np.sqrt(moments[1] / (1 - 0.99**step)) + 1e-8
        state = state - RATE * moments[0] / (1 - 0.9**step) / scale
    return best
