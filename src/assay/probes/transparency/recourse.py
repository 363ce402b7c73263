"""What would have to change for the favourable answer, and for whom it takes more."""

from __future__ import annotations

import numpy as np

from assay import stats
from assay.access.handles import Query
from assay.explain import contrast
from assay.probes.transparency import _masked
from assay.registry import Sizes, probe
from assay.stats import Draws, measured
from assay.units import is_wide
from assay.values import Array, Measurement, Task

NUM_ROWS = 128
MOST = 3
_CHUNK = 1 << 24  # numbers in one batch of changed rows of a wide table


def _cost(sizes: Sizes) -> dict[str, int]:
    num_rows = min(NUM_ROWS, sizes.num_test)
    tried = _masked.num_looked_at(sizes) * contrast.NUM_VALUES * (1 + (MOST - 1) * contrast.BEAM)
    return {"counterfactuals": num_rows * (1 + tried), **_masked.screening(sizes)}


@probe("transparency", cost=_cost, modalities=("table",))
def recourse(query: Query, task: Task, draws: Draws) -> list[Measurement]:
    """Share of refused rows that a few changed columns would turn, and how many columns that takes, by group.

    Definition: of rows without the favourable answer, recourse_share = share for which at most 3 columns set to other
    values bring it, by the system's own decision rule; recourse_cost = mean number of columns changed, where found. A
    value is one of 8 training quantiles (5 to 95 %), or of the 8 most frequent categories; sensitive columns are never
    changed. All single changes are tried; of more, the two that come nearest are taken further.
    Shapes: at most 128 test rows (N, F), those refused among them; groups of each sensitive column.
    Direction: share higher, a fraction; cost lower, in columns.
    Limits: a changed value need not be in a person's power, nor fit the columns that stay; it turns the model's answer,
    not the outcome. The search is greedy from two changes on: the share is a lower bound and the cost of two or three
    an upper one. Defined for two classes, the positive one being favourable.
    Source: Wachter, Mittelstadt and Russell 2017, section III; Ustun, Spangher and Liu 2019, section 2 and 4 (recourse
    by group); see `assay.explain.contrast`.

    >>> from assay.registry import PROBES
    >>> PROBES["recourse"].needs
    ('query', 'task', 'draws')
    """
    rows = query.rows(NUM_ROWS)
    inputs, groups, wanted = query.inputs[rows], query.groups.take(rows), task.positive_index
    if wanted is None:
        reason = "more than two classes: none is the favourable one"
        nothing = stats.Estimate(None, None, None, "none", None, reason)
        return [measured(nothing, "recourse_share", unit="fraction", better="higher")]

    def decide(changed: Array, owner: Array) -> tuple[Array, Array]:
        answers = query.predictions(changed, groups.take(owner))
        return answers == wanted, query.probabilities(changed)[:, wanted].astype(np.float64)

    answers = query.predictions(inputs, groups)
    is_refused = (answers != wanted) & (answers >= 0)
    refused, cost = np.flatnonzero(is_refused), np.full(len(rows), -1)
    values = _values(query)
    few = _rows_at_once(query, len(values))
    for some in np.split(refused, range(few, len(refused), few)):

        def turned(changed: Array, owner: Array, some: Array = some) -> tuple[Array, Array]:
            return decide(changed, some[owner])

        cost[some] = contrast.contrast(turned, inputs[some], values, most=MOST).cost
    about, slices = [is_refused], [""]
    for place, column in enumerate(groups.columns):
        for code, name in enumerate(column.categories):
            about.append(is_refused & (groups.codes[:, place] == code))
            slices.append(f"{column.name}={name}")
    found_by = _measured(draws.of(rows), cost, (about, slices), errored=answers < 0)
    return _masked.noted(query, found_by, others=False)


def _values(query: Query) -> list[tuple[int, float]]:
    """Column and value of each change that is tried; of a wide table in the columns that move the answers most."""
    places, fixed = _masked.looked_at(query).tolist(), [column.name for column in query.groups.columns]
    known = contrast.candidates(query.known[:, places], [query.columns[at] for at in places], fixed=fixed)
    return [(places[at], value) for at, value in known]


def _rows_at_once(query: Query, num_values: int) -> int:
    numbers = len(query.columns) * max(1, num_values) * contrast.BEAM
    return max(1, _CHUNK // numbers) if is_wide(query.columns) else NUM_ROWS


def _measured(draws: Draws, cost: Array, by: tuple[list[Array], list[str]], *, errored: Array) -> list[Measurement]:
    about, slices = by
    reached = [one & (cost > 0) for one in about]
    sums = draws.sums(np.stack([*about, *reached, *(np.where(one, cost, 0) for one in reached)], axis=1).astype(float))
    refused, turned, spent = np.split(sums, 3, axis=1)
    found = []
    for place, slice_ in enumerate(slices):
        share = stats.rate(turned[:, place], refused[:, place], level=draws.level)
        mean = stats.mean(spent[:, place], turned[:, place], level=draws.level, bounds=(1, MOST))
        lost = 0 if slice_ else int(errored.sum())
        found += [
            measured(
                share, "recourse_share", unit="fraction", better="higher", slice=slice_,
                attempted=int(about[place].sum()) + lost, errored=lost,
            ),
            measured(
                mean, "recourse_cost", unit="columns", better="lower", slice=slice_,
                attempted=int(reached[place].sum()) + lost, errored=lost,
            ),
        ]  # fmt: skip
    return found
