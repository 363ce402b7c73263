"""The four probes of explanations, on models whose explanations are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from assay.access.handles import Query
from assay.digests import digest_of
from assay.explain import Masked, masked_passes, shapley
from assay.observe import Ledger, Workspace
from assay.probes.transparency import _masked
from assay.probes.transparency._curves import areas as _areas
from assay.probes.transparency._curves import gains as _gains
from assay.probes.transparency._curves import mean_row
from assay.probes.transparency._jitter import jittered
from assay.probes.transparency.explanation_faithfulness import explanation_faithfulness
from assay.probes.transparency.explanation_stability import explanation_stability
from assay.probes.transparency.lime_attributions import lime_attributions
from assay.probes.transparency.shapley_attributions import shapley_attributions
from assay.registry import PROBES, Sizes
from assay.stats import Draws, make_draws
from assay.tasks import Argmax, Classification, Identity, Regression
from assay.values import Array, Column, Data, Groups, Measurement, Split, System, texts
from support import columns_over

FAMILY = (shapley_attributions, lime_attributions, explanation_faithfulness, explanation_stability)
COLUMNS = (
    Column("strong", "numeric", low=-3, high=3),
    Column("weak", "numeric", low=-3, high=3),
    Column("job", "categorical", ("a", "b", "c")),
    Column("dummy", "numeric", low=0, high=90),
)


class Formula:
    """A model that is one line of numpy."""

    offers = frozenset({"query"})
    outputs_are = "logits"
    num_bytes = None

    def __init__(self, name: str, rule: Callable[[Array], Array]) -> None:
        self.rule, self.digest, self.num_rows = rule, digest_of(["formula", name]), 0

    def outputs(self, inputs: Array) -> Array:
        self.num_rows += len(inputs)
        return np.asarray(self.rule(inputs), dtype=np.float32)


def pair(score: Array) -> Array:
    return np.stack([-score / 2, score / 2], axis=1)


RULES: dict[str, Callable[[Array], Array]] = {
    "known": lambda x: pair(2 * x[:, 0] + 0.4 * x[:, 1] + 0.8 * (x[:, 2] == 1)),
    "constant": lambda x: pair(0 * x[:, 0] + 0.3),
    "rough": lambda x: pair(4 * np.sign(np.sin(60 * x[:, 0])) + 0.1 * x[:, 1]),
    "failing": lambda x: pair(np.where(np.isin(x[:, 0], list(BROKEN)), np.nan, x[:, 0] + x[:, 1])),
    "three": lambda x: np.stack([x[:, 0], x[:, 1], 0.5 * (x[:, 2] == 1)], axis=1),
    "value": lambda x: (3 * x[:, 0] - x[:, 1])[:, None],
}
BROKEN: set[float] = set()


def table(num_rows: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    inputs = np.stack(
        [
            rng.normal(size=num_rows),
            rng.normal(size=num_rows),
            rng.integers(0, 3, num_rows),
            rng.integers(0, 90, num_rows),
        ],
        axis=1,
    )
    groups = Groups(np.zeros((num_rows, 0), np.int16), ())
    return Split(inputs.astype(np.float32), np.zeros(num_rows, np.int64), groups, np.arange(num_rows))


def setting(name: str, classes: tuple[str, ...] = ("no", "yes"), num_test: int = 200) -> tuple[Query, Draws, Formula]:
    splits = {"train": table(400, 1), "validation": table(10, 2), "test": table(num_test, 3)}
    data = Data("planted", COLUMNS, "label", (), splits, classes, classes[-1] if len(classes) == 2 else None)
    task = Classification(classes, data.positive) if classes else Regression()
    model = Formula(name, RULES[name])
    system = System(name, model, data, task, Argmax() if classes else Identity())
    query = Query(system, Workspace(), Ledger(10**7), "test")
    return query, make_draws(b"owner", data.digest, [splits["test"].labels], num_draws=200), model


def values_of(found: list[Measurement]) -> dict[tuple[str, str], float | None]:
    return {(one.metric, one.slice): one.value for one in found}


def test_known_columns_are_found_and_the_dummy_gets_nothing() -> None:
    query, draws, _ = setting("known")
    found = values_of(shapley_attributions(query, query.system.task, draws))
    strong, weak, job, dummy = (found["attribution", f"feature={one.name}"] for one in COLUMNS)
    assert strong > 3 * weak > 0.03
    assert strong > 2 * job > 0.06
    assert dummy < 1e-7  # outputs are float32
    assert 0 < found["attribution_error", ""] < 0.1


def test_the_error_it_states_is_the_error_it_has() -> None:
    query, draws, _ = setting("known")
    said = values_of(shapley_attributions(query, query.system.task, draws))["attribution_error", ""]
    rows = query.inputs[query.rows(64)]
    exact = masked_passes(
        query.probabilities, rows, columns_over(query.background), num_coalitions=1600, rng=query.rng("any"), target=1
    )
    assert exact.place is None
    truth, values = shapley(exact).values, shapley(_masked.passes(query, query.system.task)).values
    was = np.sqrt(((values - truth) ** 2).sum() / (truth**2).sum())
    assert 0.7 * was < said < 2 * was


def enumerated_ridge(masked: Masked, row: int) -> Array:
    """LIME's normal equations with one unpenalised intercept per background row, written out."""
    blocks, num_columns = masked.source.shape[1], masked.num_columns
    design, outputs, weights = [], [], []
    for block, subset in product(range(blocks), product([0, 1], repeat=num_columns)):
        where = sum(bit << place for place, bit in enumerate(subset))
        line = np.concatenate([[masked.empty[row, block]], masked.outputs[row, block], [masked.full[row]]])
        design.append([*subset, *np.eye(blocks)[block]])
        outputs.append(line[where])
        weights.append(np.exp(-((1 - np.mean(subset)) ** 2) / 0.75**2))
    lines, weight = np.array(design, dtype=float), np.array(weights)
    weight *= len(weight) / weight.sum()
    penalty = np.diag([1.0] * num_columns + [1e-12] * blocks)
    return np.linalg.solve((lines * weight[:, None]).T @ lines + penalty, (lines * weight[:, None]).T @ outputs)[:4]


