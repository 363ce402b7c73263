"""What another draw of backgrounds, coalitions and directions says lies in the interval, or nothing is drawn.

Each case failed when one draw served all rows: its choice moved the number by several of its standard errors.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from assay.access.handles import MOST_KNOWN, Query
from assay.explain import quality
from assay.explain.contrast import candidates
from assay.observe import Ledger, Workspace
from assay.probes.robustness.corruption_accuracy import corruption_accuracy
from assay.probes.transparency import _curves, _effects, _units
from assay.probes.transparency.explanation_faithfulness import explanation_faithfulness
from assay.probes.transparency.lime_attributions import NOISE, lime_attributions
from assay.stats import Draws, make_draws
from assay.tasks import Argmax, Classification
from assay.units import Columns, Ground
from assay.values import Array, Column, Data, Groups, Measurement, Split, System

NAMES = ("gain", "hours", "age", "other", "unread")
COLUMNS = tuple(Column(name, "numeric") for name in NAMES)
CLASSES = ("no", "yes")


class Rule:
    """A score of two columns that work together; the last column is never read. A twelfth of the gains are not 0."""

    offers = frozenset({"query"})
    outputs_are = "logits"
    num_bytes = None
    digest = "rule"

    def outputs(self, inputs: Array) -> Array:
        x = np.nan_to_num(inputs)
        score = 2 * np.sign(x[:, 0]) + x[:, 1] * (1 + np.sin(3 * x[:, 2])) + 0.5 * x[:, 2] + 0.3 * x[:, 3]
        return np.stack([-score, score], axis=1).astype(np.float32)


def split(num: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(num, len(NAMES)))
    inputs[:, 0] = np.where(rng.random(num) < 1 / 12, rng.uniform(1, 9, num), 0.0)
    labels = (Rule().outputs(inputs)[:, 1] > 0).astype(np.int64)
    return Split(inputs.astype(np.float32), labels, Groups(np.zeros((num, 0), np.int16), ()), np.arange(num))


TRAIN, TEST = split(3000, 1), split(300, 2)


def drawn(number: int = 0) -> tuple[Query, Draws]:
    """The same rows under other numbers, so that everything keyed by them is drawn anew."""
    test = replace(TEST, rows=TEST.rows + 1000 * number)
    data = Data("planted", COLUMNS, "label", (), {"train": TRAIN, "test": test}, CLASSES, "yes")
    system = System("rule", Rule(), data, Classification(CLASSES, "yes"), Argmax())
    return Query(system, Workspace(), Ledger(10**9), "test"), make_draws(b"k", str(number), [TEST.labels], num_draws=60)


def apart(found: list[Measurement]) -> float:
    """Standard deviation of a number over draws, in the standard errors that it states."""
    stated = np.median([(one.high - one.low) / 3.92 for one in found])
    return float(np.std([one.value for one in found], ddof=1) / stated)


def test_another_draw_of_baselines_is_within_the_interval_of_faithfulness() -> None:
    found = []
    for number in range(8):
        query, draws = drawn(number)
        measured = explanation_faithfulness(query, query.system.task, draws)
        found.append({one.slice: one for one in measured if one.metric == "faithfulness_gain"})
    for slice_ in ("", "baseline=background"):
        assert apart([one[slice_] for one in found]) < 1.4  # 1.5 and 1.7 when three baselines served all rows


def test_rows_meet_baselines_of_their_own_beside_one_mean_row() -> None:
    query, _ = drawn()
    baselines = _curves.baselines(query, np.random.default_rng(0), 5)
    assert baselines.shape == (5, 4, len(NAMES))
    assert len(np.unique(baselines[:, 0], axis=0)) == 1
    assert len(np.unique(baselines[:, 1:].reshape(15, -1), axis=0)) > 10
    np.testing.assert_allclose(baselines[0, 0], TRAIN.inputs.mean(axis=0, dtype=np.float64), rtol=1e-6)
    ranks = np.random.default_rng(1).random((5, 2, len(NAMES))).argsort(axis=2)
    about = {"target": np.ones(5, dtype=int)}
    units, rows = Columns(NAMES), query.inputs[:5]
    together = quality.areas(query.probabilities, rows, Ground(baselines, units), ranks=ranks, **about)
    for row in range(5):
        part, ground = slice(row, row + 1), Ground(baselines[row], units)
        alone = quality.areas(query.probabilities, rows[part], ground, ranks=ranks[part], target=about["target"][part])
        np.testing.assert_allclose(together[part], alone, atol=1e-12)


def test_a_missing_number_is_no_part_of_the_mean_row() -> None:
    rows = np.array([[1.0, np.nan], [3.0, np.nan]], dtype=np.float32)
    np.testing.assert_array_equal(_curves.mean_row(rows, COLUMNS[:2]), [2.0, np.nan])


def test_a_column_that_is_never_read_is_not_told_from_noise_by_lime() -> None:
    query, draws = drawn()
    found = {
        one.slice: one for one in lime_attributions(query, query.system.task, draws) if one.metric == "lime_weight"
    }
    unread = found["feature=unread"]
    assert unread.value > 0.003  # a mean of absolute values: noise reads as size
    assert unread.low == 0
    assert unread.reason == NOISE
    for name in ("hours", "age"):
        assert found[f"feature={name}"].low > 0.01
        assert not found[f"feature={name}"].reason


def test_two_readings_of_noise_agree_on_nothing_and_of_a_size_on_all_of_it() -> None:
    noise = np.random.default_rng(0).normal(size=(2, 20_000, 1))
    whole = np.broadcast_to(np.eye(1), (20_000, 1, 1))
    assert abs(_units.crossed(noise, whole).mean()) < 0.02
    assert _units.crossed(noise + 9 * np.sign(noise[0]), whole).mean() == pytest.approx(9, abs=0.9)


def test_values_tried_are_quantiles_of_all_training_rows_and_not_of_a_hundred() -> None:
    query, _ = drawn()
    assert len(TRAIN) < MOST_KNOWN
    np.testing.assert_array_equal(query.known, TRAIN.inputs)
    tried = [value for place, value in candidates(query.known, COLUMNS, fixed=()) if place == 0]
    gains = np.quantile(TRAIN.inputs[:, 0], np.linspace(0.05, 0.95, 8), method="nearest")
    assert tried == np.unique(gains).tolist()
    for number in range(6):  # eight in a hundred gains are not 0: a hundred rows put them in or leave them out
        again, _ = drawn(number)
        steps = _effects.steps_of(again, COLUMNS[0], 0, TEST.inputs, TEST.labels.astype(float))
        np.testing.assert_allclose(steps.points[-1], TRAIN.inputs[:, 0].max())


def test_rows_known_are_fewer_where_a_row_is_long() -> None:
    long = tuple(Column(str(place), "numeric") for place in range(2000))
    inputs = np.zeros((3000, 2000), dtype=np.float32)
    train = Split(inputs, np.zeros(3000, np.int64), Groups(np.zeros((3000, 0), np.int16), ()), np.arange(3000))
    data = Data("long", long, "label", (), {"train": train, "test": train.take(np.arange(9))}, CLASSES, "yes")
    query = Query(
        System("rule", Rule(), data, Classification(CLASSES, "yes"), Argmax()), Workspace(), Ledger(9), "test"
    )
    assert query.known.shape == ((1 << 22) // 2000, 2000)


def test_another_draw_of_directions_is_within_the_interval_of_a_shift() -> None:
    found = []
    for number in range(10):
        query, draws = drawn(number)
        clean = query.predictions(query.inputs, query.groups)
        measured = corruption_accuracy(query, clean, query.labels, draws)
        found.append(next(one for one in measured if one.slice == "corruption=shift"))
    assert apart(found) < 1.4  # 2.0 when one direction served all rows
