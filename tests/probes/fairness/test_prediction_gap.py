import numpy as np
import pytest

from assay.probes.fairness.prediction_gap import prediction_gap
from assay.stats import make_draws
from assay.values import Column, Groups

COLUMN = (Column("origin", "categorical", ("a", "b", "c")),)


def measure(predictions, codes, num_draws=50):
    draws = make_draws(b"key", "split", [codes], num_draws=num_draws)
    found = prediction_gap(predictions, Groups(codes[:, None], COLUMN), draws)
    return {(one.metric, one.slice): one for one in found}


def test_equals_counting_by_hand():
    rng = np.random.default_rng(0)
    predictions, codes = rng.integers(9, size=70).astype(float), rng.integers(-1, 3, size=70)
    found = measure(predictions, codes)
    groups = [predictions[codes == g] for g in range(3)]
    means = [one.mean() for one in groups]
    assert found["mean_prediction_difference", "origin"].value == pytest.approx(max(means) - min(means))
    far = max(
        abs((groups[a] <= t).mean() - (groups[b] <= t).mean()) for a in range(3) for b in range(a) for t in range(9)
    )
    assert found["prediction_distribution_gap", "origin"].value == pytest.approx(far)
    for quantile in (0.1, 0.5, 0.9):
        values = [np.quantile(one, quantile, method="inverted_cdf") for one in groups]
        one = found["prediction_quantile_difference", f"origin & quantile={quantile}"]
        assert one.value == pytest.approx(max(values) - min(values))
    assert found["group_mean_prediction", "origin=b"].value == pytest.approx(means[1])


def test_the_distance_is_that_of_scipy():
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(5)
    predictions, codes = rng.normal(size=200), rng.integers(2, size=200)
    found = measure(predictions, codes)["prediction_distribution_gap", "origin"]
    assert found.value == pytest.approx(ks_2samp(predictions[codes == 0], predictions[codes == 1]).statistic)


def test_errored_examples_make_the_differences_undefined():
    found = measure(np.array([np.nan, 1, 2, 3]), np.array([0, 0, 1, 1]))
    for metric, where in found:
        if where.startswith("origin") and "=b" not in where and "=c" not in where:
            assert found[metric, where].value is None
    assert found["group_mean_prediction", "origin=b"].value == 2.5


def test_equal_means_can_hide_unequal_tails():
    rng = np.random.default_rng(1)
    codes = rng.integers(2, size=2000)
    found = measure(rng.normal(size=2000) * (1 + 2 * codes), codes)
    assert found["mean_prediction_difference", "origin"].low == 0
    assert found["prediction_distribution_gap", "origin"].low > 0
    assert found["prediction_quantile_difference", "origin & quantile=0.9"].low > 0
    assert found["prediction_quantile_difference", "origin & quantile=0.5"].low == 0


@pytest.mark.slow
@pytest.mark.parametrize("num", [60, 300, 2000])
def test_intervals_cover_and_rarely_alarm(num):
    from scipy.stats import norm

    shift, held, alarms = 0.5, {}, {}
    truth = {
        "mean_prediction_difference": shift,
        "prediction_quantile_difference": shift,
        "prediction_distribution_gap": 2 * norm.cdf(shift / 2) - 1,
    }
    for seed in range(400):
        rng = np.random.default_rng(seed)
        codes, values = rng.integers(3, size=num), rng.normal(size=num)
        for (metric, where), one in measure(values + shift * (codes == 2), codes, num_draws=200).items():
            if metric in truth and one.low is not None:
                held.setdefault((metric, where), []).append(one.low <= truth[metric] <= one.high)
        for (metric, where), one in measure(values, codes, num_draws=200).items():
            if metric in truth and one.low is not None:
                alarms.setdefault((metric, where), []).append(one.low > 0)
    assert all(np.mean(one) >= 0.93 for one in held.values() if len(one) > 300), held
    assert all(np.mean(one) <= 0.05 for one in alarms.values() if len(one) > 300), alarms
