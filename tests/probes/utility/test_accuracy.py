import numpy as np

from assay.probes.utility.accuracy import accuracy
from assay.stats import make_draws


def measure(labels, predictions, num_draws=200):
    return accuracy(labels, predictions, make_draws(b"key", "split", [labels, predictions], num_draws=num_draws))[0]


def test_equals_counting_by_hand_with_errored_examples_in_the_denominator():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(4, size=50), rng.integers(-1, 4, size=50)
    found = measure(labels, predictions)
    assert found.value == sum(a == b for a, b in zip(labels, predictions, strict=True)) / 50
    assert (found.attempted, found.errored) == (50, int((predictions == -1).sum()))


def test_an_errored_example_with_an_unknown_label_is_not_right():
    assert measure(np.array([-1, 0]), np.array([-1, 0])).value == 0.5


def test_replicates_spread_as_a_binomial_does():
    labels = np.zeros(400, dtype=int)
    found = measure(labels, (np.arange(400) < 80).astype(int), num_draws=2000)
    assert np.std(found.replicates) == np.float64(found.replicates.std())
    assert abs(found.replicates.std() / np.sqrt(0.8 * 0.2 / 400) - 1) < 0.06
    assert abs(found.replicates.mean() - 0.8) < 0.003
