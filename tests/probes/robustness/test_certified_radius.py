"""Certificates agree with the closed form of a linear system, count abstentions, and take few votes."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from assay.access.handles import Query
from assay.observe import Ledger, Workspace
from assay.probes.robustness.certified_radius import MOST, certified_radius, most_rows, spread
from assay.registry import Sizes
from assay.stats import make_draws
from assay.tasks import Argmax, Classification
from assay.values import Column, Data, Groups, Split, System

COLUMNS = (Column("a", "numeric", low=0, high=1), Column("b", "numeric"), Column("job", "categorical", ("x", "y")))
SCALES = np.array([2.0, 0.1])


@dataclass(frozen=True)
class Model:
    """Answers class 1 where w . x > threshold, in units of the columns' scales."""

    weights: np.ndarray
    digest: str = "m"
    offers: frozenset = frozenset({"query"})
    outputs_are: str = "logits"
    num_bytes: int = 0
    fails: bool = False

    def outputs(self, inputs):
        flat = inputs.reshape(len(inputs), -1)[:, : len(self.weights)].astype(np.float64)
        margin = flat @ self.weights
        logits = np.stack([-margin, margin], axis=1).astype(np.float32)
        if self.fails:
            logits[inputs[:, -1] > 0] = np.nan
        return logits


def handle(*, num: int = 150, model: Model | None = None, columns=COLUMNS) -> Query:
    rng = np.random.default_rng(0)
    inputs = np.column_stack([SCALES * rng.normal(size=(num, 2)), rng.integers(0, 2, num)]).astype(np.float32)
    model = model or Model(1 / SCALES)
    labels = (inputs[:, :2] @ (1 / SCALES) > 0).astype(np.int64)
    split = Split(inputs, labels, Groups(np.zeros((num, 0), dtype=np.int64), ()), np.arange(num))
    data = Data("d", columns, "y", (), {"train": split, "test": split}, ("n", "p"), "p")
    return Query(System("s", model, data, Classification(("n", "p"), "p"), Argmax()), Workspace(), Ledger(10**9))


def run(query: Query, **options):
    draws = make_draws(b"key", "split", [query.labels], num_draws=50)
    return {(one.metric, one.slice): one for one in certified_radius(query, draws, **options)}


def test_certified_accuracy_of_a_linear_system_is_its_closed_form():
    # Under noise a line votes for the same side, and Cohen's radius is the distance to it (their appendix B).
    query = handle()
    found = run(query)
    distance = np.abs(query.inputs[:, :2] / spread(query)[:2] @ np.ones(2)) / np.sqrt(2)
    for share in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5):
        one = found["certified_accuracy", f"radius={0.25 * share:g}"]
        truth = (distance > 0.25 * share).mean()
        assert truth - 0.07 < one.value <= truth + 0.01  # never above; 4,096 votes cannot tell rows next to a radius
        assert one.low <= one.value <= one.high
        assert one.replicates.shape == (50,)
    assert 0 < found["abstention_rate", ""].value < 0.05
    assert query.ledger.total < 150 * 100_000 / 20  # twenty times fewer than the usual 100,000 a row
    assert query.ledger.total <= most_rows(Sizes(150, 150, 3, 2))["certified_radius"]


def test_a_row_on_the_line_abstains_and_a_row_on_the_wrong_side_does_not():
    query = handle(num=20)
    query.inputs[:10, :2] = 0
    query.labels[10:] = 1 - query.labels[10:]
    query.inputs[10:, :2] *= 10
    found = run(query)
    assert found["abstention_rate", ""].value == pytest.approx(0.5)
    assert found["certified_accuracy", "radius=0"].value == 0
    assert query.ledger.total == 10 * MOST + 10 * 32


def test_a_constant_system_certifies_its_share_at_every_radius():
    query = handle(num=60, model=Model(np.zeros(2)))  # all logits 0: the first class
    found = run(query)
    share = (query.labels == 0).mean()
    values = [one.value for (name, _), one in found.items() if name == "certified_accuracy"]
    assert values == pytest.approx([share] * 6)


def test_errored_rows_are_counted_and_wrong_and_noise_is_paired():
    query = handle(num=60, model=Model(10 / SCALES, fails=True))
    found = run(query)
    one = found["certified_accuracy", "radius=0"]
    assert one.errored == int((query.inputs[:, -1] > 0).sum())
    assert one.value <= 1 - one.errored / 60 + 1e-9
    again = run(handle(num=60, model=Model(10 / SCALES, fails=True)))
    assert {key: one.value for key, one in again.items()} == {key: one.value for key, one in found.items()}


def test_no_numeric_column_is_undefined_with_a_reason():
    query = handle(num=10, columns=tuple(replace(one, kind="categorical", categories=("x", "y")) for one in COLUMNS))
    (only,) = run(query).values()
    assert only.value is None
    assert "spread" in only.reason


def test_pictures_get_noise_in_shares_of_their_range():
    rng = np.random.default_rng(1)
    inputs = rng.integers(0, 256, (40, 1, 4, 4)).astype(np.uint8)
    labels = (inputs[:, 0, 0, 0] > 128).astype(np.int64)

    class First(Model):
        def outputs(self, inputs):
            margin = inputs[:, 0, 0, 0].astype(np.float32) - 128
            return np.stack([-margin, margin], axis=1)

    split = Split(inputs, labels, Groups(np.zeros((40, 0), dtype=np.int64), ()), np.arange(40))
    column = Column("image", "image", low=0, high=255, shape=(1, 4, 4))
    data = Data("d", (column,), "y", (), {"train": split, "test": split}, ("n", "p"), "p")
    query = Query(
        System("s", First(np.zeros(1)), data, Classification(("n", "p"), "p"), Argmax()), Workspace(), Ledger(10**9)
    )
    found = run(query, sigma=0.1)
    distance = np.abs(inputs[:, 0, 0, 0].astype(float) - 128) / 255
    one = found["certified_accuracy", "radius=0.1"]
    assert (distance > 0.12).mean() <= one.value <= (distance > 0.1).mean()
