import numpy as np
import pytest

from assay.probes.utility.precision_recall_f1 import precision_recall_f1
from assay.stats import make_draws
from assay.tasks import Classification

TASK = Classification(("a", "b", "c"))


def measure(labels, predictions, task=TASK, num_draws=100):
    draws = make_draws(b"key", "split", [labels, predictions], num_draws=num_draws)
    return {(one.metric, one.slice): one for one in precision_recall_f1(labels, predictions, task, draws)}


def test_equals_counting_by_hand():
    rng = np.random.default_rng(2)
    labels, predictions = rng.integers(3, size=50), rng.integers(-1, 3, size=50)
    found = measure(labels, predictions)
    f1s = []
    for k, name in enumerate(TASK.classes):
        pairs = list(zip(labels == k, predictions == k, strict=True))
        hits, false, missed = (pairs.count(pair) for pair in ((True, True), (False, True), (True, False)))
        assert found["precision", f"class={name}"].value == pytest.approx(hits / (hits + false))
        assert found["true_positive_rate", f"class={name}"].value == pytest.approx(hits / (hits + missed))
        f1s.append(2 * hits / (2 * hits + false + missed))
        assert found["f1", f"class={name}"].value == pytest.approx(f1s[-1])
    assert found["macro_f1", ""].value == pytest.approx(np.mean(f1s))


def test_undefined_is_said_and_left_out_of_the_mean():
    found = measure(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 0]))
    assert found["precision", "class=b"].value is None
    assert found["f1", "class=b"].value == 0
    assert found["f1", "class=c"].value is None
    assert found["macro_precision", ""].value == 0.5
    assert "b, c" in found["macro_precision", ""].reason
    assert found["macro_f1", ""].value == pytest.approx((2 / 3) / 2)


def test_a_perfect_system_on_ten_rows_is_not_certain():
    labels = np.tile([0, 1], 5)
    found = measure(labels, labels, Classification(("no", "yes")))
    assert found["macro_f1", ""].low < 0.8
    assert found["f1", "class=yes"].low < 0.8


def test_limits_cover_the_truth_in_about_ninety_five_percent():
    task, held = Classification(("no", "yes")), np.zeros(3)
    share, right = 0.3, 0.85
    hits = np.array([(1 - share) * right, share * right])
    answers = hits + (1 - right) * np.array([share, 1 - share])
    truth = 2 * hits / (answers + np.array([1 - share, share]))
    for seed in range(300):
        rng = np.random.default_rng(seed)
        labels = (rng.random(150) < share).astype(int)
        found = measure(labels, np.where(rng.random(150) < right, labels, 1 - labels), task, 300)
        f1, macro, precision = found["f1", "class=yes"], found["macro_f1", ""], found["macro_precision", ""]
        wanted = (truth[1], truth.mean(), (hits / answers).mean())
        held += [one.low <= true <= one.high for one, true in zip((f1, macro, precision), wanted, strict=True)]
    assert (held / 300 >= 0.92).all(), held / 300
