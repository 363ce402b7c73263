"""Effects of columns, on models whose effects are known."""

from __future__ import annotations

import numpy as np
import pytest

from assay.access.handles import Query
from assay.observe import Ledger, Workspace
from assay.probes.transparency import _effects
from assay.probes.transparency.feature_effects import feature_effects
from assay.stats import Draws, make_draws
from assay.tasks import Identity, Regression
from assay.values import Array, Column, Data, Groups, Measurement, Split, System

COLUMNS = (
    Column("first", "numeric"), Column("twin", "numeric"), Column("kind", "categorical", ("a", "b", "c")),
    Column("nothing", "numeric"),
)  # fmt: skip


class Rule:
    offers = frozenset({"query"})
    outputs_are = "values"
    num_bytes = None

    def __init__(self, name: str, rule) -> None:
        self.rule, self.digest = rule, name

    def outputs(self, inputs: Array) -> Array:
        return np.asarray(self.rule(inputs), dtype=np.float32)[:, None]


def split(num: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    first = rng.uniform(0, 1, num)
    inputs = np.column_stack(
        [first, first + 0.05 * rng.normal(size=num), rng.integers(0, 3, num), rng.normal(size=num)]
    )
    return Split(
        inputs.astype(np.float32), np.zeros(num, np.float32), Groups(np.zeros((num, 0), np.int16), ()), np.arange(num)
    )


def setting(name: str, rule, seed: int = 2) -> tuple[Query, Draws]:
    splits = {"train": split(400, 1), "test": split(600, seed)}
    data = Data("planted", COLUMNS, "label", (), splits, (), None)
    query = Query(System(name, Rule(name, rule), data, Regression(), Identity()), Workspace(), Ledger(10**7), "test")
    return query, make_draws(b"k", f"s{seed}", [np.zeros(600, int)], num_draws=200)


def named(found: list[Measurement]) -> dict[tuple[str, str], Measurement]:
    return {(one.metric, one.slice): one for one in found}


def additive(x: Array) -> Array:
    return 3 * x[:, 0] + np.array([0.0, 2.0, 1.0])[x[:, 2].astype(int)]


def test_additive_effects_are_found_whole_and_nothing_is_nothing() -> None:
    query, draws = setting("additive", additive)
    found = named(feature_effects(query, query.system.task, draws))
    reach = np.ptp(query.known[:, 0])
    for metric in ("accumulated_effect_range", "partial_dependence_range"):
        assert found[metric, "feature=first"].value == pytest.approx(3 * reach, rel=0.01)
        assert found[metric, "feature=kind"].value == pytest.approx(2, abs=1e-5)
        assert abs(found[metric, "feature=nothing"].value) < 1e-5
        assert abs(found[metric, "feature=twin"].value) < 1e-5
    curve = [found["accumulated_effect", f"feature=kind & value={one}"].value for one in "abc"]
    np.testing.assert_allclose(np.subtract(curve, curve[0]), [0, 2, 1], atol=1e-5)
    assert found["accumulated_effect_range", "feature=first"].attempted == 500


def test_twins_are_told_apart_where_partial_dependence_leaves_the_data() -> None:
    """f jumps only where two columns that always agree disagree: no row is there, but set values are."""
    query, draws = setting("off the data", lambda x: 5.0 * (np.abs(x[:, 0] - x[:, 1]) > 0.4))
    found = named(feature_effects(query, query.system.task, draws))
    assert found["accumulated_effect_range", "feature=first"].value < 0.3
    assert found["partial_dependence_range", "feature=first"].value > 1


def test_the_curve_is_the_one_written_out() -> None:
    query, draws = setting("curved", lambda x: x[:, 0] ** 2 * (1 + x[:, 3] ** 2))
    found = named(feature_effects(query, query.system.task, draws))
    edges = np.unique(np.quantile(query.known[:, 0].astype(float), np.linspace(0, 1, 11)))
    rows = query.inputs[query.rows(500)].astype(float)
    at = np.clip(np.searchsorted(edges, rows[:, 0], side="left") - 1, 0, 9)
    means = [((edges[k + 1] ** 2 - edges[k] ** 2) * (1 + rows[at == k, 3] ** 2)).mean() for k in range(10)]
    curve = np.concatenate([[0], np.cumsum(means)])
    counts = np.bincount(at, minlength=10)
    curve -= ((curve[1:] + curve[:-1]) / 2 * counts).sum() / counts.sum()
    told = {where for metric, where in found if metric == "accumulated_effect" and where.startswith("feature=first")}
    assert told == {f"feature=first & value={edge:.6g}" for edge in edges[1:-1]}, "the ends are cells of one row"
    for edge, height in zip(edges[1:-1], curve[1:-1], strict=True):
        assert found["accumulated_effect", f"feature=first & value={edge:.6g}"].value == pytest.approx(height, abs=1e-4)


@pytest.mark.slow
def test_noise_has_no_range_on_average() -> None:
    """Null data: an answer that is noise, whatever the columns are, is rarely said to have an effect."""
    called, values = 0, []
    for seed in range(60):
        query, draws = setting(
            f"noise {seed}", lambda x, s=seed: np.sin(1e5 * (x * [1, 3.3, 7.1, 2.7]).sum(axis=1) + s), seed=10 + seed
        )
        found = named(feature_effects(query, query.system.task, draws))["accumulated_effect_range", "feature=first"]
        values.append(found.value)
        called += found.low > 0
    assert called <= 6
    assert abs(np.mean(values)) < 3 * np.std(values) / 60**0.5


def test_missing_numbers_and_one_value_take_no_step() -> None:
    steps = _effects.numeric_steps(np.ones(5), np.array([1.0, np.nan]))
    assert (steps.at == -1).all()
    none = _effects.category_steps(np.array([-1.0, 0.0]), np.zeros(2), 3)
    assert (none.at == -1).all()
