"""How much better is a sensitive column guessed by someone who may ask the model?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from assay import stats
from assay.probes.privacy._predictive import logit_confidence
from assay.registry import Sizes, probe
from assay.stats import Draws, Estimate
from assay.values import Array, Column, Measurement

if TYPE_CHECKING:
    from assay.access.handles import Query

MOST_ROWS = 2000
MOST_VALUES = 16  # of all sensitive columns together; the columns that come after are left out
RIDGE = 1.0  # one row's worth
ATTACKS = ("learnt", "csmia", "map")


def asked_rows(sizes: Sizes) -> dict[str, int]:
    """Each row once for each value of each sensitive column; fewer where the columns have fewer than 16 values."""
    return {"attribute_inference": min(MOST_ROWS, sizes.num_test) * MOST_VALUES}


@probe("privacy", cost=asked_rows, modalities=("table",), deep=True)
def attribute_inference(query: Query, draws: Draws) -> list[Measurement]:
    r"""Gain of an attacker who knows all else about a person and the right label, and may ask the model.

    Definition: for a sensitive column with values v that is also a feature, the model is asked about the row with each
    v. Guesses: learnt = ridge regression of the column on the other columns (apart for each label) and on the label's
    log-odds at each v; csmia = the only v whose answer is the label, of several the most confident, of none the least
    sure; map = the v with the largest P(v) p(label | row with v). Without the model: the same ridge regression without
    the log-odds. Both regressions are fitted on one half of the rows and guess the other, in turn.
    attribute_inference_gain = share guessed right by learnt - share guessed right without the model.
    Shapes: at most 2,000 keyed test rows, asked once for each value. Slices: `feature=<column>`, the same by the true
    value, and `attack=` for each way of guessing.
    Direction: lower is better; 0 says that the model adds nothing. Rows that error are guessed wrongly by all attacks.
    Limits: the attacker is linear in the other columns; a stronger one may gain more, or need the model
    less: where the column follows from the others in a way that is not linear, the model's own curves count as a gain.
    The rows are test rows: what the model gives away about anyone, not about training rows alone. It counts guessing
    what the population as a whole shows, such as a label that differs by group, as a gain.
    Source: Fredrikson et al. 2014, section 3.1 (map); Yeom et al. 2018, section 5; Mehnaz et al. 2022, section 4.2
    (CSMIA); the baseline without a model of Jayaraman and Evans 2022.

    >>> csmia(np.array([[2.0, -1.0], [2.0, 3.0], [-2.0, -3.0]])).tolist()
    [0, 1, 0]
    """
    rows = query.rows(MOST_ROWS)
    inputs, labels = query.inputs[rows], query.labels[rows]
    sample, order, found = draws.of(rows), query.rng("attribute inference").permutation(len(rows)), []
    for place, column in sensitive(query.columns, [one.name for one in query.groups.columns]):
        confidences = asked(query, inputs, labels, place)
        truth, known = inputs[:, place].astype(np.int64), coded(inputs, labels, query.columns, place)
        errored = ~np.isfinite(confidences).all(axis=1)
        confidences[errored] = 0.0
        guesses = guess(confidences, truth, known, order)
        without = learnt(known, truth, len(column.categories), order)
        right = {name: (one == truth) & ~errored for name, one in {**guesses, "none": without}.items()}
        found += _measured(column, truth, right, sample, int(errored.sum()))
    if not found:
        reason = "no sensitive column is a feature with 2 to 16 values"
        nothing = Estimate(None, None, None, "paired bootstrap", None, reason, draws.level)
        found = [stats.measured(nothing, "attribute_inference_gain", unit="fraction", better="lower")]
    return found


def sensitive(columns: Sequence[Column], names: Sequence[str]) -> list[tuple[int, Column]]:
    """Place and column of the sensitive features, as long as their values together are at most 16."""
    found, left = [], MOST_VALUES
    for place, column in enumerate(columns):
        if column.kind == "categorical" and column.name in names and 2 <= len(column.categories) <= left:
            found.append((place, column))
            left -= len(column.categories)
    return found


def asked(query: Query, inputs: Array, labels: Array, place: int) -> Array:
    """Log-odds of the label `(N, V)` with each value of the column at `place`."""
    found = []
    for value in range(len(query.columns[place].categories)):
        changed = inputs.copy()
        changed[:, place] = value
        found.append(logit_confidence(query.logits(changed), labels))
    return np.stack(found, axis=1)


def coded(inputs: Array, labels: Array, columns: Sequence[Column], place: int) -> Array:
    """What is known without the model `(N, D)`: one and the other columns, missing values too, apart for each label."""
    parts = [np.ones((len(inputs), 1))]
    for other, column in enumerate(columns):
        values = inputs[:, other].astype(np.float64)
        if other == place:
            continue
        if column.kind == "categorical":
            parts.append(values[:, None] == np.arange(len(column.categories)))
            continue
        is_missing = ~np.isfinite(values)
        values = np.where(is_missing, np.nan, values)
        middle, spread = (np.nanmean(values), np.nanstd(values)) if not is_missing.all() else (0.0, 1.0)
        parts.append(np.stack([np.where(is_missing, 0.0, (values - middle) / (spread or 1.0)), is_missing], axis=1))
    alone = np.concatenate(parts, axis=1)
    by_label = [alone * (labels == label)[:, None] for label in np.unique(labels)]
    return np.concatenate(by_label or [alone], axis=1)


def guess(confidences: Array, truth: Array, known: Array, order: Array) -> dict[str, Array]:
    """Each attack's guesses `(N,)` from log-odds `(N, V)` and what is known `(N, D)`."""
    num_values = confidences.shape[1]
    share = np.bincount(truth[truth >= 0], minlength=num_values) + 1.0
    likely = -np.logaddexp(0.0, -confidences) + np.log(share)
    with_model = np.concatenate([known, np.clip(confidences, -20, 20), 1 / (1 + np.exp(-confidences))], axis=1)
    return {
        "learnt": learnt(with_model, truth, num_values, order),
        "csmia": csmia(confidences),
        "map": likely.argmax(axis=1),
    }