def test_local_weights_are_the_weighted_ridge_they_say_they_are() -> None:
    query, _, _ = setting("known")
    rows = query.inputs[:3]
    rng = np.random.default_rng
    exact = masked_passes(
        query.probabilities, rows, columns_over(query.background[:7]), num_coalitions=98, rng=rng(0), target=1
    )
    assert exact.place is None
    truth = np.stack([enumerated_ridge(exact, row) for row in range(3)])
    np.testing.assert_allclose(_masked.local_weights(exact), truth, atol=1e-9)
    many = masked_passes(
        query.probabilities, rows, columns_over(query.background[:70]), num_coalitions=900, rng=rng(0), target=1
    )
    full = masked_passes(
        query.probabilities, rows, columns_over(query.background[:70]), num_coalitions=980, rng=rng(0), target=1
    )
    assert many.place is not None
    assert full.place is None
    sampled, whole = _masked.local_weights(many), _masked.local_weights(full)
    assert np.abs(sampled - whole).max() < 0.1 * np.abs(whole).max()


def test_lime_and_shapley_tell_one_story_of_an_additive_model() -> None:
    query, draws, _ = setting("value", classes=())
    found = values_of(lime_attributions(query, query.system.task, draws))
    attributions = values_of(shapley_attributions(query, query.system.task, draws))
    for column in COLUMNS:
        slice_ = f"feature={column.name}"
        assert found["lime_weight", slice_] == pytest.approx(attributions["attribution", slice_], rel=0.1, abs=0.02)
    assert found["lime_shapley_agreement", ""] > 0.8


def test_regression_explains_the_predicted_value_in_its_own_unit() -> None:
    query, draws, _ = setting("value", classes=())
    found = shapley_attributions(query, query.system.task, draws)
    rows = query.inputs[query.rows(64)]
    expected = np.abs(3 * (rows[:, 0] - query.background[:, 0].mean())).mean()
    assert found[0].value == pytest.approx(expected, rel=0.02)
    assert found[0].unit == "unit of the target"
    assert all(one.value is not None for probe in FAMILY for one in probe(query, query.system.task, draws))


def test_more_than_two_classes_explain_the_most_probable_one() -> None:
    query, draws, _ = setting("three", classes=("a", "b", "c"))
    likely = query.probabilities(query.inputs[query.rows(64)]).argmax(axis=1)
    assert (_masked.targets(query, query.system.task) == likely).all()
    assert len(set(likely.tolist())) == 3
    for probe in FAMILY:
        assert all(one.value is not None for one in probe(query, query.system.task, draws))


