"""Foreign rows are of real parts; a system that knows combinations is unsure of them; no difference is 0.5."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from assay.access.handles import Query
from assay.observe import Ledger, Workspace
from assay.probes.utility.out_of_distribution_auroc import out_of_distribution_auroc, taken_apart
from assay.stats import make_draws
from assay.tasks import Argmax, task_of
from assay.values import Column, Data, Groups, Split, System, texts


class Distance:
    """Logits that are surer the nearer the second column is to the first."""

    offers, outputs_are, digest, num_bytes = frozenset({"query"}), "logits", "distance", None

    def __init__(self, alone=False):
        self.alone = alone

    def outputs(self, inputs):
        near = inputs[:, 0] if self.alone else 4 - 2 * np.abs(inputs[:, 1] - inputs[:, 0])
        return np.column_stack([near, np.zeros(len(inputs))]).astype(np.float32)


def measure(seed, num=600, alone=False, model=None):
    rng = np.random.default_rng(seed)
    first = rng.normal(size=num)
    inputs = np.column_stack([first, first + 0.1 * rng.normal(size=num)]).astype(np.float32)
    split = Split(
        inputs, np.zeros(num, np.int64), Groups(np.zeros((num, 0), np.int16), ()), np.arange(num) + seed * num
    )
    columns = (Column("a", "numeric"), Column("b", "numeric"))
    data = Data("made up", columns, "label", (), {"test": split, "train": split}, ("no", "yes"))
    system = System("s", model or Distance(alone), data, task_of(data), Argmax())
    query = Query(system, Workspace(), Ledger(10**9), "out_of_distribution_auroc")
    draws = make_draws(b"key", str(seed), [split.labels], num_draws=400)
    found = out_of_distribution_auroc(query, system.model.outputs(inputs), system.task, draws)
    return {one.slice: one for one in found}, query


def test_rows_taken_apart_hold_real_parts():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(50, 3))
    apart = taken_apart(table, "table", "", np.random.default_rng(1))
    np.testing.assert_array_equal(np.sort(apart, axis=0), np.sort(table, axis=0))
    assert (apart != table).any(axis=1).mean() > 0.9
    pictures = rng.integers(256, size=(5, 2, 9, 8)).astype(np.uint8)
    shuffled = taken_apart(pictures, "image", "", np.random.default_rng(1))
    np.testing.assert_array_equal(np.sort(shuffled.reshape(5, 2, -1)), np.sort(pictures.reshape(5, 2, -1)))
    np.testing.assert_array_equal(shuffled[:, :, 8:], pictures[:, :, 8:])
    patches = {
        tuple(one[:, y : y + 2, x : x + 2].ravel()) for one in pictures[:1] for y in (0, 2, 4, 6) for x in (0, 2, 4, 6)
    }
    assert {tuple(shuffled[0, :, y : y + 2, x : x + 2].ravel()) for y in (0, 2, 4, 6) for x in (0, 2, 4, 6)} == patches
    told = taken_apart(texts(["one two three", "four", "很好 ok"]), "text", "en", np.random.default_rng(2)).tolist()
    assert [len(one.split()) for one in told] == [3, 1, 2]
    assert sorted(" ".join(told).split()) == sorted(["one", "two", "three", "four", "很好", "ok"])
    assert sorted("".join(taken_apart(texts(["很好", "不"]), "text", "zh", rng).tolist())) == sorted("很好不")


def test_a_system_that_knows_combinations_is_unsure_of_foreign_ones():
    found, query = measure(0)
    foreign = taken_apart(query.inputs[query.rows(1000)], "table", "", query.rng("taken apart"))
    own, others = (np.abs(query.system.model.outputs(one)[:, 0]) for one in (query.inputs, foreign))
    expected = roc_auc_score(np.repeat([1, 0], 600), np.concatenate([own, others]))
    assert found[""].value == pytest.approx(expected)
    assert found["score=energy"].value > 0.8
    assert found[""].low > 0.5
    assert set(found) == {"", "score=energy"}
    assert query.ledger.rows == {"out_of_distribution_auroc": 600}


def test_a_system_that_reads_one_column_sees_no_difference():
    found, _ = measure(1, alone=True)
    assert found[""].low < 0.5 < found[""].high
    assert found[""].value == pytest.approx(0.5, abs=1e-9)  # the same values in another order


def test_a_foreign_row_that_errors_is_told_apart():
    class Refuses(Distance):
        def outputs(self, inputs):
            logits = super().outputs(inputs)
            logits[np.abs(inputs[:, 1] - inputs[:, 0]) > 0.6] = np.nan
            return logits

    found, _ = measure(2, model=Refuses())
    assert found[""].value > 0.85
    assert found[""].errored == 0


@pytest.mark.slow
def test_the_interval_covers_the_truth():
    """Against the mean of many samples: rows and what is made of them are drawn anew each time."""
    found = [measure(seed, num=200)[0][""] for seed in range(200)]
    truth = np.mean([one.value for one in found])
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.92 <= covered <= 0.99, covered
