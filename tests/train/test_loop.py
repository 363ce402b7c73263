from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from assay.errors import ModelError, UsageError
from assay.models import MLP
from assay.models.adapters.module import ModuleModel
from assay.tasks import Classification, Regression
from assay.train import Hooks, TrainSettings, fit, task_loss
from assay.train.loop import learning_rate
from assay.train.workers import Alone
from assay.values import Array, Column, Groups, Split
from support import COLUMNS, make_split

TASK = Classification(("no", "yes"), "yes")
QUICK = TrainSettings(epochs=2, batch_size=64)
TRAIN = make_split(500, 1, 1)


def module(seed: int = 0, *, dropout: float = 0.0) -> MLP:
    torch.manual_seed(seed)
    made = MLP(COLUMNS, hidden=(8,), dropout=dropout)
    made.fit_encoding(TRAIN)
    return made


def trained(split: Split = TRAIN, *, settings: TrainSettings = QUICK, seed: int = 0, hooks: Hooks | None = None) -> MLP:
    made = module()
    fit(made, split, task=TASK, settings=settings, seed=seed, hooks=hooks)
    return made


def weights(made: torch.nn.Module) -> Array:
    return np.concatenate([p.detach().numpy().ravel() for p in made.parameters()])


def test_same_seed_same_bits_whatever_the_threads_and_the_global_generator() -> None:
    first, second = module(dropout=0.3), module(dropout=0.3)
    fit(first, TRAIN, task=TASK, settings=QUICK, seed=7)
    torch.manual_seed(999)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        fit(second, TRAIN, task=TASK, settings=QUICK, seed=7)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert ModuleModel(first).digest == ModuleModel(second).digest
    third = module(dropout=0.3)
    fit(third, TRAIN, task=TASK, settings=QUICK, seed=8)
    assert ModuleModel(first).digest != ModuleModel(third).digest


def test_training_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    made = module(dropout=0.5)
    torch.manual_seed(5)
    fit(made, TRAIN, task=TASK, settings=QUICK)
    assert torch.equal(torch.rand(3), expected)