def csmia(confidences: Array) -> Array:
    """Case by case, from log-odds `(N, V)` of the label: above 0 the answer is the label (two classes)."""
    is_right = confidences > 0
    none = ~is_right.any(axis=1)
    # Of right answers the surest; where all are wrong the least sure of the wrong, which is the highest too.
    found: Array = np.where(none, confidences.argmax(axis=1), np.where(is_right, confidences, -np.inf).argmax(axis=1))
    return found


def learnt(features: Array, truth: Array, num_values: int, order: Array) -> Array:
    """Ridge regression on indicators of the value, fitted on one half of the rows, guessing the other, in turn."""
    found = np.zeros(len(features), dtype=np.int64)
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    for fitted, guessed in (halves, halves[::-1]):
        rows = fitted[truth[fitted] >= 0]
        design = features[rows]
        normal = design.T @ design + RIDGE * np.eye(design.shape[1])
        weights = np.linalg.solve(normal, design.T @ np.eye(num_values)[truth[rows]])
        found[guessed] = (features[guessed] @ weights).argmax(axis=1)
    return found


def _measured(column: Column, truth: Array, right: dict[str, Array], sample: Draws, errored: int) -> list[Measurement]:
    name, found = f"feature={column.name}", []
    about: dict[str, Any] = {"unit": "fraction", "better": "lower"}
    masks = {name: truth >= 0} | {
        f"{name} & {column.name}={value}": truth == code for code, value in enumerate(column.categories)
    }
    for slice, mask in masks.items():
        hits = np.column_stack([mask & right["learnt"], mask & right["none"], mask]).astype(np.float64)
        counted = sample.sums(hits)
        counts: dict[str, Any] = {"attempted": int(mask.sum()), "errored": errored if slice == name else 0}
        if not mask.any():
            gain = Estimate(None, None, None, "paired bootstrap", None, "no row has this value", sample.level)
        else:
            totals = np.where(counted[:, 2] > 0, counted[:, 2], np.nan)
            gains = (counted[:, 0] - counted[:, 1]) / totals
            gain = stats.statistic(gains, level=sample.level, bounds=(-1.0, 1.0), num=float(mask.sum()))
        found.append(stats.measured(gain, "attribute_inference_gain", slice=slice, **about, **counts))
    whole = truth >= 0
    for attack in (*ATTACKS, "none"):
        counted = sample.sums(np.column_stack([whole & right[attack], whole]).astype(np.float64))
        rate = stats.rate(counted[:, 0], counted[:, 1], level=sample.level)
        counts = {"attempted": int(whole.sum()), "errored": errored}
        place = f"{name} & attack={attack}"
        found.append(stats.measured(rate, "attribute_guess_rate", slice=place, **about, **counts))
    return found
