"""The kernel estimate beside the binned one: brute force, perfect calibration, planted faults, coverage."""

from __future__ import annotations

import numpy as np
import pytest

from assay.probes.utility._kernel import BANDWIDTH, features, kernel_errors
from assay.probes.utility.calibration_error import calibration_error
from assay.stats import make_draws
from assay.tasks import Classification


def kernel(first, second):
    return np.exp(-((first - second) ** 2) / (2 * BANDWIDTH**2))


def one(stated, labels, num_draws=2, seed="s"):
    draws = make_draws(b"key", seed, [labels], num_draws=num_draws)
    return kernel_errors(stated[:, None], labels[:, None].astype(float), draws)[1]


def test_it_equals_the_u_statistic_over_all_pairs():
    rng = np.random.default_rng(0)
    chance = rng.dirichlet(np.ones(3), size=150)
    labels = rng.integers(3, size=150)
    happened = np.eye(3)[labels]
    whole, *each = kernel_errors(chance, happened, make_draws(b"key", "s", [labels], num_draws=2))
    total = 0.0
    for c in range(3):
        residuals = happened[:, c] - chance[:, c]
        pairs = residuals[:, None] * residuals[None, :] * kernel(chance[:, None, c], chance[None, :, c])
        square = (pairs.sum() - np.trace(pairs)) / (150 * 149)
        assert each[c].value == pytest.approx(np.sqrt(max(0, square)), abs=1e-6)
        total += square
    assert whole.value == pytest.approx(np.sqrt(max(0, total)), abs=1e-6)
    np.testing.assert_allclose(
        features(chance[:, 0]) @ features(chance[:, 1]).T, kernel(chance[:, :1], chance[None, :, 1]), atol=1e-8
    )


def test_binned_and_kernel_agree_on_what_is_planted():
    """Stated 0.75, true 0.25: every measure says 0.5; a calibrated system has a lower limit of 0."""
    labels = np.tile([0, 0, 0, 1], 100)
    found = one(np.full(400, 0.75), labels)
    assert found.value == pytest.approx(0.5, abs=0.005)
    assert found.low > 0.4
    assert one(np.full(400, 0.25), labels).low == 0


def test_what_cancels_within_a_bin_is_seen():
    """Stated 0.4 and 0.6 hold 0.6 and 0.4: one bin of both would see nothing."""
    stated, labels = (
        np.repeat([0.4, 0.6], 500),
        np.concatenate([np.tile([0, 0, 1, 1, 1], 100), np.tile([0, 0, 0, 1, 1], 100)]),
    )
    found = one(stated, labels)
    assert found.low > 0.03
    assert found.value == pytest.approx(0.2 * np.sqrt((1 - np.exp(-2)) / 2), abs=0.01)


def test_errored_rows_are_gaps_of_one_and_systems_are_paired():
    rng = np.random.default_rng(1)
    stated = rng.random(800)
    labels = (rng.random(800) < stated).astype(int)
    whole = one(stated, labels, num_draws=200)
    spoilt = one(np.where(np.arange(800) < 200, np.nan, stated), labels, num_draws=200)
    assert spoilt.value >= 0.25
    assert whole.replicates.shape == (200,)
    assert one(stated[:1], labels[:1]).reason == "fewer than two rows are scored"


def test_the_probe_tells_classes_apart():
    rng = np.random.default_rng(2)
    chance = rng.dirichlet(np.ones(3), size=4000)
    labels = (rng.random((4000, 1)) > chance.cumsum(axis=1)).sum(axis=1)
    labels = np.where((labels == 2) & (rng.random(4000) < 0.5), 1, labels)  # half of c turns out b
    draws = make_draws(b"key", "s", [labels], num_draws=100)
    found = calibration_error(labels, chance, chance.argmax(axis=1), Classification(("a", "b", "c")), draws)
    by_class = {one.slice: one for one in found if one.metric == "kernel_calibration_error"}
    assert set(by_class) == {"", "class=a", "class=b", "class=c"}
    assert by_class["class=a"].low == 0
    assert by_class["class=b"].low > 0.05
    assert by_class["class=c"].low > 0.05
    total = sum(by_class[f"class={name}"].value ** 2 for name in "abc")
    assert by_class[""].value == pytest.approx(np.sqrt(total), abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("num", [100, 1000])
def test_calibrated_systems_are_called_wrong_at_the_level_and_intervals_cover(num):
    rng = np.random.default_rng(num)
    reference = rng.random(400_000) ** 2
    truth = np.linalg.norm((0.1 * (reference - 0.5)).clip(-reference, 1 - reference) @ features(reference) / 400_000)
    alarms, covered = [], []
    for seed in range(400):
        stated = rng.random(num) ** 2
        alarms.append(one(stated, (rng.random(num) < stated).astype(int), seed=str(seed)).low > 0)
        happens = (stated + 0.1 * (stated - 0.5)).clip(0, 1)
        found = one(stated, (rng.random(num) < happens).astype(int), seed=str(seed))
        covered.append(found.low <= truth <= found.high)
    assert np.mean(alarms) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)
    assert np.mean(covered) >= 0.95
