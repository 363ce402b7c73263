"""Whether outputs rank people as well within every group, and across groups."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from assay.estimation.intervals import level_of, range_critical
from assay.probes.fairness._areas import Areas, Ranks, ranks_of
from assay.probes.fairness._groups import Partition, every, largest_of, share_of_level
from assay.registry import probe
from assay.stats import Draws, Estimate
from assay.values import Array, Groups, Measurement, Task

MOST_CLASSES = 50
MOST_GROUPS = 60  # of one partition: pairs of groups grow as the square
METHOD = "DeLong, log-odds scale"
ACROSS = f"MOVER of {METHOD}, simultaneous"


@dataclass(frozen=True)
class _Ranked:
    """One partition and one class: areas, and the columns of influence whose draws are wanted."""

    ranks: Ranks
    areas: Areas
    extreme: tuple[int, int] | None  # the pair of groups with the largest cross-group gap


@probe("fairness")
def ranking_by_group(
    labels: Array, probabilities: Array, groups: Groups, task: Task, draws: Draws
) -> list[Measurement]:
    """Area under the ROC curve within every group, its largest gap, and the largest gap across two groups.

    Definition: A(a, b) = P(p_i > p_j) + P(p_i = p_j)/2 with i a positive row of group a and j a negative row of b.
        group_area_under_roc(g) = A(g, g); area_under_roc_difference = max_g - min_g of it;
        cross_area_under_roc_gap = max over pairs |A(a, b) - A(b, a)|. More than two classes: each against the rest, and
        the largest over classes. An errored example loses every pair it is in.
    Shapes: labels (N,), probabilities (N, K), groups codes (N, G).
    Direction: areas higher, differences lower; unit share, 0 to 1.
    Limits: says nothing about thresholds or calibration. Areas within groups can all be equal while the positives of
        one group are ranked below the negatives of another: that is what the cross-group gap is for. A group without
        positive or without negative rows has no area, and is left out of both. At most 60 groups of a partition are
        compared, and 50 classes.
    Source: Kallus & Zhou (2019), section 3 (xAUC disparity); Borkan et al. (2019), subgroup AUC; intervals: DeLong,
        DeLong & Clarke-Pearson (1988) within limits of Birnbaum & Klose (1957), differences by MOVER.

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> from assay.tasks import Classification
    >>> from assay.values import Column
    >>> sex, labels = np.repeat([0, 1], 4), np.tile([0, 0, 1, 1], 2)
    >>> chance = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    >>> groups = Groups(sex[:, None], (Column("sex", "categorical", ("f", "m")),))
    >>> draws, task = make_draws(b"key", "split", [sex, labels]), Classification(("no", "yes"), "yes")
    >>> found = ranking_by_group(labels, np.column_stack([1 - chance, chance]), groups, task, draws)
    >>> [(one.metric, one.value) for one in found if one.slice == "sex"]
    [('area_under_roc_difference', 0.0), ('cross_area_under_roc_gap', 1.0)]
    """
    errored: Array = np.logical_not(np.isfinite(probabilities).all(axis=1))
    wanted = range(task.num_outputs) if task.positive_index is None else (task.positive_index,)
    if len(wanted) > MOST_CLASSES:
        wanted = range(0)
    parts, names = every(groups), [f"class={task.classes[k]}" for k in wanted]
    made = []
    for part in parts:
        for k in wanted:
            belongs = labels == k
            scores = np.where(errored, np.where(belongs, -1.0, 2.0), probabilities[:, k])
            made.append(_ranked(scores, belongs, part))
    drawn = _drawn(made, draws)
    found: list[Measurement] = []
    for place, part in enumerate(parts):
        here = range(place * len(wanted), (place + 1) * len(wanted))
        found += _gaps(part, [made[one] for one in here], [drawn[one] for one in here], names, errored, draws.level)
        for k, one in enumerate(here):
            found += _by_group(part, made[one], drawn[one], errored, "" if len(wanted) == 1 else names[k], draws.level)
    return found


def _ranked(scores: Array, belongs: Array, part: Partition) -> _Ranked:
    num = len(part.slices)
    ranks = ranks_of(scores, belongs, part.codes, num)
    areas = ranks.areas(crossed=num <= MOST_GROUPS)
    gaps = np.triu(np.nan_to_num(np.abs(areas.values - areas.values.T), nan=-1.0), 1) if num <= MOST_GROUPS else None
    if gaps is None or not (np.isfinite(areas.values) & np.isfinite(areas.values.T))[np.triu_indices(num, 1)].any():
        return _Ranked(ranks, areas, None)
    a, b = np.unravel_index(int(gaps.argmax()), gaps.shape)
    return _Ranked(ranks, areas, (int(a), int(b)))


def _drawn(made: list[_Ranked], draws: Draws) -> list[tuple[Array, Array]]:
    """For each: areas of its groups `(1 + B, G)`, and the gap across its extreme pair `(1 + B,)`, under each draw."""
    table = np.zeros(
        (sum(len(one.ranks.scores) + 1 for one in made), draws.num_rows)
    )  # in place: a copy would be large
    at = 0
    for one in made:
        for g in range(len(one.ranks.scores)):
            if np.isfinite(one.areas.values[g, g]):
                table[at + g] = one.ranks.influence(g, g, draws.num_rows)
        at += len(one.ranks.scores) + 1
        if one.extreme is not None:
            table[at - 1] = one.ranks.influence(*one.extreme, draws.num_rows)
            table[at - 1] -= one.ranks.influence(*one.extreme[::-1], draws.num_rows)
    changes = draws.sums(table.T) if len(table) else np.zeros((1 + draws.num_draws, 0))
    found, first = [], 0
    for one in made:
        num, values = len(one.ranks.scores), one.areas.values
        across = values[one.extreme] - values[one.extreme[::-1]] if one.extreme else np.nan
        sign = -1.0 if across < 0 else 1.0
        own = np.diag(values) + changes[:, first : first + num]
        found.append((own, sign * (across + changes[:, first + num])))
        first += num + 1
    return found


def _gaps(
    part: Partition,
    made: list[_Ranked],
    drawn: list[tuple[Array, Array]],
    names: list[str],
    errored: Array,
    level: float,
) -> list[Measurement]:
    """The two gaps of one partition: the largest over classes, at a level that all of them share."""
    if not made:
        none = Estimate(None, None, None, METHOD, reason=f"more than {MOST_CLASSES} classes", level=level)
        within, across = none, none
    else:
        share = share_of_level(level, len(made))
        each = [_within(one, own, share) for one, (own, _) in zip(made, drawn, strict=True)]
        crossed = [_across(one, gap, part.slices, share) for one, (_, gap) in zip(made, drawn, strict=True)]
        within, across = largest_of(each, names, level=level), largest_of(crossed, names, level=level)
    pairs = (("area_under_roc_difference", within), ("cross_area_under_roc_gap", across))
    return [part.measured(one, metric, better="lower", errored=errored, headline=False) for metric, one in pairs]


def _within(one: _Ranked, drawn: Array, level: float) -> Estimate:
    values = np.diag(one.areas.values)
    kept = np.flatnonzero(np.isfinite(values))
    if len(kept) < 2:
        reason = "fewer than two groups have positive and negative rows"
        return Estimate(None, None, None, ACROSS, reason=reason, level=level)
    jointly, alone = (
        tuple(np.diag(limit)[kept] for limit in one.areas.limits(at))
        for at in (level_of(range_critical(len(kept), level)), level)
    )
    shown = values[kept]
    low, high = _extreme(shown[:, None], shown[None, :], jointly, alone)
    top, bottom = kept[shown.argmax()], kept[shown.argmin()]
    missing = len(values) - len(kept)
    note = f"{missing} of {len(values)} groups lack positive or negative rows and are left out" if missing else ""
    gap = drawn[:, top] - drawn[:, bottom]
    return Estimate(float(shown.max() - shown.min()), low, high, ACROSS, gap[1:], note, level)


def _extreme(first: Array, second: Array, jointly: tuple[Array, ...], alone: tuple[Array, ...]) -> tuple[float, float]:
    """Limits of the largest difference of independent areas (MOVER), each given as low and high `(G,)`."""
    low = first - second - np.hypot(first - jointly[0][:, None], jointly[1][None, :] - second)
    high = first - second + np.hypot(alone[1][:, None] - first, second - alone[0][None, :])
    return max(0.0, float(low.max())), min(1.0, float(high.max()))


def _across(one: _Ranked, drawn: Array, slices: tuple[str, ...], level: float) -> Estimate:
    if one.extreme is None:
        many = len(slices) > MOST_GROUPS
        reason = f"more than {MOST_GROUPS} groups" if many else "fewer than two groups have positive and negative rows"
        return Estimate(None, None, None, ACROSS, reason=reason, level=level)
    values = one.areas.values
    known = np.isfinite(values) & np.isfinite(values.T) & ~np.eye(len(values), dtype=bool)
    num = int(known.sum()) // 2
    low_jointly, high_jointly = one.areas.limits(share_of_level(level, num))
    low_alone, high_alone = one.areas.limits(level)
    gaps = values - values.T  # the two areas of a pair share no row
    low = (gaps - np.hypot(values - low_jointly, high_jointly.T - values.T))[known].max()
    high = (gaps + np.hypot(high_alone - values, values.T - low_alone.T))[known].max()
    a, b = one.extreme
    note = f"largest between {slices[a]} and {slices[b]}" if num > 1 else ""
    value = abs(float(gaps[one.extreme]))
    return Estimate(value, max(0.0, float(low)), min(1.0, float(high)), ACROSS, drawn[1:], note, level)


def _by_group(
    part: Partition, one: _Ranked, drawn: tuple[Array, Array], errored: Array, name: str, level: float
) -> list[Measurement]:
    low, high = one.areas.limits(level)
    lost, found = part.num_rows(errored), []
    for g in range(len(part.slices)):
        rows = (sum(len(side) for side in one.ranks.rows[g]), lost[g])
        value = one.areas.values[g, g]
        if np.isfinite(value):
            limits = (float(value), float(low[g, g]), float(high[g, g]))
            estimate = Estimate(*limits, METHOD, drawn[0][1:, g], "", level)
        else:
            reason = "the class or the rest has no rows"
            estimate = Estimate(None, None, None, METHOD, reason=reason, level=level)
        each = part.measured_in(g, estimate, "group_area_under_roc", better="higher", rows=rows)
        found.append(replace(each, slice=f"{each.slice} & {name}") if name else each)
    return found
