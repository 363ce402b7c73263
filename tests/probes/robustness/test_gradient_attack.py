"""The attack finds what is known to be there, says when it cannot be believed, and counts what it runs."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from assay.access.handles import Query
from assay.observe import Ledger, Workspace
from assay.probes.robustness._apgd import checkpoints
from assay.probes.robustness.gradient_attack import NUM_ROWS, gradient_attack, most_rows
from assay.registry import Sizes
from assay.stats import make_draws
from assay.tasks import Argmax, Classification
from assay.units.ranges import USUAL_RADIUS, box, ranges
from assay.values import Column, Data, Groups, Split, System

NUM_COLUMNS = 24
COLUMNS = (
    *(Column(f"x{index}", "numeric", low=0.0, high=1.0) for index in range(NUM_COLUMNS)),
    Column("job", "categorical", categories=("a", "b")),
)
SEX = Column("sex", "categorical", categories=("f", "m"))


class Linear(torch.nn.Module):
    """logit = w . (x - 1/2); the categorical column counts too."""

    def __init__(self, weights, *, sharpness: float = 1.0, quantum: float = 0.0) -> None:
        super().__init__()
        self.weights = torch.tensor(weights, dtype=torch.float32)
        self.sharpness, self.quantum = sharpness, quantum

    def forward(self, inputs):
        if self.quantum:  # rounding: the answer depends on the input and the gradient is 0
            inputs = torch.round(inputs / self.quantum) * self.quantum
        margin = self.sharpness * (inputs[:, :NUM_COLUMNS] - 0.5) @ self.weights
        return torch.stack([-margin / 2, margin / 2], dim=1)


@dataclass(frozen=True)
class Model:
    module: torch.nn.Module
    digest: str
    offers: frozenset = frozenset({"query", "gradient", "meter"})
    outputs_are: str = "logits"
    num_bytes: int = 0
    seen: list = field(default_factory=list)

    def outputs(self, inputs):
        self.seen.append(inputs)
        with torch.no_grad():
            return self.module(torch.from_numpy(inputs)).numpy()


def access(module, *, num: int = 600, whole: bool = False, labels=None) -> Query:
    rng = np.random.default_rng(0)
    inputs = rng.random((num, NUM_COLUMNS + 1)).astype(np.float32)
    columns = COLUMNS
    inputs[:, -1] = rng.integers(0, 2, num)
    if whole:
        inputs[:, :-1] = rng.integers(0, 101, (num, NUM_COLUMNS))
        columns = (*(Column(f"x{i}", "numeric", low=0, high=100) for i in range(NUM_COLUMNS)), COLUMNS[-1])
    margin = (inputs[:, :NUM_COLUMNS] / (100 if whole else 1) - 0.5).sum(axis=1)
    labels = (margin > 0).astype(np.int64) if labels is None else labels
    groups = Groups(rng.integers(0, 2, (num, 1)), (SEX,))
    split = Split(inputs, labels, groups, np.arange(1, num + 1))
    data = Data("d", columns, "y", (SEX,), {"train": split, "test": split}, ("a", "b"), "b")
    system = System("s", Model(module, str(id(module))), data, Classification(("a", "b"), "b"), Argmax())
    return Query(system, Workspace(), Ledger(10**9), "gradient_attack")


def run(handle: Query):
    codes = [handle.labels, handle.groups.codes[:, 0]]
    draws = make_draws(b"key", "split", codes, num_draws=100)
    found = {(one.metric, one.slice): one for one in gradient_attack(handle, draws)}
    return found, found["robust_accuracy", ""]


def test_on_a_linear_system_the_exact_robust_accuracy_is_found():
    # A row of a linear system is robust exactly when its margin exceeds what the box allows: sum_f |w_f| step_f.
    handle = access(Linear(np.ones(NUM_COLUMNS)))
    found, robust = run(handle)
    rows = handle.rows(NUM_ROWS)
    inputs = handle.inputs[rows].astype(np.float64)
    low, high = box(inputs, ranges(COLUMNS, handle.inputs), USUAL_RADIUS)
    side = np.sign((inputs[:, :NUM_COLUMNS] - 0.5).sum(axis=1))[:, None]
    worst = np.where(side > 0, low, high)[:, :NUM_COLUMNS]
    exact = ((worst - 0.5).sum(axis=1) * side[:, 0] > 0).mean()
    assert robust.value == pytest.approx(exact, abs=0.003)  # float32 may decide one row on the edge
    assert robust.low < exact < robust.high
    assert found["robust_accuracy", "radius=0"].value == 1.0
    beats = found["attack_success", "attack=gradient"].value - found["attack_success", "attack=random"].value
    assert beats > 0.05
    assert found["zero_gradient_rate", ""].value == 0
    parts = [found["robust_accuracy", f"sex={name}"] for name in "fm"]
    assert sum(one.value * one.attempted for one in parts) == pytest.approx(robust.value * len(rows))


def test_what_is_wrong_only_beside_other_rows_counts_for_nothing():
    class Crowd(Linear):
        """Rows asked together are answered b more readily than a row asked alone."""

        def forward(self, inputs):
            return super().forward(inputs) + torch.tensor([0.0, 0.3]) * (len(inputs) > 1)

    handle, rows = access(Crowd(np.ones(NUM_COLUMNS))), access(Linear(np.ones(NUM_COLUMNS))).rows(NUM_ROWS)
    margin = (handle.inputs[rows, :NUM_COLUMNS].astype(np.float64) - 0.5).sum(axis=1)
    found, robust = run(handle)
    assert ((margin < 0) & (margin > -0.3)).sum() > 10, "answered b, which is wrong, in any batch"
    assert found["robust_accuracy", "radius=0"].value == 1
    _, exactly = run(access(Linear(np.ones(NUM_COLUMNS))))
    assert robust.value >= exactly.value - 0.003


def test_a_planted_brittle_system_is_told_from_a_robust_one():
    # The label is in columns 0 to 5; a system that leans on a thin margin in every column at once breaks at once.
    thin = access(Linear(np.ones(NUM_COLUMNS)), labels=None)
    inputs = thin.inputs
    inputs[:, :NUM_COLUMNS] = 0.5 + 0.02 * np.sign(inputs[:, :1] - 0.5)
    thin.labels[:] = (inputs[:, 0] > 0.5).astype(np.int64)
    _, brittle = run(thin)
    assert brittle.high < 0.02
    wide = access(Linear(np.ones(NUM_COLUMNS)))
    wide.inputs[:, :NUM_COLUMNS] = 0.5 + 0.4 * np.sign(wide.inputs[:, :1] - 0.5)
    wide.labels[:] = (wide.inputs[:, 0] > 0.5).astype(np.int64)
    _, solid = run(wide)
    assert solid.value == 1.0
    assert solid.low > 0.99


def test_gradients_find_what_luck_does_not():
    # 24 columns must all move the same way: random points of the box seldom agree.
    handle = access(Linear(np.ones(NUM_COLUMNS)))
    side = np.sign(handle.inputs[:, :1] - 0.5)
    handle.inputs[:, :NUM_COLUMNS] = 0.5 + 0.04 * side
    handle.labels[:] = (side[:, 0] > 0).astype(np.int64)
    found, robust = run(handle)
    assert found["attack_success", "attack=gradient"].value == 1.0
    assert found["attack_success", "attack=random"].high < 0.02
    assert found["broken_only_at_random", ""].value == 0
    assert robust.value == 0


def test_planted_gradient_masking_is_found_and_the_number_withheld():
    # Rounded inputs have gradient 0 everywhere.
    found, robust = run(access(Linear(np.ones(NUM_COLUMNS), quantum=0.01)))
    assert robust.value is None
    assert "at most" in robust.reason
    assert found["attack_success", "attack=random"].value > 0
    assert found["zero_gradient_rate", ""].value > 0.5
    assert ("robust_accuracy", "sex=f") not in found


def test_a_saturated_softmax_hides_nothing():
    # The gradient of its cross-entropy is 0 in float32 for most rows; what is climbed is that over 1 - p.
    found, robust = run(access(Linear(np.ones(NUM_COLUMNS), sharpness=1e5)))
    _, plain = run(access(Linear(np.ones(NUM_COLUMNS))))
    assert found["zero_gradient_rate", ""].value == 0
    assert robust.value == pytest.approx(plain.value, abs=0.003)


def test_declared_cost_is_a_bound_that_a_system_without_a_break_reaches_and_rows_leave_when_broken():
    sizes = Sizes(num_test=600, num_train=600, num_units=7, num_outputs=2)
    handle = access(Linear(np.ones(NUM_COLUMNS)))
    handle.inputs[:, :NUM_COLUMNS] = 0.5 + 0.4 * np.sign(handle.inputs[:, :1] - 0.5)
    handle.labels[:] = (handle.inputs[:, 0] > 0.5).astype(np.int64)
    run(handle)
    # Points that come back (both starts end in the same corner) are remembered and cost nothing.
    assert 0.5 * most_rows(sizes)["gradient_attack"] < handle.ledger.total <= most_rows(sizes)["gradient_attack"]
    brittle = access(Linear(np.ones(NUM_COLUMNS)))
    brittle.inputs[:, :NUM_COLUMNS] = 0.5 + 0.001 * np.sign(brittle.inputs[:, :1] - 0.5)
    brittle.labels[:] = (brittle.inputs[:, 0] > 0.5).astype(np.int64)
    run(brittle)
    # one look, one gradient for all, one step to break, and random tries until each row has had luck
    assert brittle.ledger.total < 12 * NUM_ROWS


def test_whole_numbers_stay_whole_and_categories_stay():
    handle = access(Linear(np.ones(NUM_COLUMNS) / 100), whole=True)
    kept = handle.inputs.copy()
    run(handle)
    assert np.array_equal(handle.inputs, kept)
    points = np.concatenate(handle.system.model.seen)
    assert np.array_equal(points, np.round(points))
    assert points[:, :-1].min() >= 0
    assert points[:, :-1].max() <= 100
    assert set(np.unique(points[:, -1])) == {0.0, 1.0}


def test_random_tries_are_the_same_for_two_systems():
    handles = [access(Linear(np.ones(NUM_COLUMNS))), access(Linear(-np.ones(NUM_COLUMNS)))]
    draws = [handle.rng("gradient attack").random(5) for handle in handles]
    assert np.array_equal(*draws)
    assert np.array_equal(*(handle.rows(50) for handle in handles))


def test_errored_examples_are_not_robust_and_stay_in_the_denominator():
    class Failing(Linear):
        def forward(self, inputs):
            logits = super().forward(inputs)
            return torch.where(inputs[:, -1:] > 0, torch.nan, 1.0) * logits

    found, robust = run(access(Failing(np.ones(NUM_COLUMNS))))
    assert robust.attempted == NUM_ROWS
    assert 200 < robust.errored < 300
    assert robust.value < 0.6
    assert found["robust_accuracy", "radius=0"].value == pytest.approx(1 - robust.errored / NUM_ROWS)


def test_nothing_to_move_is_undefined_with_a_reason():
    handle = access(Linear(np.ones(NUM_COLUMNS)))
    bare = tuple(Column(column.name, column.kind, column.categories) for column in COLUMNS)
    data = SimpleNamespace(**{**vars(handle.system.data), "columns": bare})
    moved = Query(System("s", handle.system.model, data, handle.system.task, Argmax()), Workspace(), Ledger(10**9))
    (only,) = gradient_attack(moved, make_draws(b"key", "split", [handle.labels], num_draws=10))
    assert only.value is None
    assert "plausible range" in only.reason


def test_a_narrow_band_far_from_the_row_is_found_as_often_as_by_luck():
    # One skewed column answers wrongly only in a narrow band inside the box: long steps from end to end jump over it.
    class Band(Linear):
        def forward(self, inputs):
            bump = torch.exp(-(((inputs[:, 0] - 0.53) / 0.006) ** 2))
            return torch.stack([bump * 4 - 2, torch.zeros(len(inputs))], dim=1)

    handle = access(Band(np.ones(NUM_COLUMNS)), labels=np.ones(600, dtype=np.int64))
    handle.inputs[:, 0] = 0.5
    found, robust = run(handle)
    assert robust.value is not None
    assert found["attack_success", "attack=gradient"].value > 0.95


def test_nothing_answered_rightly_is_zero_and_leaves_the_shares_undefined():
    handle = access(Linear(-np.ones(NUM_COLUMNS)))
    found, robust = run(handle)
    assert robust.value == 0
    assert found["attack_success", "attack=gradient"].value is None
    assert found["attack_success", "attack=gradient"].reason


def test_checkpoints_are_those_of_the_paper():
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99, 105]


# ------------------------------------------------------------------ pictures


class Pixels(torch.nn.Module):
    """logit = mean of (pixel - 128) / 10, with a sign for each pixel."""

    def __init__(self, signs, quantum: float = 0.0) -> None:
        super().__init__()
        self.signs, self.quantum = torch.tensor(signs, dtype=torch.float32), quantum

    def forward(self, inputs):
        pixels = inputs.float()
        if self.quantum:
            pixels = torch.round(pixels / self.quantum) * self.quantum
        margin = ((pixels - 128) * self.signs).mean(dim=(1, 2, 3)) / 10
        return torch.stack([-margin / 2, margin / 2], dim=1)


def pictures(channels: int, *, quantum: float = 0.0) -> Query:
    rng = np.random.default_rng(0)
    signs = np.where(rng.random((channels, 6, 6)) < 0.5, -1.0, 1.0)
    towards = 40 * rng.normal(size=(300, 1, 1, 1)) * signs  # margins of all sizes
    inputs = np.clip(128 + towards + rng.normal(0, 20, (300, channels, 6, 6)), 0, 255).astype(np.uint8)
    labels = (((inputs.astype(float) - 128) * signs).mean(axis=(1, 2, 3)) > 0).astype(np.int64)
    column = Column("image", "image", low=0, high=255, shape=(channels, 6, 6))
    split = Split(inputs, labels, Groups(np.zeros((300, 0), dtype=np.int64), ()), np.arange(300))
    data = Data("d", (column,), "y", (), {"train": split, "test": split}, ("a", "b"), "b")
    system = System(
        "s", Model(Pixels(signs, quantum), f"{channels} {quantum}"), data, Classification(("a", "b"), "b"), Argmax()
    )
    return Query(system, Workspace(), Ledger(10**9), "gradient_attack")


@pytest.mark.parametrize(("channels", "levels"), [(1, 25), (3, 8)])
def test_on_a_linear_system_of_pixels_the_exact_robust_accuracy_is_found(channels, levels):
    # 0.1 of 255 is 25 whole levels, 8/255 is 8: the worst picture moves every pixel by that, against its sign.
    handle = pictures(channels)
    draws = make_draws(b"key", "split", [handle.labels], num_draws=50)
    found = {(one.metric, one.slice): one for one in gradient_attack(handle, draws)}
    rows = handle.rows(200)
    inputs, signs = handle.inputs[rows].astype(float), handle.system.model.module.signs.numpy()
    side = np.where(handle.labels[rows] == 1, -1, 1)[:, None, None, None]
    worst = np.clip(inputs + side * signs * levels, 0, 255)
    margin = ((worst - 128) * signs).mean(axis=(1, 2, 3))
    exact = ((margin > 0) == (handle.labels[rows] == 1)).mean()
    assert found["robust_accuracy", ""].value == pytest.approx(exact, abs=0.006)
    assert 0.02 < exact < 0.98
    assert found["attack_success", "attack=gradient"].value >= found["attack_success", "attack=random"].value
    points = np.concatenate([one for one in handle.system.model.seen if one.dtype == np.float32])
    assert np.array_equal(points, np.round(points))
    assert 0 <= points.min() <= points.max() <= 255
    sizes = Sizes(300, 300, 16, 2, "image")
    assert handle.ledger.total <= most_rows(sizes)["gradient_attack"]


def test_masked_gradients_of_pictures_are_withheld_too():
    draws = make_draws(b"key", "split", [pictures(1).labels], num_draws=50)
    found = {(one.metric, one.slice): one for one in gradient_attack(pictures(1, quantum=16.0), draws)}
    assert found["robust_accuracy", ""].value is None
    assert found["zero_gradient_rate", ""].value == 1.0
