"""The share that stays right under the strongest attacks known, and whether those attacks can be believed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from assay import stats
from assay.probes.robustness._ensemble import ATTACKS, EFFORTS, Found, search
from assay.probes.robustness._robust import accuracy, by_group, of_tried, share
from assay.probes.robustness._scope import Norm, Scope
from assay.registry import Sizes, probe
from assay.stats import Draws, Estimate
from assay.units.ranges import radius_of, ranges
from assay.values import Array, Groups, Measurement, modality

if TYPE_CHECKING:
    from assay.access.handles import Query

METRIC = "adversarial_accuracy"
NUM_ROWS = {"table": 500, "image": 200}
NORMS: tuple[Norm, ...] = ("linf", "l2")
# Of unit coordinates, each a share of its range. Pictures: 0.5 in colour (RobustBench, CIFAR-10), 1.5 in grey.
L2_RADIUS = {"table": 0.1, "colour": 0.5, "grey": 1.5}


def most_rows(sizes: Sizes) -> dict[str, int]:
    """At most: every search of every row under both norms; broken rows cost far less."""
    num = min(NUM_ROWS[sizes.modality], sizes.num_test)
    return {"adversarial_accuracy": len(NORMS) * num * EFFORTS[sizes.modality].most_passes(sizes.num_outputs)}


def usual_radius(query: Query, norm: Norm) -> float:
    """The radius in unit coordinates; L-infinity as that of gradient_attack."""
    if norm == "linf":
        return radius_of(query.columns)[0]
    kind = modality(query.columns)
    return L2_RADIUS["table" if kind == "table" else "grey" if query.columns[0].shape[0] == 1 else "colour"]


@probe("robustness", cost=most_rows, modalities=("table", "image"), deep=True, version=3)
def adversarial_accuracy(
    gradient: Query,
    draws: Draws,
    *,
    norms: tuple[Norm, ...] = NORMS,
    radius: float | None = None,
    num_rows: int | None = None,
) -> list[Measurement]:
    r"""Share of examples that four attacks leave right within a radius: as AutoAttack finds, at a fraction of its cost.

    Definition: adversarial_accuracy = mean[no attack found x' with |u' - u| <= radius that is not answered correctly],
    u each numeric column or pixel as a share of its plausible range, x' inside that range. Attacks: APGD on the
    cross-entropy, APGD on the targeted DLR loss and FAB towards up to nine classes, Square; cheap searches first, long
    ones on the rows that came nearest, nearest first, until a stretch of a tenth of them yields nothing. Steps that
    broke rows are shared: every row that holds is climbed from those that bring it nearest (attack=shared). L-infinity
    (slice ""): 0.05 for tables, 0.1 for grey pictures, 8/255 for colour. L2 (norm=l2): 0.1, 1.5, 0.5. Whole-number
    columns stay whole; pixels are not rounded. What breaks in a batch is asked again alone, and counts only if it then
    breaks too: numbers are rounded otherwise in another batch. attack_success: of the rows an attack was run on, the
    share it broke.
    single_step_overstatement = accuracy under one signed step (FGSM) - adversarial_accuracy.
    Shapes: at most 500 keyed test rows, 200 pictures; categorical columns do not move.
    Direction: adversarial_accuracy higher is better. It is undefined where gradients are masked: where random points,
    a single step or random squares break rows that climbing gradients does not (one-sided exact sign test at 5 %), or
    most gradients are 0; the reason then gives the bound that random squares at full length (5,000 tries) leave.
    Limits: an upper bound, never a certificate (see certified_radius); a defence built against these attacks may pass
    them; says nothing of categorical edits. Other rows of the sample decide where a row is searched, never whether a
    point counts: more rows share more steps, and a larger sample searches each row a little harder. A system that gives
    every row one answer is robust and useless: said so.
    Source: Croce and Hein 2020, "Reliable evaluation of adversarial robustness", section 6; Andriushchenko et al. 2020
    (Square); Carlini et al. 2019, section 3 (signs of masked gradients).

    >>> most_rows(Sizes(num_test=100, num_train=0, num_units=2, num_outputs=2))
    {'adversarial_accuracy': 651200}
    """
    kind = modality(gradient.columns)
    rows = gradient.rows(NUM_ROWS[kind] if num_rows is None else num_rows)
    known, found = ranges(gradient.columns, gradient.inputs), []
    for norm in norms:
        chosen = usual_radius(gradient, norm) if radius is None else radius
        scope = Scope.of(gradient, rows, known, norm=norm, radius=chosen, rounded=kind == "table")
        where = "" if norm == "linf" else f"norm={norm}"
        if not scope.can_move:
            reason = "no numeric column has a plausible range to move in"
            found.append(accuracy(METRIC, Estimate(None, None, None, "none", None, reason), where, len(rows), 0))
            continue
        how = f"norm {'L-infinity' if norm == 'linf' else 'L2'}, radius {chosen:.4g} of the plausible range"
        found += _report(search(scope, EFFORTS[kind]), scope.groups, draws.of(rows), where=where, how=how)
    return found


def _report(found: Found, groups: Groups, draws: Draws, *, where: str, how: str) -> list[Measurement]:
    everyone, num, errored = np.ones(len(found.right), dtype=bool), len(found.right), int(found.errored.sum())
    holds = found.holds
    robust = share(holds, everyone, draws, how)
    if found.masked:
        bound = f"gradients are masked: {found.masked}; at most {int(holds.sum())} of {num} rows are robust"
        robust = Estimate(None, None, None, robust.method, None, bound, draws.level)
    elif found.is_constant:
        robust = replace(robust, reason="every row gets the same answer: what does not read its inputs is robust")
    clean = share(found.right, everyone, draws, how)
    measured = [
        accuracy(METRIC, robust, where, num, errored),
        accuracy(METRIC, clean, _and(where, "radius=0"), num, errored),
    ]
    nothing = np.zeros(num, dtype=bool)
    for name in ATTACKS:
        tried, broken = found.tried.get(name, nothing), found.broken.get(name, nothing)
        slice = _and(where, f"attack={name}")
        measured.append(of_tried(("attack_success", slice), broken, tried, (draws, how)))
    zero = of_tried(("zero_gradient_rate", where), found.zero_gradient, found.right, (draws, how), better="neither")
    measured.append(zero)
    if found.masked or errored == num:
        return measured
    measured.append(_overstatement(found, holds, draws, where))
    return measured + ([] if where else by_group(METRIC, holds, found.errored, groups, (draws, how)))


def _overstatement(found: Found, holds: Array, draws: Draws, where: str) -> Measurement:
    """What one signed step leaves right beyond what all attacks leave."""
    weak = found.right & ~found.broken.get("fgsm", np.zeros(len(found.right), dtype=bool))
    counts = draws.counts(weak.astype(np.int64) + holds, 3)  # what holds is among the weak
    gap = stats.rate(counts[:, 1], counts.sum(axis=1), level=draws.level)
    num = len(holds)
    return stats.measured(
        gap, "single_step_overstatement", unit="fraction", better="neither", slice=where, attempted=num
    )


def _and(*conditions: str) -> str:
    return " & ".join(one for one in conditions if one)
