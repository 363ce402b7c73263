"""Effects: paired, family-wise, honest about seeds, and never sure of nothing."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as reference

from assay import stats
from assay.estimation import effects as module
from assay.estimation.effects import effects
from assay.estimation.needed import required_num
from assay.values import Measurement


def pair(labels, first, second, key=b"key", metric="accuracy", better="higher"):
    draws = stats.make_draws(key, "split", [labels, first, second])
    made = []
    for one in (second, first):
        counts = draws.counts((one == labels).astype(int), 2)
        estimate = stats.rate(counts[:, 1], counts.sum(axis=1))
        made.append(stats.measured(estimate, metric, unit="share", better=better, attempted=len(labels)))
    return tuple(made)


def flipped(rows, num_rows=1000):
    labels = np.zeros(num_rows, int)
    first = labels.copy()
    first[: num_rows // 5] = 1
    second = first.copy()
    second[list(rows)] = 1 - second[list(rows)]
    return labels, first, second


def test_a_real_change_is_found_with_its_direction():
    labels, first, second = flipped(range(200, 260))  # 60 right answers become wrong
    found = effects([pair(labels, first, second)])[0]
    assert found.value == pytest.approx(-0.06)
    assert (found.verdict, found.covers) == ("worse", "test rows")
    assert found.low < -0.06 < found.high < 0
    half = 1.96 * np.sqrt(60 - 60**2 / 1000 + 2) / 1000
    assert found.high - found.value == pytest.approx(half, rel=0.08)
    for better, verdict in (("lower", "better"), ("neither", "changed")):
        assert effects([pair(labels, first, second, better=better)])[0].verdict == verdict


def test_zero_discordance_is_not_certainty():
    labels, first, _ = flipped(())
    found = effects([pair(labels, first, first)])[0]
    assert found.value == 0
    assert found.verdict == "no detectable change"
    assert found.high == pytest.approx(1.96 * np.sqrt(2) / 1000, rel=0.01)
    assert 2.5 / 1000 < found.high < 3.1 / 1000  # near the rule of three


def test_few_discordant_rows_agree_with_exact_mcnemar():
    for num, verdict in ((3, "no detectable change"), (5, "no detectable change"), (8, "worse")):
        labels, first, second = flipped(range(200, 200 + num))
        assert effects([pair(labels, first, second)])[0].verdict == verdict
        assert (reference.binomtest(0, num).pvalue < 0.05) == (verdict == "worse")


def test_pairs_beat_unpaired_intervals():
    labels, first, second = flipped(range(200, 220))
    after, before = pair(labels, first, second)
    assert effects([(after, before)])[0].verdict == "worse"
    assert after.high > before.low  # the two intervals overlap widely


def test_what_cannot_be_compared_says_why():
    labels, first, second = flipped(range(10))
    after, before = pair(labels, first, second)
    undefined = replace(before, value=None, low=None, high=None, replicates=None, reason="no positives")
    cases = {
        "undefined before: no positives": (after, undefined),
        "undefined after: no positives": (undefined, before),
        "different quantities": (after, replace(before, metric="other")),
        "unit or direction": (after, replace(before, better="lower")),
        "different rows": (after, replace(before, attempted=999)),
        "different draws": (after, replace(before, replicates=before.replicates[:10])),
        "undefined in most": (after, replace(before, replicates=np.full(1000, np.nan))),
        "neither replicates": (replace(after, replicates=None, low=None), before),
    }
    found = effects([*cases.values(), (after, before)])
    for reason, one in zip(cases, found, strict=False):
        assert reason in one.reason
        assert (one.verdict, one.value, one.low, one.high) == ("not comparable", None, None, None)
    assert found[-1].verdict != "not comparable"
    assert found[-1] == effects([(after, before)])[0]  # what cannot be compared costs the others nothing
    assert effects([]) == ()


def test_seeds_widen_and_are_covered():
    labels, first, second = flipped(range(200, 230))
    one = pair(labels, first, second)
    rows_only = effects([one])[0]
    seeds = (-0.05, 0.01, -0.03, -0.06)
    both = effects([one], seed_spread=[seeds])[0]
    assert (rows_only.verdict, both.verdict) == ("worse", "no detectable change")
    assert both.covers == "test rows and training seeds"
    rows = ((rows_only.high - rows_only.value) / reference.norm.ppf(0.975)) ** 2
    training = np.var(seeds, ddof=1)
    freedom = (rows + training) ** 2 / (rows**2 / 999 + training**2 / 3)
    expected = reference.t.ppf(0.975, freedom) * np.sqrt(rows + training)
    assert both.high - both.value == pytest.approx(expected, rel=0.02)
    assert effects([one], seed_spread=[None])[0].covers == "test rows"
    assert effects([one], seed_spread=[(0.1,)])[0].covers == "test rows"  # one training says nothing of spread


def test_measurements_without_draws_are_compared_as_independent():
    fast, slow = (
        Measurement("", "latency", v, v - 0.1, v + 0.1, 0.95, "median", "seconds", "lower") for v in (1.0, 1.5)
    )
    found = effects([(fast, slow)])[0]
    assert (found.verdict, found.method) == ("better", "independent intervals")
    assert found.high - found.value == pytest.approx(0.1 * np.sqrt(2))


def test_family_wise_bound_lies_between_one_and_sidak():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 600)
    first, second = (np.where(rng.random(600) < 0.8, labels, 1 - labels) for _ in range(2))
    one = pair(labels, first, second)
    alone = effects([one])[0]
    copies = effects([tuple(replace(m, slice=str(k)) for m in one) for k in range(20)])
    # twenty copies of one effect are one effect: the draws know it, Bonferroni does not
    assert copies[0].high == pytest.approx(alone.high, rel=0.1)
    many = effects([pair(labels, first, np.where(rng.random(600) < 0.8, labels, 1 - labels)) for _ in range(12)])
    sidak = reference.norm.ppf((1 + 0.95 ** (1 / 12)) / 2)
    widths = [(e.high - e.value) / (alone.high - alone.value) for e in many]
    assert 1.1 < np.median(widths) <= sidak / 1.96 * 1.1


@pytest.mark.parametrize("bound", [0.02, 0.3])
def test_required_num_settles_with_the_promised_power(bound):
    rng = np.random.default_rng(5)
    now = stats.measured(
        stats.rate(np.array([8.0]), np.array([80.0])), "rate", unit="share", better="lower", attempted=80
    )
    needed = required_num(now, bound=bound, power=0.8)
    hits = rng.binomial(needed, 0.1, size=400)
    settled = [not e.low <= bound <= e.high for e in (stats.exact_rate(int(h), needed) for h in hits)]
    assert 0.65 <= np.mean(settled) <= 0.97
    assert required_num(replace(now, value=bound, low=0.0, high=1.0), bound=bound) is None
    assert required_num(replace(now, low=None, high=None), bound=bound) is None


def test_doc_lists_every_verdict():
    assert set(module.EffectVerdict.__args__) == {
        "better", "worse", "changed", "no detectable change", "not comparable"
    }  # fmt: skip
