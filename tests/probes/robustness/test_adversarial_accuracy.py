"""The attacks reach what is known in closed form, say when gradients are masked, and stay where they may."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from assay.access.handles import Query
from assay.observe import Ledger, Workspace, loss_gradients
from assay.probes.robustness._apgd import Climbs, checkpoints, climb, cross_entropy, towards
from assay.probes.robustness._ensemble import EFFORTS, Found, _Hunt, search, why_masked
from assay.probes.robustness._fab import approach, nearest
from assay.probes.robustness._scope import Scope
from assay.probes.robustness._square import bump, scatter, share_of
from assay.probes.robustness.adversarial_accuracy import adversarial_accuracy, most_rows
from assay.registry import Sizes
from assay.stats import make_draws
from assay.tasks import Argmax, Classification
from assay.units.ranges import ranges
from assay.values import Column, Data, Groups, Split, System

NUM_COLUMNS = 12
SEX = Column("sex", "categorical", categories=("f", "m"))
RADIUS = {"linf": 0.05, "l2": 0.1}


class Linear(torch.nn.Module):
    """Logits (-m, m) / 2 of the margin m = sharpness * w . (x - 1/2), on x rounded to multiples of `quantum`."""

    def __init__(self, weights, *, sharpness: float = 1.0, quantum: float = 0.0) -> None:
        super().__init__()
        self.weights = torch.tensor(weights, dtype=torch.float32)
        self.sharpness, self.quantum = sharpness, quantum

    def forward(self, inputs):
        inputs = inputs.flatten(1)
        if self.quantum:
            inputs = torch.round(inputs / self.quantum) * self.quantum
        margin = self.sharpness * (inputs[:, : len(self.weights)] - 0.5) @ self.weights
        return torch.stack([-margin / 2, margin / 2], dim=1)


class Constant(torch.nn.Module):
    def forward(self, inputs):
        return torch.tensor([[0.0, 1.0]]) + 0 * inputs.flatten(1)[:, :1]


@dataclass(frozen=True)
class Model:
    module: torch.nn.Module
    digest: str
    offers: frozenset = frozenset({"query", "gradient", "meter"})
    outputs_are: str = "logits"
    num_bytes: int = 0
    seen: list = field(default_factory=list)

    def outputs(self, inputs):
        self.seen.append(np.array(inputs))
        with torch.no_grad():
            return self.module(torch.from_numpy(np.array(inputs, dtype=np.float32))).numpy()


def handle_on(module, inputs, labels, columns, classes=("a", "b")) -> Query:
    groups = Groups(np.arange(len(labels))[:, None] % 2, (SEX,))
    split = Split(inputs, labels, groups, np.arange(1, len(labels) + 1))
    data = Data("d", columns, "y", (SEX,), {"train": split, "test": split}, classes, classes[1])
    system = System("s", Model(module, str(id(module))), data, Classification(classes, classes[1]), Argmax())
    return Query(system, Workspace(), Ledger(10**9), "adversarial_accuracy")


def table(module, *, num: int = 80, spread: float = 0.25, whole: bool = False, labels=None) -> Query:
    rng = np.random.default_rng(0)
    scale = 100 if whole else 1
    inputs = (0.5 + rng.uniform(-spread, spread, (num, NUM_COLUMNS))) * scale
    inputs = np.column_stack([np.round(inputs) if whole else inputs, rng.integers(0, 2, num)]).astype(np.float32)
    columns = tuple(Column(f"x{index}", "numeric", low=0.0, high=float(scale)) for index in range(NUM_COLUMNS))
    columns = (*columns, Column("job", "categorical", categories=("a", "b")))
    if labels is None:
        labels = (Linear(weights())(torch.from_numpy(inputs / scale)).argmax(dim=1)).numpy()
    return handle_on(module, inputs, labels, columns)


def weights():
    return np.linspace(-1, 1, NUM_COLUMNS) + 0.1


def exact(handle: Query, norm: str) -> float:
    """Right where |margin| exceeds what the radius allows: radius times the dual norm of the weights."""
    margin = np.abs((handle.inputs[:, :NUM_COLUMNS].astype(np.float64) - 0.5) @ weights())
    dual = np.abs(weights()).sum() if norm == "linf" else np.sqrt(np.square(weights()).sum())
    return float((margin > RADIUS[norm] * dual).mean())


def run(handle: Query, **options):
    codes = [handle.labels, handle.groups.codes[:, 0]]
    draws = make_draws(b"key", "split", codes, num_draws=100)
    return {(one.metric, one.slice): one for one in adversarial_accuracy(handle, draws, **options)}


def scope_on(handle: Query, norm: str, *, radius: float | None = None, rounded: bool = True) -> Scope:
    known = ranges(handle.columns, handle.inputs)
    rows = np.arange(len(handle.labels))
    return Scope.of(handle, rows, known, norm=norm, radius=radius or RADIUS[norm], rounded=rounded)


# ------------------------------------------------------------------ planted defects


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_on_a_linear_system_the_exact_robust_accuracy_is_found(norm):
    handle = table(Linear(weights()))
    found = run(handle, norms=(norm,))
    where = "" if norm == "linf" else "norm=l2"
    robust, truth = found["adversarial_accuracy", where], exact(handle, norm)
    assert 0.2 < truth < 0.8
    assert robust.value == pytest.approx(truth, abs=0.5 / 80)
    assert robust.low < truth < robust.high
    assert robust.replicates.shape == (100,)
    assert found["single_step_overstatement", where].value <= 0.02  # one step is enough on a line
    if norm == "linf":
        parts = [found["adversarial_accuracy", f"sex={name}"] for name in "fm"]
        assert sum(one.value * one.attempted for one in parts) == pytest.approx(robust.value * 80)
        assert found["adversarial_accuracy", "radius=0"].value == 1


class Crowd(Linear):
    """Rows asked together are answered b more readily than a row asked alone."""

    def forward(self, inputs):
        return super().forward(inputs) + torch.tensor([0.0, 0.1]) * (len(inputs) > 1)


def test_a_row_that_breaks_only_beside_others_holds():
    handle = table(Crowd(weights()))
    found = search(scope_on(handle, "linf"), EFFORTS["table"])
    margin = np.abs((handle.inputs[:, :NUM_COLUMNS].astype(np.float64) - 0.5) @ weights())
    reach, rows_of_a = RADIUS["linf"] * np.abs(weights()).sum(), handle.labels == 0
    alone = margin <= reach
    assert (rows_of_a & ~alone & (margin <= reach + 0.1)).sum() >= 3, "what only a batch breaks"
    assert found.right.all()
    for attack, broken in found.broken.items():
        assert not (broken & ~alone).any(), attack
    assert np.array_equal(~found.holds[rows_of_a], alone[rows_of_a])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_each_attack_by_gradient_reaches_it_alone(norm):
    handle = table(Linear(weights()))
    scope, rows, targets = scope_on(handle, norm), np.arange(80), 1 - handle.labels
    start = scope.random_start(np.random.default_rng(0), rows).__getitem__
    broken = [
        climb(scope, Climbs(rows, np.full(80, -1), start), num_steps=20).broken,
        climb(scope, Climbs(rows, targets, start), num_steps=20).broken,
        approach(scope, rows, targets=targets, num_steps=20),
    ]
    for one in broken:
        assert 1 - one.mean() == pytest.approx(exact(handle, norm), abs=1.5 / 80)
    lucky = scatter(scope, rows, num_tries=300, rng=np.random.default_rng(1))
    assert exact(handle, norm) - 1e-9 <= 1 - lucky.mean() < exact(handle, norm) + 0.2


@pytest.mark.parametrize(
    "planted", [{"quantum": 0.04}, pytest.param({"quantum": 0.02, "sharpness": 50.0}, marks=pytest.mark.slow)]
)
def test_masked_gradients_are_flagged_and_the_number_withheld(planted):
    found = run(table(Linear(weights(), **planted), num=40), norms=("linf",))
    robust = found["adversarial_accuracy", ""]
    assert robust.value is None
    assert robust.reason.startswith("gradients are masked")
    assert "at most" in robust.reason
    assert found["zero_gradient_rate", ""].value == 1
    assert found["attack_success", "attack=square"].value > 0.1
    assert found["attack_success", "attack=apgd_t"].value < 0.1  # where the random start is wrong already
    assert ("adversarial_accuracy", "sex=f") not in found


def test_a_temperature_that_drowns_the_loss_does_not_stop_the_attacks():
    handle = table(Linear(weights(), sharpness=1e6))
    _, _, gradients = loss_gradients(handle.system.model.module, handle.inputs, handle.labels)
    assert (gradients == 0).all(axis=1).mean() > 0.9  # the loss itself gives nothing to follow
    found = run(handle, norms=("linf",))
    assert found["adversarial_accuracy", ""].value == pytest.approx(exact(handle, "linf"), abs=0.5 / 80)


def test_a_constant_system_is_robust_and_useless_and_that_is_said():
    found = run(table(Constant(), num=20), norms=("linf",))
    robust, clean = found["adversarial_accuracy", ""], found["adversarial_accuracy", "radius=0"]
    assert robust.value == clean.value < 0.7
    assert "same answer" in robust.reason


def masks(ahead: int, behind: int, name: str) -> str:
    """`name` alone breaks `ahead` of 100 rows, climbing alone `behind`, both ten."""
    place, everyone = np.arange(100), np.ones(100, dtype=bool)
    found = Found(everyone, ~everyone, place % 2, ~everyone, everyone)
    both = (place >= 50) & (place < 60)
    found.note(name, place, (place < ahead) | both)
    found.note("apgd_ce", place, ((place >= 90) & (place < 90 + behind)) | both)
    return why_masked(found)


@pytest.mark.parametrize(("name", "words"), [("fgsm", "single step"), ("random", "points"), ("square", "squares")])
def test_what_beats_climbing_gradients_is_named(name, words):
    assert words in masks(5, 0, name)
    assert "broke 5 rows" in masks(5, 0, name)
    assert masks(4, 0, name) == ""  # 1 in 16: chance
    assert masks(8, 6, name) == ""


def test_a_net_overfitted_to_one_step_is_overstated_by_it():
    # Inside the corner that one step reaches the answer is right again: only steps that stop short find the gap.
    class Ridge(Linear):
        def forward(self, inputs):
            gone = (inputs[:, :NUM_COLUMNS] - 0.5).abs().mean(dim=1)
            margin = 1 - 4 * torch.exp(-(((gone - 0.02) / 0.008) ** 2))
            return torch.stack([margin, -margin], dim=1) / 2

    handle = table(Ridge(weights()), spread=0.0, labels=np.zeros(80, dtype=np.int64))
    handle.inputs[:, :NUM_COLUMNS] += np.random.default_rng(3).uniform(-0.002, 0.002, (80, NUM_COLUMNS))
    found = run(handle, norms=("linf",))
    assert found["attack_success", "attack=fgsm"].value == 0
    assert found["adversarial_accuracy", ""].value == 0
    assert found["single_step_overstatement", ""].low > 0.9


# ------------------------------------------------------------------ where the search may go


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("whole", [False, True])
def test_every_point_that_breaks_a_row_is_allowed(norm, whole):
    handle = table(Linear(weights() / 100, sharpness=1.0), whole=whole)
    handle.inputs[0, 0], handle.inputs[1, 1] = np.nan, handle.columns[1].high * 1.2  # missing; out of range
    scope = scope_on(handle, norm)
    assert scope.low[0, 0] == scope.high[0, 0]
    assert scope.high[1, 1] == 0  # it may move back, never further out
    rng, at = np.random.default_rng(0), np.arange(80)
    for share in (0.3, 5.0):
        steps = scope.clip(share * scope.radius * rng.standard_normal(scope.low.shape), at)
        raw = scope.raw(scope.settle(steps.astype(np.float32), at), at)
        width = np.array([one.high - one.low for one in handle.columns[:-1]])
        gone = np.nan_to_num((raw - handle.inputs)[:, :-1] / width)
        assert (np.abs(gone).max(axis=1) <= scope.radius + 1e-6).all()
        if norm == "l2":
            assert (np.sqrt(np.square(gone).sum(axis=1)) <= scope.radius + 1e-6).all()
        assert np.array_equal(raw[:, -1], handle.inputs[:, -1])
        assert np.isnan(raw[0, 0])
        assert raw[1, 1] <= handle.inputs[1, 1]
        rest = raw[2:, :-1]
        assert (rest >= -1e-6).all()
        if whole:
            assert np.array_equal(rest, np.round(rest))
    assert np.array_equal(scope.raw(np.zeros_like(scope.low), at), handle.inputs, equal_nan=True)


@pytest.mark.slow
def test_declared_cost_is_a_bound_and_two_runs_agree():
    handle = table(Linear(weights()), num=20)
    kept = handle.inputs.copy()
    first, second = run(handle), run(table(Linear(weights()), num=20))
    assert np.array_equal(handle.inputs, kept)
    assert {key: one.value for key, one in first.items()} == {key: one.value for key, one in second.items()}
    declared = most_rows(Sizes(num_test=60, num_train=60, num_units=13, num_outputs=2))
    assert 0 < handle.ledger.total <= declared["adversarial_accuracy"]
    masked = table(Linear(weights(), quantum=0.04), num=20)
    run(masked)
    assert masked.ledger.total <= declared["adversarial_accuracy"]


def test_errored_rows_are_not_robust_and_stay_in_the_denominator():
    class Failing(Linear):
        def forward(self, inputs):
            return torch.where(inputs[:, -1:] > 0, torch.nan, 1.0) * super().forward(inputs)

    handle = table(Failing(weights()), num=30)
    found = run(handle, norms=("linf",))
    robust = found["adversarial_accuracy", ""]
    assert robust.attempted == 30
    assert robust.errored == int((handle.inputs[:, -1] > 0).sum()) > 0
    assert robust.value <= 1 - robust.errored / 30


def test_nothing_right_and_nothing_to_move():
    handle = table(Linear(-weights()))
    found = run(handle, norms=("linf",))
    assert found["adversarial_accuracy", ""].value == 0
    assert found["attack_success", "attack=fgsm"].value is None
    bare = tuple(replace(one, low=None, high=None) for one in handle.columns)
    still = handle_on(Linear(weights()), handle.inputs, handle.labels, bare)
    found = run(still, norms=("linf",))
    assert "plausible range" in found["adversarial_accuracy", ""].reason


# ------------------------------------------------------------------ the parts


def test_projection_is_the_shortest_step_to_the_plane():
    rng = np.random.default_rng(0)
    for _ in range(20):
        size = int(rng.integers(2, 8))
        w, p = rng.normal(size=size) * (rng.random(size) < 0.8), rng.random(size)
        need, low, high = float(rng.normal()), np.zeros(size), np.ones(size)
        found = {
            norm: nearest(p[None], w[None], np.array([need]), low=low[None], high=high[None], norm=norm)[0]
            for norm in ("linf", "l2")
        }
        most = np.where(w * np.sign(need) > 0, high - p, p - low) @ np.abs(w)
        if most < abs(need):  # out of reach: as far as it goes
            for step in found.values():
                assert step @ w == pytest.approx(np.sign(need) * most, abs=1e-6)
            continue
        limits = [(a - b, c - b) for a, b, c in zip(low, p, high, strict=True)]
        flat = linprog(
            [*np.zeros(size), 1.0],
            A_ub=np.block([[np.eye(size), -np.ones((size, 1))], [-np.eye(size), -np.ones((size, 1))]]),
            b_ub=np.zeros(2 * size),
            A_eq=[[*w, 0.0]],
            b_eq=[need],
            bounds=[*limits, (0, None)],
        )
        assert found["linf"] @ w == pytest.approx(need, abs=1e-6)
        assert np.abs(found["linf"]).max() == pytest.approx(flat.fun, abs=1e-6)
        round_ = minimize(
            lambda d: d @ d,
            found["linf"],
            jac=lambda d: 2 * d,
            bounds=limits,
            constraints={"type": "eq", "fun": lambda d, w=w, need=need: d @ w - need, "jac": lambda d, w=w: w},
            method="SLSQP",
        )
        assert found["l2"] @ w == pytest.approx(need, abs=1e-6)
        assert np.square(found["l2"]).sum() == pytest.approx(round_.fun, abs=1e-5)


@pytest.mark.parametrize("num_classes", [2, 3, 4, 10])
def test_objectives_are_the_formulas_and_weights_their_derivatives(num_classes):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, num_classes)) * 3
    labels = rng.integers(0, num_classes, 6)
    targets = (labels + rng.integers(1, num_classes, 6)) % num_classes
    values = torch.tensor(logits, requires_grad=True)
    rows = torch.arange(6)
    gap = values[rows, targets] - values[rows, labels]
    ordered = values.sort(dim=1).values
    share = gap if num_classes < 4 else gap / (ordered[:, -1] - (ordered[:, -3] + ordered[:, -4]) / 2)
    loss = torch.nn.functional.cross_entropy(values, torch.tensor(labels), reduction="none")
    for (found, slopes), truth in ((towards(logits, labels, targets), share), (cross_entropy(logits, labels), loss)):
        (expected,) = torch.autograd.grad(truth.sum(), values, retain_graph=True)
        expected = expected.numpy()
        if truth is loss:  # up to a factor a row
            assert np.log1p(np.exp(found)) == pytest.approx(loss.detach().numpy(), rel=1e-6)
            expected = expected / -expected[np.arange(6), labels][:, None]
        else:
            assert found == pytest.approx(truth.detach().numpy(), rel=1e-6)
            expected = expected * (gap / share).detach().numpy()[:, None]
        assert slopes == pytest.approx(expected, abs=1e-6)


def test_schedules_are_those_of_the_papers():
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99, 105]
    shares = [share_of(attempt, 5000) for attempt in (0, 10, 11, 51, 201, 501, 1001, 2001, 4001)]
    assert shares == [0.8 / 2**power for power in (0, 0, 1, 2, 3, 4, 5, 6, 7)]
    tile = bump(5, np.random.default_rng(0))
    assert np.square(tile).sum() == pytest.approx(1)
    assert {np.sign(one) for one in (tile.max(), tile.min())} == {1, -1}


def test_climbs_that_share_passes_come_out_as_they_do_alone(monkeypatch):
    handle = table(Linear(weights(), quantum=0.0), num=30)
    scope = scope_on(handle, "l2", radius=0.06)
    at = np.tile(np.arange(30), 2)
    targets = np.concatenate([np.full(30, -1), 1 - handle.labels])
    start = scope.random_start(np.random.default_rng(0), at)
    together = climb(scope, Climbs(at, targets, start.__getitem__), num_steps=12)
    monkeypatch.setattr("assay.access.handles._rows_a_batch", lambda inputs: 7)
    packed = climb(scope, Climbs(at, targets, start.__getitem__), num_steps=12)
    rows = [slice(place, place + 1) for place in range(60)]
    alone = [climb(scope, Climbs(at[one], targets[one], start[one].__getitem__), num_steps=12) for one in rows]
    values = np.array([one.values[0] for one in alone])
    for found in (together, packed):
        by_row = found.broken.reshape(2, 30).any(axis=0)
        assert np.array_equal(by_row, np.array([one.broken[0] for one in alone]).reshape(2, 30).any(axis=0))
        left = np.tile(~by_row, 2)
        assert found.values[left] == pytest.approx(values[left], rel=1e-5)
        assert 0.1 < by_row.mean() < 0.9


class Well(torch.nn.Module):
    """Wrong within a narrow well around `place` of the first four columns; out of its sight the gradient is 0."""

    def __init__(self, place: float, size: float) -> None:
        super().__init__()
        self.place, self.size = place, size

    def forward(self, inputs):
        gone = ((inputs[:, :4] - self.place) / self.size).square().sum(dim=1)
        margin = 1 - 4 * torch.exp(-gone)
        return torch.stack([margin, -margin], dim=1) / 2


def test_steps_that_broke_rows_break_others_that_see_no_slope():
    handle = table(Well(0.6, 0.003), spread=0.0, labels=np.zeros(80, dtype=np.int64))
    away = np.where(np.arange(80) < 50, 0.025, 0.045)  # the first see the well from where they are, the others do not
    handle.inputs[:, :4] = 0.6 - away[:, None] + np.random.default_rng(0).uniform(-0.004, 0.004, (80, 4))
    hunt = _Hunt.begin(scope_on(handle, "linf", radius=0.05, rounded=False), EFFORTS["table"])
    hunt.quickly()
    assert 0 < len(hunt.pool) <= EFFORTS["table"].pool
    before = hunt.holding()
    hunt.from_shared_steps()
    assert len(before) > 10
    assert len(hunt.holding()) < len(before) / 4
    again = climb(
        hunt.scope,
        Climbs(before, np.full(len(before), -1), hunt.scope.random_start(np.random.default_rng(1), before).__getitem__),
        num_steps=60,
    )
    assert again.broken.mean() < 0.5  # from random starts, three times as long


# ------------------------------------------------------------------ pictures


@pytest.mark.parametrize("norm", ["linf", pytest.param("l2", marks=pytest.mark.slow)])
def test_pictures_are_attacked_in_shares_of_their_range_without_rounding(norm):
    rng = np.random.default_rng(0)
    signs = np.where(rng.random(64) < 0.5, -1.0, 1.0)
    inputs = np.clip(128 + 10 * rng.normal(size=(60, 1, 1, 1)) + rng.normal(0, 30, (60, 1, 8, 8)), 60, 195)
    inputs = inputs.astype(np.uint8)
    column = Column("image", "image", low=0, high=255, shape=(1, 8, 8))
    module = Linear(signs / 255)  # w . (x - 1/2) in grey levels: the margin in shares of the range
    margin = (inputs.reshape(60, -1) - 0.5) @ signs / 255
    labels = (margin > 0).astype(np.int64)
    handle = handle_on(module, inputs, labels, (column,))
    radius = {"linf": 0.01, "l2": 0.08}[norm]
    truth = (np.abs(margin) > radius * (64 if norm == "linf" else 8)).mean()
    scope = scope_on(handle, norm, radius=radius, rounded=False)
    found = search(scope, replace(EFFORTS["image"], watched_squares=100, near_squares=50, full=20))
    assert 0.1 < truth < 0.9
    assert found.masked == ""
    assert found.holds.mean() == pytest.approx(truth, abs=1.1 / 60)
    points = np.concatenate([one for one in handle.system.model.seen if one.dtype == np.float32])
    assert not np.array_equal(points, np.round(points))
    assert 0 <= points.min() <= points.max() <= 255
    assert found.broken["square"].any()
    seen = [one.reshape(-1, 64) for one in handle.system.model.seen if len(one) and one.dtype == np.float32]
    gone = np.concatenate([np.abs(one[:, None] - inputs.reshape(1, 60, 64)) / 255 for one in seen[:400]])
    length = gone.max(axis=2) if norm == "linf" else np.sqrt(np.square(gone).sum(axis=2))
    assert length.min(axis=1).max() <= radius * (1 + 1e-5)  # each point lies within the radius of some row
