"""Which rows did the training take longest to know? Told from the losses it met, without another training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from assay import stats
from assay.registry import probe
from assay.stats import Draws, Estimate
from assay.values import Array, Measurement

FACT = "loss_trace"  # as `assay.train.traces` names it
LATE = 0.3  # interquartile range of a probability from which a row counts as learnt late


@probe("privacy")
def loss_trace(facts: Mapping[str, Any], draws: Draws) -> list[Measurement]:
    r"""Share of training rows that were learnt late and by heart, from the losses kept during training.

    Definition: a row's spread = the interquartile range over epochs of exp(-loss), the probability of its label when it
    was met. rows_learnt_late = share of training rows with a spread of 0.3 or more. A row that was not met in two
    epochs, or whose loss is not finite, counts as errored and not as late. `most_exposed` gives the rows themselves, to
    their owner only.
    Shapes: facts["loss_trace"] (epochs, N_train), kept where the recipe has `is_traced`.
    Direction: lower is better.
    Limits: a ranking, not an attack: it says whom an attack would find first, not whether one succeeds. Of the top 1 %
    by spread the attack with four reference models found 93 % (Adult, all rows: 8 %) and 60 % (Fashion-MNIST, all rows:
    4 %) at 1 % false claims; over all rows the two rank alike only weakly (Spearman 0.36 and 0.41). Depends on the
    number of epochs and the schedule (a row learnt in the first quarter has no spread): compare systems trained
    alike. Undefined for a model that was loaded.
    Source: Pollock, Shilov, Dodd and de Montjoye 2024 (LT-IQR, arXiv 2411.05743), section 4; of probabilities rather
    than losses, which ranked better on both sets.

    >>> spreads(np.array([[3.0, 0.1], [3.0, 0.1], [0.01, 0.1], [0.01, 0.1]])).round(2).tolist()
    [0.94, 0.0]
    """
    kept = facts.get(FACT)
    about: dict[str, Any] = {"unit": "fraction", "better": "lower"}
    if not isinstance(kept, np.ndarray) or not kept.size:
        reason = "no losses were kept: train with is_traced, and audit before the system is stored"
        nothing = Estimate(None, None, None, "Clopper-Pearson", None, reason, draws.level)
        return [stats.measured(nothing, "rows_learnt_late", **about)]
    found = spreads(kept)
    late = stats.exact_rate(int((found >= LATE).sum()), len(found), level=draws.level)
    counts: dict[str, Any] = {"attempted": len(found), "errored": int(np.isnan(found).sum())}
    return [stats.measured(late, "rows_learnt_late", **about, **counts)]


def spreads(trace: Array) -> Array:
    """Interquartile range over epochs of exp(-loss) `(N,)` from losses `(epochs, N)`; NaN with fewer than two."""
    losses = np.asarray(trace, dtype=np.float64)
    known = np.isfinite(losses)
    usable = known.sum(axis=0) >= 2
    found = np.full(losses.shape[1], np.nan)
    if usable.any():
        chances = np.exp(-np.where(known, losses, np.nan)[:, usable])
        low, high = np.nanquantile(chances, (0.25, 0.75), axis=0)
        found[usable] = high - low
    return found


def most_exposed(trace: Array, share: float = 0.01) -> Array:
    """Indices of the rows of the largest spread, largest first: at least one, a `share` of all.

    >>> most_exposed(np.array([[0.1, 3.0], [0.1, 0.1]])).tolist()
    [1]
    """
    found = np.nan_to_num(spreads(trace), nan=-1.0)
    rows: Array = np.argsort(-found, kind="stable")[: max(1, int(share * len(found)))]
    return rows