def test_faithful_orders_gain_and_reversed_orders_lose() -> None:
    query, draws, _ = setting("known")
    found = {(one.metric, one.slice): one for one in explanation_faithfulness(query, query.system.task, draws)}
    for slice_ in ("", "baseline=mean", "baseline=background"):
        assert found["faithfulness_gain", slice_].low > 0.03
        assert found["lime_faithfulness_gain", slice_].low > 0.03
    headline = found["faithfulness_gain", ""]
    assert headline.headline
    assert headline.value == pytest.approx((found["insertion_gain", ""].value + found["deletion_gain", ""].value) / 2)
    values = shapley(_masked.passes(query, query.system.task)).values
    ranks = [np.argsort(np.argsort(one, axis=1), axis=1) for one in (values, -values, values, -values)]
    target, rows = _masked.targets(query, query.system.task), query.inputs[_masked.sample(query)]
    gains, names = _gains(_areas(query, rows, query.background[:4], ranks=np.stack(ranks, axis=1), target=target))
    forward, backward = names.index(("lime_faithfulness_gain", "")), names.index(("faithfulness_gain", ""))
    assert gains[:, forward].mean() > 0.05
    np.testing.assert_allclose(gains[:, forward], -gains[:, backward], atol=1e-9)


def test_areas_are_those_of_curves_walked_one_step_at_a_time() -> None:
    query, _, _ = setting("known", num_test=5)
    rows, target = query.inputs[query.rows(64)], np.ones(5, dtype=int)
    ranks = np.random.default_rng(0).random((5, 3, 4)).argsort(axis=2)
    baselines = query.background[:2]
    areas = _areas(query, rows, baselines, ranks=ranks, target=target)
    for row, order, base, is_deletion in product(range(5), range(3), range(2), (0, 1)):
        curve = []
        for num in range(5):
            first = ranks[row, order] < num
            inputs = np.where(first ^ bool(is_deletion), rows[row], baselines[base])
            curve.append(query.probabilities(inputs[None])[0, 1])
        assert areas[row, order, base, is_deletion] == pytest.approx(np.trapezoid(curve, dx=1 / 4), abs=1e-6)


def test_random_orders_gain_nothing() -> None:
    """Null data: an explanation that is noise is rarely called faithful."""
    query, draws, _ = setting("known")
    task, called = query.system.task, 0
    target, rows = _masked.targets(query, task), query.inputs[_masked.sample(query)]
    sample = draws.of(query.rows(64))
    for seed in range(40):
        ranks = np.random.default_rng(seed).random((64, 4, 4)).argsort(axis=2)
        gains, names = _gains(_areas(query, rows, query.background[:2], ranks=ranks, target=target))
        place = names.index(("faithfulness_gain", ""))
        estimate = _masked.row_means(sample, gains[:, [place]], np.ones(64, dtype=bool), bounds=(-1, 1))[0]
        called += estimate.low > 0 or estimate.high < 0
    assert called <= 6  # 2 expected of 40; more than 6 once in 70 runs of another key


def test_a_constant_model_has_nothing_to_explain_and_says_so() -> None:
    query, draws, _ = setting("constant")
    task = query.system.task
    found = {(one.metric, one.slice): one for probe in FAMILY for one in probe(query, task, draws)}
    assert found["attribution", "feature=strong"].value == 0
    assert found["attribution_error", ""].value is None
    assert found["attribution_error", ""].reason == "every attribution is 0"
    assert found["lime_shapley_agreement", ""].value is None
    assert "all attributions are equal" in found["lime_shapley_agreement", ""].reason
    assert found["faithfulness_gain", ""].value == pytest.approx(0, abs=1e-7)
    assert found["explanation_stability", ""].value == 1


def test_a_rough_model_is_less_stable_than_a_smooth_one() -> None:
    found = {}
    for name in ("known", "rough"):
        query, draws, _ = setting(name)
        found[name] = {one.metric: one for one in explanation_stability(query, query.system.task, draws)}
    smooth, rough = found["known"]["explanation_stability"], found["rough"]["explanation_stability"]
    assert smooth.value > 0.95
    assert rough.high < smooth.low
    # Neither is told from the other by drawing coalitions again: what differs is the model.
    assert min(one["explanation_repeatability"].value for one in found.values()) > 0.9


def test_noise_moves_numbers_only_within_their_range_and_keeps_integers() -> None:
    query, _, _ = setting("known")
    rows = query.rows(64)
    moved, inputs = jittered(query, rows), query.inputs[rows]
    assert (moved[:, 2] == inputs[:, 2]).all()
    assert (moved[:, 3] == np.round(moved[:, 3])).all()
    assert (moved[:, 3] != inputs[:, 3]).any()
    assert (moved[:, 3] >= 0).all()
    spread = np.subtract(*np.quantile(query.background[:, 0], [0.75, 0.25]))
    assert np.std(moved[:, 0] - inputs[:, 0]) == pytest.approx(0.05 * spread, rel=0.3)