def test_one_step_is_adamw_written_out() -> None:
    """One full-batch step against the update rule of Loshchilov and Hutter 2019, algorithm 2."""
    made, settings = module(), TrainSettings(epochs=1, batch_size=500, warmup=0, weight_decay=0.1, max_grad_norm=1e9)
    reference = module()
    loss = torch.nn.functional.cross_entropy(reference(torch.from_numpy(TRAIN.inputs)), torch.from_numpy(TRAIN.labels))
    gradients = torch.autograd.grad(loss, list(reference.parameters()))
    facts = fit(made, TRAIN, task=TASK, settings=settings)
    rate = settings.learning_rate
    for parameter, gradient, new in zip(reference.parameters(), gradients, made.parameters(), strict=True):
        expected = parameter * (1 - rate * 0.1) - rate * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(new, expected, rtol=1e-4, atol=1e-5)
    assert facts["train_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert facts["steps"] == 1


def test_gradients_are_clipped_to_the_norm() -> None:
    seen: list[float] = []

    def watch(made: torch.nn.Module) -> None:
        seen.append(float(torch.sqrt(sum(p.grad.square().sum() for p in made.parameters()))))

    trained(settings=replace(QUICK, max_grad_norm=0.01), hooks=Hooks(after_step=watch))
    assert max(seen) <= 0.01 * 1.001
    seen.clear()
    trained(settings=replace(QUICK, max_grad_norm=1e9), hooks=Hooks(after_step=watch))
    assert max(seen) > 0.01, "the test's model must have had gradients worth clipping"


def test_weights_act_like_copies() -> None:
    """Weight 2 on a row gives the same full-batch gradient as the row twice."""
    half = TRAIN.take(np.arange(100))
    doubled = replace(half, weights=np.where(np.arange(100) < 30, 2.0, 1.0).astype(np.float32))
    copied = half.take(np.r_[np.arange(100), np.arange(30)])
    settings = TrainSettings(epochs=1, batch_size=1000, warmup=0)
    np.testing.assert_allclose(
        weights(trained(doubled, settings=settings)), weights(trained(copied, settings=settings)), atol=2e-6
    )
    assert not np.allclose(
        weights(trained(doubled, settings=settings)), weights(trained(half, settings=settings)), atol=1e-5
    )


def test_weight_zero_removes_a_row() -> None:
    split = replace(TRAIN, weights=(np.arange(500) < 400).astype(np.float32))
    poisoned = replace(split, labels=np.where(np.arange(500) < 400, TRAIN.labels, 1 - TRAIN.labels))
    assert np.array_equal(weights(trained(split)), weights(trained(poisoned)))


def test_soft_targets_equal_hard_ones_when_they_are_hard() -> None:
    soft = replace(TRAIN, labels=np.eye(2, dtype=np.float32)[TRAIN.labels])
    np.testing.assert_allclose(weights(trained(soft)), weights(trained()), atol=1e-5)


def test_label_smoothing_is_its_formula() -> None:
    outputs = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(20)
    logs = torch.log_softmax(outputs, dim=1)
    targets = torch.eye(2)[torch.from_numpy(TRAIN.labels[:20])] * 0.8 + 0.1
    expected = -(targets * logs).sum(dim=1)
    torch.testing.assert_close(task_loss(TRAIN, TASK, label_smoothing=0.2)(outputs, rows), expected)


def test_loss_hook_gets_positions_in_the_split() -> None:
    met: list[int] = []

    def loss(outputs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        met.extend(rows.tolist())
        return task_loss(TRAIN, TASK)(outputs, rows)

    same = trained(hooks=Hooks(loss=loss))
    assert sorted(met) == sorted([*range(500)] * 2)
    assert np.array_equal(weights(same), weights(trained()))


def test_perturb_hook_changes_what_is_trained_on() -> None:
    moved = trained(hooks=Hooks(perturb=lambda _, inputs, rows: inputs + 1))
    assert not np.array_equal(weights(moved), weights(trained()))
    same = trained(hooks=Hooks(perturb=lambda _, inputs, rows: inputs))
    assert np.array_equal(weights(same), weights(trained()))


@pytest.mark.parametrize("at", [1, 5])
def test_a_loss_that_is_not_finite_stops_within_the_step(at: int) -> None:
    calls = 0
    applied = 0

    def loss(outputs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return task_loss(TRAIN, TASK)(outputs, rows) * (math.nan if calls == at else 1.0)

    def count(_: torch.nn.Module) -> None:
        nonlocal applied
        applied += 1

    with pytest.raises(ModelError, match=rf"loss became nan at step {at}\b"):
        trained(hooks=Hooks(loss=loss, after_step=count))
    assert applied == at - 1


def test_a_gradient_that_is_not_finite_stops_within_the_step() -> None:
    def loss(outputs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return torch.sqrt((outputs * 0).sum(dim=1))  # the value is 0, its slope is infinite times 0

    with pytest.raises(ModelError, match="gradient became nan at step 1"):
        trained(hooks=Hooks(loss=loss))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_input_that_is_not_finite_stops_at_the_step_that_meets_it(value: float) -> None:
    inputs = TRAIN.inputs.copy()
    inputs[17, 0] = value
    order = torch.randperm(len(TRAIN), generator=torch.Generator().manual_seed(0)).tolist()
    at = order.index(17) // QUICK.batch_size + 1
    with pytest.raises(ModelError, match=rf"the loss became (nan|inf) at step {at}\b"):
        trained(replace(TRAIN, inputs=inputs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.where(np.arange(500) == 41, 2, TRAIN.labels)}, "label of row 42 is not a class index"),
        ({"labels": np.where(np.arange(500) == 41, -1, TRAIN.labels)}, "label of row 42 is not a class index"),
        ({"weights": np.full(500, -1, dtype=np.float32)}, "negative"),
        ({"weights": np.zeros(500, dtype=np.float32)}, "only zeros"),
        ({"weights": np.full(500, np.nan, dtype=np.float32)}, "non-finite"),
    ],
)
def test_splits_that_cannot_be_trained_on(change: dict[str, Array], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        trained(replace(TRAIN, **change))


def test_all_problems_are_reported_at_once_and_empty_splits_refused() -> None:
    bad = replace(TRAIN, labels=TRAIN.labels + 5, weights=np.zeros(500, dtype=np.float32))
    with pytest.raises(ModelError) as caught:
        trained(bad)
    assert len(caught.value.problems) == 2
    with pytest.raises(ModelError, match="no rows"):
        trained(TRAIN.take(np.arange(0)))
    regression = replace(TRAIN, labels=np.where(np.arange(500) == 3, np.nan, 1.0).astype(np.float32))
    with pytest.raises(ModelError, match="row 4 is not a finite number"):
        fit(module(), regression, task=Regression(), settings=QUICK)


def test_a_module_with_the_wrong_number_of_outputs() -> None:
    with pytest.raises(ModelError, match=r"shape \(64, 2\).*\(64, 3\)"):
        fit(module(), TRAIN, task=Classification(("a", "b", "c")), settings=QUICK)


def test_early_stopping_keeps_the_best_weights() -> None:
    validation = make_split(300, 2, 501)
    told: dict[int, float] = {}  # by step: a slow machine is told of the last step of an epoch twice
    rows = torch.arange(300)
    made = module()

    def watch(what: str, done: int, total: int) -> None:
        if "loss" not in what or done % 16:  # the line before the first step, and those between two epochs
            return
        with torch.no_grad():
            outputs = made.eval()(torch.from_numpy(validation.inputs))
            told[done] = task_loss(validation, TASK)(outputs, rows).mean().item()
        made.train()

    settings = TrainSettings(epochs=60, batch_size=32, learning_rate=0.05, patience=3, curve="constant")
    facts = fit(made, TRAIN, task=TASK, settings=settings, hooks=Hooks(progress=watch, validation=validation))
    losses = list(told.values())
    assert facts["epochs"] < 60
    assert facts["epochs"] == int(np.argmin(losses)) + 1 + 3
    assert facts["validation_loss"] == pytest.approx(min(losses), rel=1e-6)
    with torch.no_grad():
        now = task_loss(validation, TASK)(made(torch.from_numpy(validation.inputs)), rows).mean().item()
    assert now == pytest.approx(min(losses), rel=1e-6)


def test_learning_rate_curve() -> None:
    settings = TrainSettings(learning_rate=1.0, warmup=0.2)
    rates = [learning_rate(step, 100, settings) for step in range(1, 101)]
    assert rates[:20] == pytest.approx([step / 20 for step in range(1, 21)])
    assert max(rates) == rates[19] == 1.0
    assert all(a > b for a, b in itertools.pairwise(rates[19:]))
    assert 0 < rates[-1] < 0.001
    straight = [learning_rate(step, 100, replace(settings, curve="linear")) for step in range(21, 101)]
    assert np.ptp(np.diff(straight)) < 1e-12
    assert learning_rate(77, 100, replace(settings, curve="constant")) == 1.0


def test_settings_report_every_wrong_number() -> None:
    with pytest.raises(UsageError) as caught:
        TrainSettings(epochs=0, learning_rate=-1, warmup=1.0, num_threads=0)
    assert len(caught.value.problems) == 4


def test_facts_are_of_this_run() -> None:
    made = module()
    facts = fit(made, TRAIN, task=TASK, settings=QUICK)
    assert facts["steps"] == 2 * 8
    assert facts["examples"] == 1000
    assert facts["num_train"] == 500
    assert facts["examples_per_second"] == pytest.approx(1000 / facts["seconds"])
    assert facts["cpu_seconds"] > 0
    assert facts["energy"]["provenance"] in {"counter", "power-integrated", "estimated", "not measured"}
    assert not made.training


def test_it_learns_what_can_be_learned() -> None:
    """A planted linear rule: error close to the noise, and no better than chance on labels without a rule."""
    settings = TrainSettings(epochs=8, batch_size=64, learning_rate=0.01)
    test = make_split(2000, 5, 1)
    clean = trained(make_split(1500, 4, 1), settings=settings)
    accuracy = (ModuleModel(clean).outputs(test.inputs).argmax(axis=1) == test.labels).mean()
    signal = 0.05 * (test.inputs[:, 0] - 50) + 0.04 * (test.inputs[:, 1] - 50) + 0.6 * (test.inputs[:, 3] - 0.5)
    best = ((signal > 0) == test.labels).mean()
    assert accuracy > best - 0.02
    noise = replace(TRAIN, labels=np.random.default_rng(0).integers(0, 2, 500))
    blind = (ModuleModel(trained(noise, settings=settings)).outputs(test.inputs).argmax(axis=1) == test.labels).mean()
    assert abs(blind - 0.5) < 0.15


def test_regression_finds_the_least_squares_line() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(800, 2)).astype(np.float32)
    labels = (300 + 40 * inputs[:, 0] - 25 * inputs[:, 1] + rng.normal(0, 5, 800)).astype(np.float32)
    split = Split(inputs, labels, Groups(np.zeros((800, 0), dtype=np.int16), ()), np.arange(1, 801))
    columns = (Column("a", "numeric"), Column("b", "numeric"))
    made = MLP(columns, hidden=(), num_outputs=1, scale_outputs=True)
    made.fit_encoding(split)
    settings = TrainSettings(epochs=60, batch_size=100, learning_rate=0.05, weight_decay=0.0)
    fit(made, split, task=Regression(), settings=settings)
    design = np.c_[np.ones(800), inputs]
    solution = np.linalg.lstsq(design, labels, rcond=None)[0]
    np.testing.assert_allclose(ModuleModel(made).outputs(inputs)[:, 0], design @ solution, atol=0.5)


def test_each_worker_drops_units_of_its_own():
    """A CPU's generator takes the lowest 32 bits of a seed: ranks above them all drew the same."""

    class Second(Alone):
        rank = 1

    first, second = module(dropout=0.5), module(dropout=0.5)
    for made, workers in ((first, Alone()), (second, Second())):
        fit(made, TRAIN, task=TASK, settings=QUICK, seed=0, hooks=Hooks(workers=workers))
    assert not np.allclose(weights(first), weights(second), atol=1e-3)
