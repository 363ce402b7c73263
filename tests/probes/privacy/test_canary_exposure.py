"""Exposure is the rank formula; chance gives 1.44 bits, and a row known by heart gives all of them."""

from types import SimpleNamespace

import numpy as np
import pytest

from assay.access.handles import Canaries
from assay.probes.privacy.canary_exposure import canary_exposure, exposures, resampled
from assay.stats import make_draws

DRAWS = make_draws(b"key", "split", [np.arange(300) % 2], num_draws=200)


def measure(scores, included):
    logits = np.stack([np.zeros(len(scores)), scores], axis=1)
    retrain = SimpleNamespace(canaries=Canaries(np.ones(len(scores), dtype=np.int64), included, logits, {}))
    return {one.metric: one for one in canary_exposure(retrain, DRAWS)}


def test_exposure_by_hand():
    outside = np.arange(15.0)
    np.testing.assert_allclose(exposures(np.array([99.0, -1.0, 10.5]), outside), [4, 0, 4 - np.log2(5)])
    np.testing.assert_allclose(exposures(np.zeros(1), np.zeros(15)), [4 - np.log2(8.5)])


@pytest.mark.slow
def test_nothing_learnt_gives_what_chance_gives_and_the_interval_covers_it():
    covered = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        found = measure(rng.normal(size=200), rng.random(200) < 0.5)["canary_exposure"]
        covered.append(found.low <= 1.4427 <= found.high)
    assert np.mean(covered) >= 0.9
    assert found.value == pytest.approx(1.44, abs=0.5)


def test_rows_known_by_heart_are_fully_exposed():
    rng = np.random.default_rng(0)
    included = rng.random(200) < 0.5
    found = measure(rng.normal(size=200) + 20 * included, included)
    assert found["canary_exposure"].value == pytest.approx(np.log2((~included).sum() + 1))
    assert found["canaries_most_exposed"].value == 1.0
    half = measure(np.where(included & (np.arange(200) % 2 == 0), 20.0, 0) + rng.normal(size=200), included)
    assert half["canary_exposure"].low > 2
    assert 0.3 < half["canaries_most_exposed"].value < 0.7


def test_errored_canaries_are_least_exposed_and_counted():
    included = np.arange(100) < 50
    scores = np.where(included, 9.0, 0.0)
    scores[:25] = np.nan
    found = measure(scores, included)["canary_exposure"]
    assert (found.attempted, found.errored) == (100, 25)
    assert found.value < measure(np.where(included, 9.0, 0.0), included)["canary_exposure"].value


def test_one_side_empty_is_undefined():
    assert measure(np.arange(8.0), np.ones(8, dtype=bool))["canary_exposure"].value is None


def test_the_first_of_the_draws_is_the_plain_mean():
    rng = np.random.default_rng(3)
    inside, outside = rng.integers(0, 9, 40).astype(float), rng.integers(0, 9, 30).astype(float)  # many ties
    assert resampled(inside, outside, DRAWS)[0] == pytest.approx(exposures(inside, outside).mean())
