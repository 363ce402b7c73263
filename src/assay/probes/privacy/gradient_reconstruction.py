"""Can a row be read out of the gradient it gives?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from assay import stats
from assay.registry import Sizes, probe
from assay.stats import Draws, Estimate
from assay.values import Array, Measurement

if TYPE_CHECKING:
    from assay.access.handles import Query

ROWS = {"table": 256, "image": 6}
STEPS = 200
CLOSE = 0.5  # of the distance to the nearest neighbour: who knows a hundred other rows is at distance 1


def inverted_rows(sizes: Sizes) -> dict[str, int]:
    """A look at the layers, each row's gradient, and the background; or each row at every step of the matching."""
    num = min(ROWS.get(sizes.modality, 0), sizes.num_test)
    background = min(100, sizes.num_train)
    return {"gradient_reconstruction": 1 + num + background if sizes.modality == "table" else 1 + num * (STEPS + 1)}


@probe("privacy", cost=inverted_rows, modalities=("table", "image"), deep=True)
def gradient_reconstruction(gradient: Query, draws: Draws) -> list[Measurement]:
    r"""Share of single rows that are recovered from one gradient of the weights, as who trains together shares it.

    Definition: with a linear layer first, x = sum_i d_i G_i / sum_i d_i^2 from its weight gradient G (H, D) and bias
    gradient d (H,), which is exact. Else, for pictures, 200 steps of Adam on the sign of the slope of 1 - cos(gradient
    at x, gradient given) + 0.001 total variation. A row's distance is |found - row| over that to its nearest among 100
    training rows, what somebody without the gradient comes to. rows_reconstructed = share with a distance below 0.5;
    reconstruction_distance = the mean, each at most 1. The label is taken as known.
    Shapes: keyed test rows: at most 256 of a table, as encoded where the first layer reads them (D numbers), or 6
    pictures (C H W pixels over 255).
    Direction: rows_reconstructed lower is better, reconstruction_distance higher. A row that is not finite counts as
    not reconstructed.
    Limits: the gradient of one row alone, without noise or clipping: batches, several local steps and private training
    hide more. Of six pictures little can be said, and 200 steps are few: a longer search may find more. Undefined for
    tables whose first layer is not linear. Nothing of it concerns a model of which only answers are given out.
    Source: Zhu, Liu and Han 2019, section 3; Geiping et al. 2020, proposition 3.1 and section 4.

    >>> distances(np.array([[0.0, 1.0]]), np.array([[0.0, 0.0]]), np.array([[0.0, 4.0]])).tolist()
    [0.25]
    """
    rows = gradient.rows(ROWS[gradient.system.data.modality])
    found = gradient.inverted(rows, steps=STEPS)
    about: dict[str, Any] = {"unit": "fraction", "attempted": len(rows)}
    if found is None:
        reason = "its first layer is not linear, and matching is done for pictures only"
        nothing = Estimate(None, None, None, "Clopper-Pearson", None, reason, draws.level)
        return [stats.measured(nothing, "rows_reconstructed", better="lower", **about)]
    away = distances(found.found, found.truth, found.others)
    share = stats.exact_rate(int((away < CLOSE).sum()), len(away), level=draws.level)
    sums = draws.of(rows).sums(np.column_stack([np.minimum(away, 1.0), np.ones(len(away))]))
    mean = stats.mean(sums[:, 0], sums[:, 1], level=draws.level, bounds=(0.0, 1.0))
    return [
        stats.measured(share, "rows_reconstructed", better="lower", **about),
        stats.measured(mean, "reconstruction_distance", better="higher", **about),
    ]


def distances(found: Array, truth: Array, others: Array) -> Array:
    """Distance of each recovered row `(n, D)` to the true one, over that of the true one to its nearest of `(b, D)`."""
    squares = (truth**2).sum(axis=1)[:, None] - 2 * truth @ others.T + (others**2).sum(axis=1)
    nearest = np.sqrt(np.maximum(squares, 0.0).min(axis=1))
    away = np.linalg.norm(found - truth, axis=1)
    ratio: Array = away / np.maximum(nearest, 1e-6)
    return np.where(np.isfinite(ratio), ratio, np.inf)
