"""Does the training keep the epsilon that it claims?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from assay import stats
from assay.access.canaries import num_canaries
from assay.probes.privacy._one_run import best_bound, epsilon_bound
from assay.probes.privacy._predictive import logit_confidence
from assay.registry import probe
from assay.stats import Draws, Estimate
from assay.values import Measurement

if TYPE_CHECKING:
    from assay.access.handles import Retrain

USUAL_DELTA = 1e-5  # where the training claims none


@probe("privacy", cost=lambda sizes: {"canaries": num_canaries(sizes.num_train)}, deep=True)
def one_run_audit(retrain: Retrain, facts: Mapping[str, Any], draws: Draws) -> list[Measurement]:
    r"""Lower bound on epsilon from one more training with canaries, against the epsilon that is claimed.

    Definition: m made-up rows with random labels each join one training by a fair coin; score = log(p / (1 - p)) of the
    label. The k highest are guessed in, the k lowest out; of v right among r = 2k guesses, audited_epsilon is the
    largest epsilon with P(W >= v) + 2 m delta alpha <= 0.05 / 8, W binomial(r, 1 / (1 + e^-epsilon)), the best of 8
    fixed k. epsilon_excess = max(0, audited - claimed): above 0 the claim is refuted. An errored canary counts as the
    least likely one. canary_guess_rate is the share of right guesses when all are guessed.
    Shapes: m canaries with labels (m,), coins (m,), logits (m, K); facts of the run, for its claim.
    Direction: lower is better; a claim that holds is refuted in at most 5 % of audits. In a policy, `epsilon_excess`
    with `at_most = 0` fails a system whose claim is refuted.
    Limits: what this attack proves, not what is true: an excess of 0 does not prove the claim. It sees the answers of
    the last model only, and where a training cannot learn single rows by heart (few passes, a small rate) even one
    without any noise shows little. It cannot see shuffling taken for Poisson sampling: one_run_audit_of_steps can see
    both. The bound cannot exceed what m right guesses prove. Treatments of the model stage are not applied. A policy's
    correction for many rules does not widen the excess. A claim for clients is told and not tested: a canary changes
    rows of one client, and of all where rows are dealt out anew.
    Source: Steinke, Nasr and Jagielski 2023 (arXiv 2305.08846), theorem 5.2 and algorithm 1.

    >>> best_bound(np.arange(1000.0), np.arange(1000) >= 500, delta=1e-5)[1:]
    (1000, 1000)
    """
    canaries = retrain.canaries
    scores = logit_confidence(canaries.logits, canaries.labels)
    errored, num = int(np.isnan(scores).sum()), len(scores)
    scores = np.where(np.isnan(scores), -np.inf, scores)
    told = canaries.facts if "epsilon" in canaries.facts else facts
    delta = float(told.get("delta", USUAL_DELTA))
    error = 1 - draws.level
    bound, _, _ = best_bound(scores, canaries.included, delta=delta, error=error)
    most = epsilon_bound(num, num, num, delta=delta, error=error / 8)
    about: dict[str, Any] = {"better": "lower", "attempted": num, "errored": errored}
    method = "one training, binomial domination, Bonferroni over 8"
    reason = f"a lower bound has no upper end; all {num} guesses right would prove {most:.3g}"
    audited = Estimate(bound, bound, None, method, None, reason, draws.level)
    found = [stats.measured(audited, "audited_epsilon", unit="epsilon", **about)]
    claim, excess = _claim(told, bound, Estimate(None, None, None, method, None, "", draws.level))
    found.append(stats.measured(claim, "claimed_epsilon", unit="epsilon", better="lower"))
    found.append(stats.measured(excess, "epsilon_excess", unit="epsilon", **about))
    order = np.argsort(scores, kind="stable")
    guessed = np.zeros(num, dtype=bool)
    guessed[order[num // 2 :]] = True
    right = int((guessed == canaries.included).sum())
    rate = stats.exact_rate(right, num, level=draws.level)
    return [*found, stats.measured(rate, "canary_guess_rate", unit="fraction", **about)]


def _claim(told: Mapping[str, Any], bound: float, empty: Estimate) -> tuple[Estimate, Estimate]:
    """The epsilon claimed, and by how much `bound` exceeds it, where it is a claim that canaries can test."""
    claimed = told.get("epsilon")
    claim = replace(empty, method="as claimed")
    if claimed is None:
        none = "the training claims no epsilon"
        return replace(claim, reason=none), replace(empty, reason=none)
    if told.get("privacy_unit") == "client":
        claim = replace(claim, value=float(claimed), reason="a claim for one client, not measured")
        return claim, replace(empty, reason="the claim is for one client, and canaries are rows")
    over = max(0.0, bound - float(claimed))
    claim = replace(claim, value=float(claimed), reason="a claim, not measured")
    return claim, replace(empty, value=over, low=over, high=over)
