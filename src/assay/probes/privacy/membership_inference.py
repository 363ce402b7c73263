"""Can an outsider tell who was in the training data?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from assay import stats
from assay.probes.privacy._ratio import out_masks, ratio_score, true_probability
from assay.probes.privacy._roc import Scored, area, found_at, of_members, ranked, resampled, with_replicates
from assay.registry import probe
from assay.stats import Draws
from assay.values import Array, Measurement

if TYPE_CHECKING:
    from assay.access.handles import Retrain

CURVE = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
NAMED = {0.01: "members_found_at_1_percent", 0.001: "members_found_at_0.1_percent"}


@dataclass(frozen=True)
class Sample:
    """The rows an attack is tried on: which training rows, and which rows of either kind errored."""

    rows: Array  # (M,) training rows
    member_errors: Array  # (M,) bool
    other_errors: Array  # (N,) bool


@probe("privacy", cost=lambda sizes: {"references": 4})
def membership_inference(retrain: Retrain, draws: Draws) -> list[Measurement]:
    """Share of training rows that an attacker with reference models recognises, at few false claims.

    Definition: score(x) = log p(y|x) - log((1.5 m + 0.5) / 2), m = mean over the references not trained on x of their
    p(y|x). members_found_at_1_percent = P(score(member) > t), t such that P(score(non-member) > t) = 0.01; the same at
    0.1 %; membership_auc = P(score(member) > score(non-member)). attack=loss is the weak baseline: score = p(y|x).
    Shapes: M keyed training rows (of copies the first: each source row is one member) and all N test rows, in the form
    of the training rows where a treatment changed that; M = min(different N_train, N). Every row, member or not, is
    judged by exactly half of the references (one of each complementary pair), so that their number tells nothing.
    Direction: lower is better; no leak is 0.01, 0.001 and 0.5. A slice by group has its own threshold.
    Limits: a lower bound on what a stronger attacker finds; needs test rows drawn like training rows, else the shift is
    read as membership; 0.1 % means little under 10,000 non-members. Intervals cover the rows, the threshold included,
    not the seed of the system and its references. Errored rows count as not recognised.
    Source: Zarifzadeh et al. 2024 (RMIA, offline, section 4; thresholding its ratio is the same curve at gamma 1);
    Carlini et al. 2022, section 4 (report at low false-positive rates).

    >>> scored = Scored(np.arange(50, 150), np.arange(0, 100))  # half of the members above every non-member
    >>> found_at(scored, 0.01, 0.95).value
    0.51
    """
    scores, sample = attack_scores(retrain)
    rng = retrain.rng("membership ties")
    ratio = ranked(*scores.pop("ratio"), rng)
    both = draws, of_members(draws, len(sample.rows))
    found, more = _overall(ratio, both, sample, ""), _curve(ratio, sample, draws.level)
    more += _by_group(ratio, sample, retrain, draws.level)
    del ratio  # of millions of rows one attack at a time
    found += _overall(ranked(*scores.pop("loss"), rng), both, sample, "attack=loss")
    return found + more


def attack_scores(retrain: Retrain) -> tuple[dict[str, tuple[Array, Array]], Sample]:
    """Scores of the attack and of the baseline, for members `(M,)` and non-members `(N,)`."""
    different, num_test = np.sort(np.unique(retrain.train_rows, return_index=True)[1]), len(retrain.test_labels)
    rows = different[np.sort(retrain.rng("membership rows").permutation(len(different))[:num_test])]
    rng = retrain.rng("membership halves")
    mine, theirs = out_masks([one.members[rows] for one in retrain.references], num_test, rng)
    labels = retrain.train_labels[rows]
    target = true_probability(retrain.target_train_logits[rows], labels)
    members = _scored(target, (true_probability(one.train_logits[rows], labels) for one in retrain.references), mine)
    labels = retrain.test_labels
    target = true_probability(retrain.target_test_logits, labels)
    others = _scored(target, (true_probability(one.test_logits, labels) for one in retrain.references), theirs)
    scores = {"ratio": (members[0], others[0]), "loss": (members[1], others[1])}
    return scores, Sample(rows, members[2], others[2])


def _scored(target: Array, references: Iterable[Array], out: Array) -> tuple[Array, Array, Array]:
    """Ratios, losses (no claim where the model errored), and which rows errored in any model, each `(N,)`."""
    errored: Array = np.logical_not(np.isfinite(target))

    def looked_at() -> Iterator[Array]:
        for reference in references:
            np.logical_or(errored, ~np.isfinite(reference), out=errored)
            yield reference

    ratio = ratio_score(target, looked_at(), out)
    target[~np.isfinite(target)] = -np.inf
    return ratio, target, errored


def _overall(scored: Scored, both: tuple[Draws, Draws], sample: Sample, slice: str) -> list[Measurement]:
    draws, members = both
    cells = resampled(scored, draws, tuple(NAMED), members=members)
    about: dict[str, Any] = {"slice": slice, "unit": "fraction", "better": "lower"} | _counted(sample)
    areas = cells.areas()
    moved = areas - areas[0] + area(scored)  # cells tie what ranks do not: less than one part in a thousand
    curve = stats.statistic(moved, level=draws.level, bounds=(0.0, 1.0))
    found = [stats.measured(curve, "membership_auc", headline=not slice, **about)]
    for fpr, name in NAMED.items():
        estimate = with_replicates(found_at(scored, fpr, draws.level), cells.found(fpr))
        found.append(stats.measured(estimate, name, headline=not slice and fpr == 0.01, **about))
    return found


def _curve(scored: Scored, sample: Sample, level: float) -> list[Measurement]:
    shown = [fpr for fpr in CURVE if fpr * len(scored.others) >= 1]
    about: dict[str, Any] = {"unit": "fraction", "better": "lower"} | _counted(sample)
    return [
        stats.measured(found_at(scored, fpr, level), "members_found", slice=f"fpr={fpr:g}", **about) for fpr in shown
    ]


def _by_group(scored: Scored, sample: Sample, retrain: Retrain, level: float) -> list[Measurement]:
    mine, theirs = retrain.train_groups.take(sample.rows), retrain.test_groups
    found = []
    for index, column in enumerate(mine.columns):
        for code, name in enumerate(column.categories):
            members, others = (side.codes[:, index] == code for side in (mine, theirs))
            part = Scored(scored.members[members], scored.others[others])
            errors = Sample(sample.rows[members], sample.member_errors[members], sample.other_errors[others])
            about: dict[str, Any] = {"unit": "fraction", "better": "lower"} | _counted(errors)
            for fpr, metric in NAMED.items():
                estimate = found_at(part, fpr, level)
                found.append(stats.measured(estimate, metric, slice=f"{column.name}={name}", **about))
    return found


def _counted(sample: Sample) -> dict[str, int]:
    """Members and non-members together: both are scored."""
    attempted = len(sample.member_errors) + len(sample.other_errors)
    return {"attempted": attempted, "errored": int(sample.member_errors.sum() + sample.other_errors.sum())}
