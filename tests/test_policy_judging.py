"""Judging as an instrument: three verdicts on bounds, and false ones over a whole judgement in at most 1 - level."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats

from assay.estimation.needed import smallest_group
from assay.estimation.widen import widened
from assay.policy import EXIT_CODES, EXIT_USAGE, OUTCOMES, judge, outcome, overall, parse_policy
from assay.values import Finding, Measurement, NotApplicable

Z = NormalDist().inv_cdf(0.975)


def _policy(*rules: str, level: float = 0.95):
    text = f'name = "p"\nversion = "1"\nlevel = {level}\n[clause.c]\ncite = "Clause C"\napplies_from = 2027-12-02\n'
    text += "".join(f'[[rule]]\nid = "r{i}"\n' + rule.replace("; ", "\n") + "\n" for i, rule in enumerate(rules))
    return parse_policy(text.encode())


def _measurement(value, low, high, metric="m", **more):
    kwargs = {
        "probe": "p",
        "level": 0.95,
        "method": "normal",
        "unit": "share",
        "better": "lower",
        "scored": 10**6,
    } | more
    return Measurement(metric=metric, value=value, low=low, high=high, **kwargs)


def _proportion(hits, total, method="Clopper-Pearson", **more):
    if method == "Wilson":
        low, high = stats.binomtest(hits, total).proportion_ci(0.95, "wilson")
    else:
        low, high = stats.binomtest(hits, total).proportion_ci(0.95, "exact")
    kwargs = {"method": method, "scored": total, "attempted": total} | more
    return _measurement(hits / total, float(low), float(high), **kwargs)


@pytest.mark.parametrize(
    ("rule", "interval", "verdict"),
    [
        ("at_most = 0.1", (0.05, 0.04, 0.1), "pass"),
        ("at_most = 0.1", (0.05, 0.04, 0.1001), "inconclusive"),
        ("at_most = 0.1", (0.15, 0.1, 0.2), "inconclusive"),
        ("at_most = 0.1", (0.15, 0.1001, 0.2), "fail"),
        ("at_least = 0.1", (0.15, 0.1, 0.2), "pass"),
        ("at_least = 0.1", (0.15, 0.0999, 0.2), "inconclusive"),
        ("at_least = 0.1", (0.05, 0.04, 0.1), "inconclusive"),
        ("at_least = 0.1", (0.05, 0.04, 0.0999), "fail"),
        ("at_most = 0.1", (0.1, 0.1, 0.1), "pass"),
        ("at_least = 0.1", (0.1, 0.1, 0.1), "pass"),
        ("at_most = 0.1", (0.05, None, 0.09), "pass"),
        ("at_most = 0.1", (0.05, 0.01, None), "inconclusive"),
        ("at_most = 0.1", (0.2, 0.15, None), "fail"),
        ("at_least = 0.1", (0.2, 0.15, None), "pass"),
        ("at_most = 0.1", (0.05, None, None), "inconclusive"),
        ("at_most = 0.1", (None, None, None), "inconclusive"),
    ],
)
def test_the_interval_decides(rule, interval, verdict):
    item = _measurement(*interval, reason="no rows")
    (finding,) = judge(_policy(f'metric = "m"; {rule}; clauses = ["c"]'), [item])
    assert finding.verdict == verdict
    assert finding.measurement == item.digest
    assert finding.clause == "Clause C (applies from 2027-12-02)"
    assert finding.bound == rule.replace(" = ", " ")
    assert finding.reason
    assert (finding.required_num is not None) <= (verdict == "inconclusive")


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("", [""]),
        ("*", ["sex", "sex=F", "sex=M", "class=1"]),
        ("**", ["sex", "sex=F", "sex=M", "sex=F & race=B", "class=1"]),
        ("* & *", ["sex=F & race=B"]),
        ("sex", ["sex"]),
        ("sex=*", ["sex=F", "sex=M"]),
        ("sex=F", ["sex=F"]),
        ("sex=* & race=B", ["sex=F & race=B"]),
        ("race=* & sex=*", []),
        ("se=*", []),
    ],
)
def test_a_rule_names_its_slices(pattern, fits):
    names = ["", "sex", "sex=F", "sex=M", "sex=F & race=B", "class=1"]
    items = [_measurement(0.05, 0.04, 0.06, slice=name) for name in names]
    findings = judge(_policy(f'metric = "m"; at_most = 0.1; slice = "{pattern}"'), items)
    assert [finding.slice for finding in findings if finding.measurement] == fits
    assert fits or findings[0].reason.startswith("not tested")


def test_a_metric_may_name_its_probe():
    items = [_measurement(0.05, 0.04, 0.06, probe=probe) for probe in ("one", "two")]
    assert len(judge(_policy('metric = "m"; at_most = 0.1'), items)) == 2
    (finding,) = judge(_policy('metric = "two.m"; at_most = 0.1'), items)
    assert finding.measurement == items[1].digest


def test_what_was_not_measured_is_not_tested():
    policy = _policy('metric = "q.m"; at_most = 0.1')
    (finding,) = judge(policy, [], [NotApplicable("q", "it needs gradient access")])
    assert finding.verdict == "inconclusive"
    assert finding.reason == "not tested: q.m was not measured: it needs gradient access"
    assert outcome(finding) == "not tested"
    assert overall(policy, [finding]) == "inconclusive"


def test_outcomes_are_four():
    policy = _policy('metric = "m"; at_most = 0.1')
    triples = [(0.05, 0.04, 0.06), (0.15, 0.14, 0.16), (0.1, 0.05, 0.15)]
    seen = [outcome(judge(policy, [_measurement(*triple)])[0]) for triple in triples]
    assert (*seen, outcome(judge(policy, [])[0])) == OUTCOMES


def _brute_overall(verdicts, required):
    if "fail" in verdicts:
        return "fail"
    if any(v == "inconclusive" and r for v, r in zip(verdicts, required, strict=True)) or "pass" not in verdicts:
        return "inconclusive"
    return "pass"


def test_overall_by_enumeration():
    verdicts = ("pass", "fail", "inconclusive")
    for num in (1, 2, 3):
        for required in itertools.product([True, False], repeat=num):
            policy = _policy(*(f'metric = "m"; at_most = 1; required = {str(one).lower()}' for one in required))
            for chosen in itertools.product(verdicts, repeat=num):
                findings = [Finding(f"r{i}", verdict, "", "d", "m") for i, verdict in enumerate(chosen)]
                assert overall(policy, findings) == _brute_overall(chosen, required)


def test_nothing_judged_is_never_a_pass():
    policy = _policy('metric = "m"; at_most = 1; required = false')
    assert overall(policy, []) == "inconclusive"
    required = _policy('metric = "m"; at_most = 1', 'metric = "n"; at_most = 1')
    assert overall(required, [Finding("r0", "pass", "", "d", "m")]) == "inconclusive"


def test_exit_codes():
    assert dict(EXIT_CODES) == {"pass": 0, "fail": 1, "inconclusive": 3}
    assert EXIT_USAGE == 2


def test_level_is_shared_by_rules_slices_and_systems_but_not_by_exact_counts():
    items = [_measurement(0.05, 0.04, 0.06, slice=f"a={i}") for i in range(4)]
    items.append(_measurement(7.0, 7.0, 7.0, metric="bytes"))
    policy = _policy('metric = "m"; at_most = 0.1; slice = "*"', 'metric = "bytes"; at_most = 8')
    assert {round(1 - one.level, 12) for one in judge(policy, items)} == {0.0125}
    assert {round(1 - one.level, 12) for one in judge(policy, items, num_systems=5)} == {0.0025}
    assert {one.verdict for one in judge(policy, items)} == {"pass"}


def test_required_num_would_settle_it():
    """At the number given, the same proportion is decided; at nine tenths of it, it is not."""
    policy = _policy('metric = "m"; at_most = 0.1')
    (finding,) = judge(policy, [_proportion(180, 2000, method="Wilson")])
    assert finding.verdict == "inconclusive"
    needed = finding.required_num
    assert "about" in finding.reason
    assert str(needed) in finding.reason
    for factor, verdicts in ((1.15, {"pass"}), (0.85, {"inconclusive"})):
        total = round(needed * factor)
        (again,) = judge(policy, [_proportion(round(0.09 * total), total, method="Wilson")])
        assert {again.verdict} == verdicts


@pytest.mark.parametrize("item", [_measurement(0.1, 0.05, 0.15), _measurement(0.05, 0.01, 0.15, scored=0)])
def test_required_num_is_none_where_no_number_is_known(item):
    (finding,) = judge(_policy('metric = "m"; at_most = 0.1'), [item])
    assert finding.required_num is None
    assert "no number of examples" in finding.reason


def test_a_group_on_which_not_even_the_best_result_could_pass_is_too_small_to_judge():
    policy = _policy('metric = "m"; at_most = 0.2; slice = "*"')
    (small,) = judge(policy, [_proportion(1, 12, slice="town=c")])
    assert small.verdict == "inconclusive"
    assert outcome(small) == "indeterminate"
    more = small.required_num - 12
    assert f"too small to judge: n = 12; about {more} more of town=c would settle it" in small.reason
    (settled,) = judge(policy, [_proportion(round((12 + more) / 12), 12 + more, slice="town=c")])
    assert settled.verdict == "pass"
    groups = [_proportion(1, 12, slice="town=c"), _proportion(30, 888, slice="town=d")]
    gap = _measurement(0.05, 0.0, 0.5, scored=900, slice="town")
    told = next(one for one in judge(policy, [gap, *groups]) if one.slice == "town")
    assert "too small to judge: town=c has n = 12 of 900; about" in told.reason
    (larger,) = judge(policy, [_proportion(15, 100, slice="town=c")])  # a better result could have passed
    assert larger.verdict == "inconclusive"
    assert "too small" not in larger.reason


@pytest.mark.parametrize("kind", ["at_most", "at_least"])
@pytest.mark.parametrize("total", [5, 13, 14, 40])
def test_too_small_means_that_no_count_at_all_would_pass(kind, total):
    """By enumeration: over all counts of so many rows, one passes exactly where none is called too small."""
    policy = _policy(f'metric = "m"; {kind} = {0.2 if kind == "at_most" else 0.8}')
    findings = [judge(policy, [_proportion(hits, total)])[0] for hits in range(total + 1)]
    small = {"too small" in one.reason for one in findings if one.verdict == "inconclusive"}
    assert small == {"pass" not in {one.verdict for one in findings}}


def test_an_interval_wider_than_all_that_passes_is_too_small_and_other_units_never_are():
    policy = _policy('metric = "m"; at_most = 0.1')
    wide = {"scored": 30, "attempted": 30, "method": "simultaneous MOVER"}
    assert "too small" in judge(policy, [_measurement(0.05, 0.0, 0.3, **wide)])[0].reason
    assert "too small" not in judge(policy, [_measurement(0.05, 0.0, 0.12, **wide)])[0].reason
    assert "too small" not in judge(policy, [_measurement(0.05, 0.0, 0.3, unit="seconds", **wide)])[0].reason


def test_no_word_of_conformity():
    policy = _policy('metric = "m"; at_most = 0.1; clauses = ["c"]')
    for triple in [(0.05, 0.04, 0.06), (0.15, 0.14, 0.16), (0.1, 0.05, 0.15)]:
        (finding,) = judge(policy, [_measurement(*triple)])
        assert not re.search("complian|conform|certif", finding.reason, re.IGNORECASE)


# ------------------------------------------------------------------ widening


@pytest.mark.parametrize("method", ["Wilson", "Clopper-Pearson"])
@pytest.mark.parametrize(("hits", "total"), [(0, 50), (1, 50), (25, 50), (50, 50), (3, 1000), (16000, 16281)])
def test_proportions_are_computed_anew(method, hits, total):
    low, high = widened(_proportion(hits, total, method=method), 0.999)
    exact = stats.binomtest(hits, total).proportion_ci(0.999, "exact")
    assert low == pytest.approx(exact.low, abs=1e-12)
    assert high == pytest.approx(exact.high, abs=1e-12)


def test_a_proportion_whose_counts_do_not_fit_is_extrapolated():
    item = replace(_proportion(10, 100), attempted=97, scored=97)
    low, high = widened(item, 0.999)
    exact = stats.binomtest(10, 100).proportion_ci(0.999, "exact")
    assert (low, high) != (pytest.approx(exact.low, abs=1e-9), pytest.approx(exact.high, abs=1e-9))
    assert low < item.low
    assert high > item.high


@pytest.mark.parametrize("num", [3, 5, 30, 1000])
def test_student_intervals_are_extrapolated_exactly(num):
    half = [stats.t.ppf((1 + level) / 2, num - 1) for level in (0.95, 0.999)]
    low, high = widened(_measurement(1.0, 1 - half[0], 1 + half[0], scored=num, unit="s"), 0.999)
    assert high - 1 == pytest.approx(half[1])
    assert 1 - low == pytest.approx(half[1])


@pytest.mark.parametrize("num", [20, 100, 1000])
@pytest.mark.parametrize("level", [0.99, 0.999])
def test_skewed_intervals_are_extrapolated_to_their_quantiles(num, level):
    """Mean of exponentials: known quantiles, skewness 2/sqrt(n); the extrapolated tail reaches at least 97 % as far."""
    low, high = (stats.gamma.ppf(p, num) / num for p in (0.025, 0.975))
    true_low, true_high = (stats.gamma.ppf(p, num) / num for p in ((1 - level) / 2, (1 + level) / 2))
    wide_low, wide_high = widened(_measurement(1.0, low, high, scored=10**6, unit="s"), level)
    assert 0.97 <= (wide_high - 1) / (true_high - 1) <= 1.1
    assert 0.97 <= (1 - wide_low) / (1 - true_low) <= 1.3


def test_linear_scaling_would_fall_short_on_skewed_intervals():
    """Negative control: without the skewness term the long tail is cut by more than 5 %."""
    high, true_high = (stats.gamma.ppf(p, 20) / 20 - 1 for p in (0.975, 0.9995))
    linear = high * NormalDist().inv_cdf(0.9995) / Z
    assert linear / true_high < 0.95


def test_never_narrower_and_never_outside():
    rng = np.random.default_rng(3)
    for _ in range(300):
        value, below, above = rng.uniform(0, 1), *rng.uniform(0, 0.3, 2)
        item = _measurement(value, max(0.0, value - below), min(1.0, value + above), scored=int(rng.integers(2, 500)))
        low, high = widened(item, float(rng.uniform(0.9, 0.9999)))
        assert 0 <= low <= item.low <= value <= item.high <= high <= 1


def test_a_missing_side_stays_missing_and_no_width_stays_none():
    assert widened(_measurement(0.5, None, 0.6), 0.999)[0] is None
    assert widened(_measurement(0.5, 0.4, None), 0.999)[1] is None
    assert widened(_measurement(0.5, 0.5, 0.5), 0.999) == (0.5, 0.5)


# ------------------------------------------------------------------ as an instrument

NUM_RUNS = 2000
NUM_MEANS = 60
NUM_RULES = 20
ALLOWED = stats.binom.ppf(0.999, NUM_RUNS, 0.05) / NUM_RUNS  # a rate of 5 % shows more than this once in 1,000


def _exact_table(total: int, bound: float, kind: str) -> np.ndarray:
    """Verdict of one of `NUM_RULES` rules for every count 0..total: 1 pass, -1 fail, 0 inconclusive."""
    policy = _policy(*[f'metric = "m"; {kind} = {bound}'])
    codes = {"pass": 1, "fail": -1, "inconclusive": 0}
    return np.array(
        [
            codes[judge(policy, [_proportion(hits, total, method="Wilson")], num_systems=NUM_RULES)[0].verdict]
            for hits in range(total + 1)
        ]
    )


@pytest.mark.parametrize("kind", ["at_most", "at_least"])
@pytest.mark.parametrize(("total", "bound"), [(60, 0.02), (60, 0.2), (400, 0.05)])
def test_false_verdicts_by_enumeration(kind, total, bound):
    """Exact, not simulated: over all counts, a false verdict of any of 20 rules has probability at most 5 %."""
    table = _exact_table(total, bound, kind)
    sign = 1 if kind == "at_most" else -1
    for truth in np.clip(bound + sign * np.linspace(-0.1, 0.1, 41), 0, 1):
        false = -1 if sign * truth <= sign * bound else 1
        chance = stats.binom.pmf(np.arange(total + 1), total, truth)[table == false].sum()
        assert NUM_RULES * chance <= 0.05 + 1e-12
    assert set(table) >= {0}


def _run_means(truth: float, seed: int, draw) -> tuple[float, float]:
    """Share of runs with any fail, any pass: 20 rules `at_most 1`, percentile intervals of means, 200 rows each."""
    rng = np.random.default_rng(seed)
    policy = _policy(*(f'metric = "m{i}"; at_most = 1' for i in range(NUM_RULES)))
    any_fail = any_pass = 0
    for _ in range(NUM_MEANS):
        rows = truth + draw(rng, (NUM_RULES, 200))
        means = rows.mean(axis=1)
        deviations = rows - means[:, None]
        replicates = means[:, None] + deviations @ (rng.multinomial(200, np.full(200, 1 / 200), 400).T / 200.0)
        limits = np.quantile(replicates, [0.025, 0.975], axis=1)
        items = [
            _measurement(means[i], limits[0, i], limits[1, i], metric=f"m{i}", scored=200, unit="s", method="bootstrap")
            for i in range(NUM_RULES)
        ]
        verdicts = {one.verdict for one in judge(policy, items)}
        any_fail += "fail" in verdicts
        any_pass += "pass" in verdicts
    return any_fail / NUM_MEANS, any_pass / NUM_MEANS


def _normal(rng, shape):
    return rng.normal(0, 0.5, shape)


def _left_skewed(rng, shape):
    return 1.0 - rng.exponential(1.0, shape)


def _right_skewed(rng, shape):
    return rng.exponential(1.0, shape) - 1.0


SMALL = stats.binom.ppf(0.999, NUM_MEANS, 0.05) / NUM_MEANS


SLOW = [pytest.param(_left_skewed, marks=pytest.mark.slow), pytest.param(_right_skewed, marks=pytest.mark.slow)]


@pytest.mark.parametrize("draw", [_normal, *SLOW])
def test_false_verdicts_on_null_means(draw):
    assert _run_means(1.0, 1, draw)[0] <= SMALL  # at the bound: a fail is false
    assert _run_means(1.0 + 1e-9, 2, draw)[1] <= SMALL  # just over it: a pass is false


def test_planted_defects_are_found_and_clean_ones_pass():
    policy = _policy(*(f'metric = "m{i}"; at_most = 0.1' for i in range(NUM_RULES)))
    clean = [_proportion(50, 2000, metric=f"m{i}") for i in range(NUM_RULES)]
    assert overall(policy, judge(policy, clean)) == "pass"
    clean[7] = _proportion(300, 2000, metric="m7")
    findings = judge(policy, clean)
    assert [one.rule for one in findings if one.verdict == "fail"] == ["r7"]
    assert overall(policy, findings) == "fail"


def test_without_family_wise_control_null_data_would_fail():
    """Negative control: the intervals as measured fail any of 20 rules at their bound far more often than 5 %."""
    chance = 1 - (1 - 0.025) ** NUM_RULES
    assert chance > 0.35
    rng = np.random.default_rng(5)
    estimates = rng.normal(0, 1, (NUM_RUNS, NUM_RULES))
    naive = (estimates - Z > 0).any(axis=1).mean()
    items = _measurement(0.0, -Z, Z)
    wide = widened(items, 1 - 0.05 / NUM_RULES)[1]
    assert naive > 0.3
    assert (estimates - wide > 0).any(axis=1).mean() <= ALLOWED
    assert math.isclose(wide, NormalDist().inv_cdf(1 - 0.025 / NUM_RULES), rel_tol=1e-9)


def test_a_system_that_never_answers_passes_no_rule():
    mute = _measurement(0.0, 0.0, 0.01, attempted=500, scored=0, errored=500)
    policy = _policy('metric = "m"; at_most = 0.1', 'metric = "m"; at_least = 0.5')
    gap, least = judge(policy, [mute])
    assert (gap.verdict, least.verdict) == ("inconclusive", "fail")
    assert "all 500 examples were errored" in gap.reason


def test_a_group_without_rows_is_not_called_the_smallest():
    def of(name, num, metric="selection_rate"):
        return _measurement(0.5, 0.4, 0.6, metric, slice=name, attempted=num, scored=num)

    empty = [
        of("sex=other", 35, "swap_shift"),
        of("sex=other", 80, "group_share"),
    ]  # of all rows, and of rows put into it
    rest = [of("sex=f", 39), of("sex=m", 41), of("sex=f", 41, "swap_shift"), of("sex=m", 39, "swap_shift")]
    assert smallest_group("sex", [*empty, *rest]) == ("sex=f", 39)
