"""Choosing a model: planted answers are found, equal candidates give the cheapest, and everything is said."""

from __future__ import annotations

import numpy as np
import pytest

from assay.choose import Budget, Candidate, Target, candidates_for, choose, search
from assay.choose.curves import doubling, outlook
from assay.choose.gains import gains
from assay.errors import UsageError
from assay.estimation.estimate import Estimate
from assay.models import Architecture
from assay.stats import make_draws
from assay.train.settings import TrainSettings
from assay.train.system import default_recipe
from assay.values import Array, Column, Data, Groups, Split, modality
from support import small_images, small_texts

COLUMNS = tuple(Column(f"x{place}", "numeric", low=-3, high=3) for place in range(4))


def table(rule: str, num_rows: int = 1500, *, noise: float = 0.5, seed: int = 0) -> Data:
    """A table whose label follows a line, or the product of two columns, which no line can."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(num_rows, 4)).astype(np.float32)
    signal = inputs[:, 0] - inputs[:, 1] if rule == "line" else 2 * inputs[:, 0] * inputs[:, 1]
    labels = (signal + noise * rng.logistic(size=num_rows) > 0).astype(np.int64)
    whole = Split(inputs, labels, Groups(np.zeros((num_rows, 0), np.int16), ()), np.arange(1, num_rows + 1))
    ends = [0, num_rows * 6 // 10, num_rows * 8 // 10, num_rows]
    names = ("train", "validation", "test")
    splits = {name: whole.take(np.arange(ends[i], ends[i + 1])) for i, name in enumerate(names)}
    return Data(rule, COLUMNS, "label", (), splits, ("no", "yes"), "yes")


def mlp(name: str, hidden: list[int]) -> Candidate:
    settings = TrainSettings(epochs=6, batch_size=64, learning_rate=1e-2)
    return Candidate(name, Architecture("mlp", {"hidden": hidden}), settings)


THREE = (mlp("line", []), mlp("small", [16]), mlp("large", [64, 64]))


def test_a_line_needs_no_hidden_layer() -> None:
    found = choose(table("line", 1000), target=Target("accuracy", margin=0.01), candidates=THREE[:2])
    assert found.candidate.name == "line"
    assert found.outlook.advice != "a bigger model"
    assert {row.name for row in found.rows} == {"line", "small"}
    assert "chosen" in next(row.fate for row in found.rows if row.name == "line")
    assert len(found.rows[0].curve) >= 2


@pytest.mark.slow
def test_a_product_needs_one_and_the_line_is_shown_to_be_worse() -> None:
    found = choose(table("product", 3000), target=Target("accuracy"), candidates=THREE)
    assert found.candidate.name in ("small", "large")
    line = next(row for row in found.rows if row.name == "line")
    assert "dropped" in line.fate or line.fate == "worse than the best"


def test_what_is_over_the_budget_is_never_trained() -> None:
    found = choose(table("product", 800), target=Target("log_loss"), budget=Budget(parameters=20), candidates=THREE)
    assert found.candidate.name == "line"
    over = [row for row in found.rows if row.fate.startswith("over the budget")]
    assert {row.name for row in over} == {"small", "large"}
    assert all(row.curve == () for row in over)
    assert found.outlook.bigger_model is None
    with pytest.raises(UsageError, match="no candidate fits"):
        choose(table("line", 300), target=Target("accuracy"), budget=Budget(parameters=2), candidates=THREE)


def test_when_the_minutes_run_out_it_says_so_and_still_answers() -> None:
    found = choose(table("line", 800), target=Target("accuracy"), budget=Budget(minutes=1e-4), candidates=THREE)
    assert found.is_partial
    assert "minutes ran out" in found.reason
    assert found.model.num_bytes


def test_minutes_that_run_out_among_the_seeds_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock jumps once the other seed has begun: no half round counts, and the choice says that it is partial."""
    late: list[float] = []
    real, train = search.time.perf_counter, search._Search.train
    monkeypatch.setattr(search.time, "perf_counter", lambda: real() + sum(late))

    def trained(self: search._Search, candidate: Candidate, share: float, seed: int) -> tuple[int, Array]:
        late.extend([1e6] if seed else [])
        return train(self, candidate, share, seed)

    monkeypatch.setattr(search._Search, "train", trained)
    budget = Budget(minutes=10)
    found = choose(table("line", 400), target=Target("accuracy"), budget=budget, candidates=(THREE[0], mlp("b", [])))
    assert found.is_partial
    assert "every seed" in found.reason


def test_a_candidate_is_never_trained_for_less_than_its_settings_say() -> None:
    long = Candidate("long", Architecture("mlp", {"hidden": []}), TrainSettings(epochs=55))
    data = table("line", 300)
    assert long.recipe(data).settings.epochs == 55
    assert long.recipe(data, share=1 / 9).settings.epochs == 55
    assert mlp("short", []).recipe(data, share=1 / 9).settings.epochs == 18


def test_candidates_train_as_the_default_recipe_does() -> None:
    for data in (table("line", 300), small_images(60), small_texts(60)):
        assert {one.settings for one in candidates_for(data)} == {default_recipe(data).settings}


