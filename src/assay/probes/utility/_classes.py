"""What the utility probes share: counts per class under every draw, and means over classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from assay.stats import Draws, Estimate, measured
from assay.values import Array, Better, Measurement, Task


def class_counts(labels: Array, predictions: Array, num_classes: int, draws: Draws) -> tuple[Array, Array, Array]:
    """Labelled, predicted and rightly predicted rows of each class `(1+B, K)`, or of each of several labels `(1+B, L)`.

    Three counts of K+1 cells rather than one of (K+1)²: a thousand classes stay affordable. The last cell takes what
    belongs to no class: errored predictions, unknown labels, misses.
    """
    if labels.ndim == 2:
        cells = np.where(predictions < 0, 1 - labels, predictions) * 2 + labels  # errored: every label wrong
        found = np.stack([draws.counts(cells[:, place].astype(np.int64), 4) for place in range(num_classes)], axis=2)
        return found[:, 1] + found[:, 3], found[:, 2] + found[:, 3], found[:, 3]
    known = np.where(labels < 0, num_classes, labels)
    answered = np.where(predictions < 0, num_classes, predictions)
    right = np.where(known == answered, known, num_classes)
    supports, answers, hits = (
        draws.counts(codes.astype(np.int64), num_classes + 1)[:, :num_classes] for codes in (known, answered, right)
    )
    return supports, answers, hits


def ratio(hits: Array, totals: Array) -> Array:
    """`hits / totals`, NaN where the total is 0."""
    result: Array = np.full(np.shape(totals), np.nan)
    np.divide(hits, totals, out=result, where=totals > 0)
    return result


def over_classes(ratios: Array) -> Array:
    """Mean over the classes that are defined under each draw, `(1+B, K)` to `(1+B,)`; NaN where none is."""
    defined = np.isfinite(ratios)
    return ratio(np.where(defined, ratios, 0.0).sum(axis=1), defined.sum(axis=1))


def mean_of_rates(rates: Sequence[Estimate], replicates: Array, *, level: float, note: str) -> Estimate:
    """Mean of independent class rates, with limits recovered from the class limits (MOVER; Zou & Donner 2008).

    A bootstrap gives [1, 1] for a perfect system on ten rows; limits recovered from Wilson's do not.
    """
    kept = [one for one in rates if one.value is not None]
    if not kept:
        return Estimate(None, None, None, "MOVER of Wilson", reason="undefined for every class", level=level)
    values, lows, highs = (np.array([getattr(one, name) for one in kept]) for name in ("value", "low", "high"))
    value = float(values.mean())
    down = float(np.sqrt(((values - lows) ** 2).sum())) / len(kept)
    up = float(np.sqrt(((highs - values) ** 2).sum())) / len(kept)
    return Estimate(value, value - down, value + up, "MOVER of Wilson", replicates, note, level)


def named_classes(task: Task) -> tuple[tuple[str, ...], str]:
    """The names of the classes, or of the labels of which several may apply; and what they are in a slice."""
    return (task.label_names, "label") if task.label_names else (task.classes, "class")


def left_out(missing: Array, classes: tuple[str, ...], why: str) -> str:
    """A sentence naming the classes marked in `missing (K,)`, at most five; empty when there is none."""
    names = [classes[index] for index in np.flatnonzero(missing)]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"left out, because {why}: {', '.join(names[:5])}{more}" if names else ""


def share(
    estimate: Estimate,
    metric: str,
    rows: tuple[int, int],
    *,
    where: str = "",
    better: Better = "higher",
    headline: bool = False,
) -> Measurement:
    """A measurement in shares; `rows` is how many were attempted and how many of them errored."""
    attempted, errored = rows
    return measured(
        estimate,
        metric,
        unit="share",
        better=better,
        slice=where,
        attempted=attempted,
        errored=errored,
        headline=headline,
    )
