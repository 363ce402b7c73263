import numpy as np
import pytest

from assay.probes.fairness.group_error_rates import group_error_rates
from assay.stats import make_draws
from assay.tasks import Classification
from assay.values import Column, Groups

COLUMNS = (Column("sex", "categorical", ("f", "m")), Column("origin", "categorical", ("a", "b", "c")))
BINARY = Classification(("no", "yes"), "yes")


def measure(labels, predictions, codes, task=BINARY, num_draws=50):
    draws = make_draws(b"key", "split", [labels, predictions, *codes.T], num_draws=num_draws)
    found = group_error_rates(labels, predictions, Groups(codes, COLUMNS[: codes.shape[1]]), task, draws)
    return {(one.metric, one.slice): one for one in found}


def test_equals_counting_by_hand_in_every_group_and_pair():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(2, size=50), rng.integers(-1, 2, size=50)
    codes = np.column_stack([rng.integers(2, size=50), rng.integers(-1, 3, size=50)])
    found = measure(labels, predictions, codes)
    for s, sex in enumerate("fm"):
        for o, origin in [(None, ""), *enumerate("abc")]:
            where = f"sex={sex}" + (f" & origin={origin}" if origin else "")
            mine = (codes[:, 0] == s) & ((codes[:, 1] == o) if origin else True)
            rows = list(zip(labels[mine], predictions[mine], strict=True))
            one = found["error_rate", where]
            assert one.value == pytest.approx(sum(y != p for y, p in rows) / len(rows))
            assert (one.attempted, one.errored) == (len(rows), sum(p == -1 for _, p in rows))
            for metric, given in (("true_positive_rate", 1), ("false_positive_rate", 0)):
                told = [p for y, p in rows if y == given]
                wanted = told.count(1) / len(told) if told else None
                assert found[metric, where].value == pytest.approx(wanted)
                assert (found[metric, where].attempted, found[metric, where].errored) == (len(told), told.count(-1))
    assert found["worst_group_accuracy", "sex"].value == pytest.approx(
        1 - max(found["error_rate", f"sex={sex}"].value for sex in "fm")
    )


def test_more_classes_have_error_rates_only():
    found = measure(
        np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2]), np.array([[0], [0], [1], [1]]), Classification(("x", "y", "z"))
    )
    assert {metric for metric, _ in found} == {"error_rate", "worst_group_accuracy", "worst_cell_accuracy"}
    assert found["worst_group_accuracy", "sex"].value == 0.5
    assert found["worst_cell_accuracy", "sex"].value == 0.5
    assert found["worst_cell_accuracy", "sex"].reason.startswith("worst for sex=m & class=z, 2 rows; 3 of 6 groups")


@pytest.mark.parametrize("positive", ["yes", "no", None])
def test_the_worst_cell_is_found_by_counting(positive):
    rng = np.random.default_rng(1)
    labels, predictions = rng.integers(-1, 2, size=80), rng.integers(-1, 2, size=80)
    codes = rng.integers(-1, 2, size=(80, 1))
    task = Classification(("no", "yes"), positive) if positive else Classification(("no", "yes", "else"))
    found = measure(labels, predictions, codes, task)
    cells = {
        (sex, label): predictions[(codes[:, 0] == sex) & (labels == label)] == label
        for sex in (0, 1)
        for label in (0, 1)
    }
    one, least = found["worst_cell_accuracy", "sex"], min(cells, key=lambda cell: cells[cell].mean())
    assert one.value == pytest.approx(cells[least].mean())
    num = len(cells[least])
    assert one.reason.startswith(f"worst for sex={'fm'[least[0]]} & class={('no', 'yes')[least[1]]}, {num} rows")
    known = (codes[:, 0] >= 0) & (labels >= 0)
    assert (one.attempted, one.errored) == (known.sum(), (known & (predictions < 0)).sum())


def test_worst_cell_limits_cover_the_truth():
    """Four cells, true accuracies 0.9, 0.88, 0.85 and 0.75; the band holds for whichever looks worst."""
    held, truth = 0, np.array([[0.9, 0.88], [0.85, 0.75]])
    for seed in range(200):
        rng = np.random.default_rng(seed)
        codes, labels = rng.integers(2, size=(400, 1)), rng.integers(2, size=400)
        right = rng.random(400) < truth[codes[:, 0], labels]
        one = measure(labels, np.where(right, labels, 1 - labels), codes, num_draws=2)["worst_cell_accuracy", "sex"]
        held += one.low <= 0.75 <= one.high
    assert held >= 186


def test_small_groups_are_wide_and_empty_ones_undefined():
    codes = np.array([[0]] * 40 + [[1]])
    found = measure(np.zeros(41, dtype=int), np.zeros(41, dtype=int), codes)
    one = found["error_rate", "sex=m"]
    assert (one.value, one.attempted) == (0.0, 1)
    assert one.high - one.low > 0.6
    empty = measure(np.zeros(4, dtype=int), np.zeros(4, dtype=int), np.zeros((4, 1), dtype=int))["error_rate", "sex=m"]
    assert empty.value is None
    assert empty.reason
    assert empty.attempted == 0


def test_worst_group_limits_cover_the_truth():
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        codes = np.column_stack([np.zeros(400, dtype=int), rng.integers(3, size=400)])
        labels = rng.integers(2, size=400)
        wrong = rng.random(400) < np.array([0.1, 0.12, 0.25])[codes[:, 1]]
        one = measure(labels, np.where(wrong, 1 - labels, labels), codes, num_draws=2)["worst_group_accuracy", "origin"]
        held += one.low <= 0.75 <= one.high
    assert held >= 186