def test_wrong_requests_say_everything() -> None:
    with pytest.raises(UsageError, match="metric") as told:
        Target("f1", margin=-1)  # type: ignore[arg-type]
    assert len(told.value.problems) == 2
    with pytest.raises(UsageError, match="milliseconds"):
        Budget(milliseconds=0)
    with pytest.raises(UsageError, match="no squared_error"):
        choose(table("line", 300), target=Target("squared_error"), candidates=THREE)
    with pytest.raises(UsageError, match="two candidates"):
        choose(table("line", 300), target=Target("accuracy"), candidates=(THREE[0], THREE[0]))


class Fixed:
    """A model whose logits are given."""

    offers = frozenset({"query"})
    outputs_are = "logits"
    digest = "fixed"
    num_bytes = 0

    def __init__(self, logits: Array) -> None:
        self.logits = logits

    def outputs(self, inputs: Array) -> Array:
        return self.logits


def test_gains_average_to_the_metric_and_an_errored_row_counts_as_wrong() -> None:
    from assay.tasks import task_of

    data = table("line", 400)
    test, task = data.splits["test"], task_of(data)
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(len(test), 2)).astype(np.float32)
    logits[3] = np.nan
    answers = np.where(np.arange(len(test)) == 3, -1, np.nan_to_num(logits).argmax(axis=1))
    model = Fixed(logits)
    assert gains(Target("accuracy"), model, test, task).mean() == pytest.approx((answers == test.labels).mean())
    recalls = [(answers[test.labels == label] == label).mean() for label in (0, 1)]
    assert gains(Target("balanced_accuracy"), model, test, task).mean() == pytest.approx(np.mean(recalls))
    losses = -gains(Target("log_loss"), model, test, task)
    assert losses[3] == pytest.approx(np.delete(losses, 3).max())


@pytest.mark.parametrize("exponent", [0.3, 0.7])
def test_a_doubling_is_foretold_where_errors_follow_a_power_law(exponent: float) -> None:
    """Errors a + b n^-c at n/9, n/3 and n: the change from n to 2 n is known in closed form."""
    sizes = [1000, 3000, 9000]
    rng = np.random.default_rng(0)
    common = rng.normal(size=400) * 0.01  # rows differ, their differences between models do not
    columns = [common - common.mean() - (0.1 + 5 * size**-exponent) for size in sizes]
    draws = make_draws(b"key", "split", [np.zeros(400, dtype=np.int64)], num_draws=100)
    found = doubling(draws, sizes, columns)
    assert found.value == pytest.approx(5 * (9000**-exponent - 18000**-exponent), rel=1e-6)


def test_a_flat_curve_promises_nothing() -> None:
    draws = make_draws(b"key", "split", [np.zeros(500, dtype=np.int64)], num_draws=300)
    rng = np.random.default_rng(2)
    columns = [1.0 * (rng.random(500) < 0.8) for _ in range(3)]
    found = doubling(draws, [100, 300, 900], columns)
    assert found.low is not None
    assert found.low <= 0


def test_advice_follows_the_intervals() -> None:
    def about(value: float, half: float) -> Estimate:
        return Estimate(value, value - half, value + half, "test")

    assert outlook(about(0.05, 0.01), about(0.0, 0.01), margin=0.0)[0] == "more data"
    assert outlook(about(0.0, 0.01), about(0.05, 0.01), margin=0.0)[0] == "a bigger model"
    assert outlook(about(-0.01, 0.005), about(-0.02, 0.005), margin=0.0)[0] == "neither"
    assert outlook(about(0.0, 0.05), about(0.0, 0.05), margin=0.0)[0] == "unclear"
    assert outlook(about(0.005, 0.003), about(0.0, 0.003), margin=0.01)[0] == "neither"


@pytest.mark.parametrize("make", [small_images, small_texts])
def test_every_modality_has_candidates_that_can_be_built(make: object) -> None:
    data = make()  # type: ignore[operator]
    found = candidates_for(data)
    assert len(found) >= 4
    assert len({one.name for one in found}) == len(found)
    for one in found:
        module = one.recipe(data).make_module(data.splits["train"], data, 0)
        assert sum(parameter.numel() for parameter in module.parameters()) > 0
    assert modality(data.columns) in ("image", "text")


@pytest.mark.slow
def test_equal_candidates_give_the_cheapest_nearly_always() -> None:
    """Under the null, all lines: a dearer one is chosen at most about one time in twenty."""
    wide = []
    for epochs in (6, 7, 8):
        settings = TrainSettings(epochs=epochs, batch_size=64, learning_rate=1e-2)
        wide.append(Candidate(f"line {epochs}", Architecture("mlp", {"hidden": []}), settings))
    wrong = 0
    for seed in range(20):
        found = choose(table("line", 1000, seed=seed), target=Target("accuracy"), candidates=wide, seed=seed)
        lags = [row.behind for row in found.rows if row.behind is not None]
        wrong += any(lag.low is not None and lag.low > 0 for lag in lags)
    assert wrong <= 3