def test_failed_rows_stay_in_the_denominator() -> None:
    query, draws, _ = setting("failing")
    BROKEN.update(query.inputs[query.rows(64)[:5], 0].tolist())
    try:
        for probe in FAMILY:
            for one in probe(query, query.system.task, draws):
                assert (one.attempted, one.scored, one.errored) == (64, 59, 5), one.metric
                assert one.value is not None
        BROKEN.update(query.inputs[:, 0].tolist())
        broken, _, _ = setting("failing")
        nothing = [one for probe in FAMILY for one in probe(broken, broken.system.task, draws)]
        assert all(one.value is None and one.errored == 64 and one.reason for one in nothing)
    finally:
        BROKEN.clear()


@pytest.mark.parametrize("num_test", [200, 40])
def test_the_cost_declared_is_the_cost_run(num_test: int) -> None:
    sizes = Sizes(num_test, 400, 4, 2)
    costs = {probe.__name__: dict(PROBES[probe.__name__].cost(sizes)) for probe in FAMILY}
    for probe in FAMILY:
        query, draws, model = setting("known", num_test=num_test)
        probe(query, query.system.task, draws)
        assert model.num_rows == sum(costs[probe.__name__].values())
    query, draws, model = setting("known", num_test=num_test)
    for probe in FAMILY:
        probe(query, query.system.task, draws)
    together = {name: rows for cost in costs.values() for name, rows in cost.items()}
    assert model.num_rows == sum(together.values())  # the masked passes run once for all four
    assert together["masked"] == min(num_test, 64) * 25 * 6 + min(num_test, 64) + 100


def test_measurements_are_repeatable_to_the_digest() -> None:
    for probe in FAMILY:
        digests = []
        for _ in range(2):
            query, draws, _ = setting("known")
            digests.append([one.digest for one in probe(query, query.system.task, draws)])
        assert digests[0] == digests[1]


def test_the_mean_row_has_means_and_modes() -> None:
    background = np.array([[1, 2, 2, 0], [3, 2, 2, 0], [5, 2, 1, 3]], dtype=np.float32)
    assert mean_row(background, COLUMNS).tolist() == [3, 2, 2, 1]


def test_rows_can_be_compared_where_comparison_means_something() -> None:
    first = np.array([[1.0, 2, 3], [0, 0, 0], [0, 0, 0], [1, 0, 0]])
    second = np.array([[1.0, 2, 9], [0, 0, 0], [1, 2, 3], [0, 1, 0]])
    assert _masked.cosine(first, second).tolist() == pytest.approx([32 / np.sqrt(14 * 86), 1, 0, 0])
    assert _masked.rank_correlation(first, second)[0] == pytest.approx(1)
    assert np.isnan(_masked.rank_correlation(first, second)[1:3]).all()
    assert _masked.top_overlap(first, second, num=1).tolist() == [1, 1, 0, 0]


def test_one_column_is_explained_by_itself() -> None:
    query, draws, _ = setting("known")
    data = query.system.data
    narrow = {name: replace(split, inputs=split.inputs[:, :1]) for name, split in data.splits.items()}
    model = Formula("one column", lambda x: pair(x[:, 0]))
    system = replace(query.system, model=model, data=replace(data, columns=COLUMNS[:1], splits=narrow))
    query = Query(system, Workspace(), Ledger(10**6), "test")
    found = {(one.metric, one.slice): one for probe in FAMILY for one in probe(query, system.task, draws)}
    assert found["attribution_error", ""].value == 0
    assert found["top_units_kept", ""].value is None
    assert found["faithfulness_gain", ""].value == pytest.approx(0, abs=1e-7)
    assert model.num_rows == sum(
        {k: v for p in FAMILY for k, v in PROBES[p.__name__].cost(Sizes(200, 400, 1, 2)).items()}.values()
    )


# ------------------------------------------------------------------ texts and pictures


def reading(texts_told: list[str], train: list[str], rule: Callable[[Array], Array]) -> tuple[Query, Draws]:
    """A model of texts that is one line of Python, asked about `texts_told`."""
    column = Column("text", "text", language="en")

    def split(told: list[str], first: int) -> Split:
        groups = Groups(np.zeros((len(told), 0), np.int16), ())
        return Split(texts(told), np.zeros(len(told), np.int64), groups, np.arange(first, first + len(told)))

    splits = {"train": split(train, 1), "test": split(texts_told, 1001)}
    data = Data("told", (column,), "label", (), splits, ("no", "yes"), "yes")
    system = System("words", Formula("words", rule), data, Classification(("no", "yes"), "yes"), Argmax())
    query = Query(system, Workspace(), Ledger(10**7), "test")
    return query, make_draws(b"owner", data.digest, [splits["test"].labels], num_draws=50)


