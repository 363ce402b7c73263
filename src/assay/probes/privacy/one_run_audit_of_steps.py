"""Do the steps of a private training add the noise, clip the rows and toss the coins that its epsilon counts on?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay import stats
from assay.probes.privacy._one_run import best_bound, epsilon_bound
from assay.probes.privacy._steps import even_p_value, follows_p_value, likelihood_ratio, noise_share
from assay.registry import EVERY_TASK, probe
from assay.stats import Draws, Estimate
from assay.values import Measurement

if TYPE_CHECKING:
    from assay.access.handles import Released, Retrain

SHOWN_BY = "the recipe shows no private steps: they are known of dp_sgd"
METRICS = ("steps_audited_epsilon", "steps_epsilon_excess", "noise_against_claim", "batches_p_value")


@probe("privacy", tasks=EVERY_TASK, cost=lambda _sizes: {"training seen from inside": 0}, deep=True)
def one_run_audit_of_steps(retrain: Retrain, draws: Draws) -> list[Measurement]:
    r"""Lower bound on epsilon from the noised sums of one training that knows m gradients, and tests of its steps.

    Definition: m gradients, canary i along an own direction and 1,000 times the clipping norm C, are each a row of one
    training by a fair coin. With $s_{ti}$ what step t releases in direction i over C, the score of i is
    $\sum_t \log(1 - q + q\,e^{(s_{ti} - 1/2)/\sigma^2})$ at the claimed noise multiplier sigma and sample rate q.
    steps_audited_epsilon is the bound of one_run_audit for these scores, of 16 looks (the k highest guessed in, the k
    lowest out or not guessed at all); steps_epsilon_excess = max(0, it - claimed).
    noise_against_claim is the spread of $s_{ti}$ over sigma, for canaries left out. batches_p_value is three times the
    smallest p-value of: the numbers of rows drawn by each step, and the times each row was drawn, are binomial (exact,
    by the largest distance from the mean, too small or too large); noise does not get smaller in larger batches.
    Shapes: released sums (T, m), coins (m,), rows drawn (T,), times drawn (N,); facts of the run, for its claim.
    Direction: epsilon lower, noise and p-value higher is better; a claim that holds is refuted in at most 5 % of
    audits. In a policy, `steps_epsilon_excess` with `at_most = 0`, `batches_p_value` with `at_least = 0.001`.
    Limits: for a training that shows its steps (dp_sgd); it audits this code, not a file of weights. Shuffled batches
    show in batches_p_value and hardly in epsilon: what they give away more than coins is less than one run can prove.
    The bound cannot exceed what m right guesses prove. Clipping per layer leaves a canary less than C. It does not see
    what is taken from rows outside the steps (an encoding), nor rows that one person has several of. Treatments of the
    model stage are not applied.
    Source: Steinke, Nasr and Jagielski 2023 (arXiv 2305.08846), theorem 5.2 and section 6; Nasr et al. 2023 (arXiv
    2302.07956), section 4.2 (canary gradients).

    >>> import numpy as np
    >>> noise_share(np.full((3, 4), 2.0), 2.0, level=0.95)[0]
    1.0
    """
    released = retrain.released
    if released is None or "noise_multiplier" not in released.facts:
        nothing = Estimate(None, None, None, "canary gradients", None, SHOWN_BY, draws.level)
        return [stats.measured(nothing, name, unit=_unit(name), better=_better(name)) for name in METRICS]
    found = [*_epsilons(released, draws.level), _noise(released, draws.level), _batches(released, draws.level)]
    num = len(released.included)
    return [
        stats.measured(one, name, unit=_unit(name), better=_better(name), attempted=num)
        for name, one in zip(METRICS, found, strict=True)
    ]


def _unit(name: str) -> str:
    return {"noise_against_claim": "ratio", "batches_p_value": "probability"}.get(name, "epsilon")


def _better(name: str) -> Any:
    return "lower" if "epsilon" in name else "higher"


def _epsilons(released: Released, level: float) -> tuple[Estimate, Estimate]:
    """The bound, and by how much it exceeds the claim."""
    facts, num = released.facts, len(released.included)
    scores = likelihood_ratio(released.sums, facts["noise_multiplier"], facts["sample_rate"])
    bound, _, _ = best_bound(scores, released.included, delta=facts["delta"], error=1 - level, one_sided=True)
    most = epsilon_bound(num, num, num, delta=facts["delta"], error=(1 - level) / 16)
    reason = f"a lower bound has no upper end; all {num} guesses right would prove {most:.3g}"
    method = "one training seen from inside, binomial domination, Bonferroni over 16"
    over = max(0.0, bound - float(facts["epsilon"]))
    return (
        Estimate(bound, bound, None, method, None, reason, level),
        Estimate(over, over, over, method, None, f"the claim is {facts['epsilon']:.3g}", level),
    )


def _noise(released: Released, level: float) -> Estimate:
    silent = released.sums[:, ~released.included]
    if not silent.size:
        return Estimate(None, None, None, "chi-squared", None, "every canary was included", level)
    share = noise_share(silent, released.facts["noise_multiplier"], level=level)
    return Estimate(*share, "chi-squared", level=level)


def _batches(released: Released, level: float) -> Estimate:
    facts, silent = released.facts, released.sums[:, ~released.included]
    rate, num_rows = facts["sample_rate"], len(released.times_drawn)
    looks = [
        even_p_value(released.batch_sizes, num_rows, rate),
        even_p_value(released.times_drawn, len(released.batch_sizes), rate),
        follows_p_value(
            silent, released.batch_sizes, noise_multiplier=facts["noise_multiplier"], expected=rate * num_rows
        ),
    ]
    p_value = min(1.0, len(looks) * min(looks))
    reason = "batch sizes {:.2g}, times drawn {:.2g}, noise by batch size {:.2g}".format(*looks)
    return Estimate(p_value, p_value, p_value, "Bonferroni over 3", None, reason, level)
