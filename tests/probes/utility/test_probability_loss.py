import math

import numpy as np
import pytest

from assay.probes.utility.probability_loss import probability_loss
from assay.stats import make_draws
from assay.tasks import Classification


def measure(labels, probabilities, classes):
    draws = make_draws(b"key", "split", [labels], num_draws=100)
    return probability_loss(labels, probabilities, Classification(classes), draws)[:2]


@pytest.mark.parametrize("num", [2, 3])
def test_equals_summing_by_hand(num):
    rng = np.random.default_rng(num)
    labels, probabilities = rng.integers(num, size=50), rng.dirichlet(np.ones(num), size=50)
    brier, log_loss = measure(labels, probabilities, tuple("abc"[:num]))
    rows = list(zip(labels, probabilities, strict=True))
    by_hand = [sum((p[k] - (k == y)) ** 2 for k in range(num)) / (2 if num == 2 else 1) for y, p in rows]
    assert brier.value == pytest.approx(sum(by_hand) / 50)
    assert log_loss.value == pytest.approx(-sum(math.log(p[y]) for y, p in rows) / 50)


def test_errored_examples_have_the_worst_brier_loss_and_no_log_loss():
    labels, probabilities = np.array([0, 1, 1, 0]), np.array([[1, 0], [0, 1], [np.nan, np.nan], [1, 0.0]])
    brier, log_loss = measure(labels, probabilities, ("no", "yes"))
    assert brier.value == 0.25
    assert (brier.attempted, brier.scored, brier.errored) == (4, 3, 1)
    assert log_loss.value is None
    assert "over the other 3 it is 0" in log_loss.reason


def test_a_certain_mistake_costs_a_lot_but_not_infinitely():
    log_loss = measure(np.array([0, 1]), np.array([[0.0, 1], [0, 1]]), ("no", "yes"))[1]
    assert log_loss.value == pytest.approx(-math.log(np.finfo(np.float32).eps) / 2)