def count_words(inputs: Array) -> Array:
    """ "good" adds 2, "Alice" adds 3; every other word is nothing."""
    return pair(np.array([2.0 * ("good" in text) + 3.0 * ("Alice" in text) for text in inputs.tolist()]))


TEXTS = [f"a good film {'by Alice' if place < 12 else ''} number {place}".strip() for place in range(70)]


def test_words_are_named_only_where_ten_training_texts_hold_them() -> None:
    train = [f"the film {place} good" for place in range(30)] + ["Alice wrote"] * 30  # one text, thirty times
    query, draws = reading(TEXTS, train, count_words)
    found = values_of(shapley_attributions(query, query.system.task, draws))
    words = {slice_ for metric, slice_ in found if metric == "attribution"}
    assert words == {"word=good", "word=film"}  # neither Alice (one text says it), nor a number, nor "by"
    assert found["attribution", "word=good"] > 0.1
    assert found["attribution", "word=film"] == pytest.approx(0, abs=1e-7)
    told = [f"{place} times Alice wrote" for place in range(10)]
    query, draws = reading(TEXTS, train + told, count_words)
    found = values_of(shapley_attributions(query, query.system.task, draws))
    one, three, both = (1 / (1 + np.exp(-logit)) for logit in (2.0, 3.0, 5.0))
    assert found["attribution", "word=alice"] == pytest.approx((three - 0.5 + both - one) / 2, abs=1e-5)
    weights = values_of(lime_attributions(query, query.system.task, draws))
    assert min(weights["lime_weight", "word=alice"], weights["lime_weight", "word=good"]) > 0.1


def test_runs_that_a_short_text_does_not_have_are_exactly_zero() -> None:
    query, draws = reading(TEXTS, ["good film"] * 20, count_words)
    task, is_unused = query.system.task, _masked.unused(query)
    assert is_unused.sum() > 0
    masked = _masked.passes(query, task)
    explained = _masked.attributions(masked, is_unused)
    weights = _masked.local_weights(masked, is_unused)
    assert (explained.values[is_unused] == 0).all()
    assert (explained.standard_error[is_unused] == 0).all()
    assert (weights[is_unused] == 0).all()
    assert (np.abs(explained.values[~is_unused]) > 0.01).any()
    gain = query.probabilities(query.inputs[_masked.sample(query)])[:, 1] - 0.5  # the empty text: no word, one half
    np.testing.assert_allclose(explained.values.sum(axis=1), gain, atol=1e-6)
    found = values_of(shapley_attributions(query, task, draws))
    assert not any(slice_ for metric, slice_ in found if metric == "attribution")  # one training text names nothing
    assert found["attribution_error", ""] is not None


def test_a_patch_that_is_looked_at_is_found_and_the_others_are_nothing() -> None:
    rng = np.random.default_rng(0)
    groups = Groups(np.zeros((200, 0), np.int16), ())
    pixels = rng.integers(0, 256, (200, 1, 8, 8)).astype(np.uint8)
    whole = Split(pixels, np.zeros(200, np.int64), groups, np.arange(200))
    column = Column("image", "image", low=0, high=255, shape=(1, 8, 8))
    splits = {"train": whole.take(np.arange(120)), "test": whole.take(np.arange(120, 200))}
    data = Data("looked", (column,), "label", (), splits, ("no", "yes"), "yes")
    model = Formula("corner", lambda x: pair(x[:, 0, 6:, 2:4].astype(np.float64).mean(axis=(1, 2)) / 40 - 3))
    system = System("corner", model, data, Classification(("no", "yes"), "yes"), Argmax())
    query, draws = Query(system, Workspace(), Ledger(10**7), "test"), make_draws(b"k", "s", [splits["test"].labels])
    found = values_of(shapley_attributions(query, system.task, draws))
    assert found["attribution", "patch=4,2"] > 0.1
    others = [
        value for (metric, slice_), value in found.items() if slice_.startswith("patch=") and slice_ != "patch=4,2"
    ]
    assert len(others) == 15
    assert max(others) < 1e-4  # what is left over of an estimate is shared by all
    gains = values_of(explanation_faithfulness(query, system.task, draws))
    assert gains["faithfulness_gain", ""] > 0.03
