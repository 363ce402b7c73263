"""Rows without an answer, refused or failed: they count, are told, and are in the width of the interval."""

from __future__ import annotations

import numpy as np
import pytest

from assay.probes.fairness._swaps import Answers, flipped
from assay.probes.robustness.input_noise import _flips
from assay.probes.utility._kernel import kernel_errors
from assay.probes.utility.calibration_error import calibration_error
from assay.stats import make_draws
from assay.tasks import Classification
from assay.tasks.decisions import REFUSED

TASK = Classification(("no", "yes"), "yes")
METRICS = ("calibration_error", "kernel_calibration_error")


def audited(seed, *, num=800, lost=0.07):
    rng = np.random.default_rng(seed)
    stated = rng.uniform(0.05, 0.95, num)
    labels = (rng.random(num) < stated).astype(np.int64)
    refused = rng.random(num) < lost
    probabilities = np.where(refused[:, None], 0.5, np.stack([1 - stated, stated], axis=1)).astype(np.float32)
    answers = np.where(refused, REFUSED, probabilities.argmax(axis=1))
    draws = make_draws(b"key", str(seed), [labels, answers], num_draws=100)
    return {one.metric: one for one in calibration_error(labels, probabilities, answers, TASK, draws)}


def test_how_many_are_refused_is_chance_too_and_in_the_interval_of_calibration() -> None:
    """A calibrated system that refuses 7 %, a gap of 1 for each. Without that chance 7 and 12 of 24 intervals held."""
    truth = dict(zip(METRICS, (0.07**0.5, 0.07), strict=True))
    found = [audited(seed) for seed in range(24)]
    for metric in METRICS:
        assert sum(one[metric].low <= truth[metric] <= one[metric].high for one in found) >= 19
    refused = found[0]["calibration_error"].errored / 800
    told = f"rows without an answer count as a gap of 1: they alone make {refused**0.5:.3f}"
    assert found[0]["calibration_error"].reason == told
    assert not audited(0, lost=0.0)["calibration_error"].reason


def test_refused_before_and_after_is_no_flip_and_failed_is_one() -> None:
    clean, noisy = np.array([0, 1, REFUSED, REFUSED, -1, 1]), np.array([0, 0, REFUSED, 1, -1, -1])
    outputs = np.full((6, 2), 0.5)
    expected = [False, True, False, True, True, True]
    assert flipped(Answers(clean, outputs), Answers(noisy, outputs), TASK).tolist() == expected
    draws = make_draws(b"key", "split", [clean], num_draws=20)
    flips, *_ = _flips(clean, noisy, np.zeros(6, dtype=np.int64), draws, "noise=0.1")
    assert flips.value == pytest.approx(np.mean(expected))
    assert flips.errored == 4  # without an answer, clean or noisy


def test_a_calibration_error_is_never_said_to_be_above_1() -> None:
    """Twenty rows of which sixteen have no answer: the limits were 0.75 and 1.02."""
    rng, highs = np.random.default_rng(0), []
    for seed in range(20):
        labels, answers = rng.integers(0, 2, 20), np.where(np.arange(20) < 16, REFUSED, 1)
        probabilities = np.tile(np.float32([0.1, 0.9]), (20, 1))
        draws = make_draws(b"key", str(seed), [labels, answers], num_draws=20)
        found = calibration_error(labels, probabilities, answers, TASK, draws)
        highs += [one.high for one in found if one.metric in METRICS and one.high is not None]
    assert 0.9 < max(highs) <= 1


def test_the_excess_of_a_value_that_cannot_be_below_0_is_no_evidence_of_error() -> None:
    """Calibrated, and one row in 300 is not scored: of 60 intervals 53 held that, others began above it."""
    held = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        stated = rng.uniform(0.3, 0.7, 300)
        happened = (rng.random(300) < stated).astype(np.float64)
        stated[rng.random(300) < 1 / 300] = np.nan
        draws = make_draws(b"key", str(seed), [happened.astype(np.int64)], num_draws=20)
        whole, *_ = kernel_errors(stated[:, None], happened[:, None], draws)
        held += whole.low <= 1 / 300 <= whole.high
    assert held >= 57
