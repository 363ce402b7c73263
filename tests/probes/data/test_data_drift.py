"""Drift is found where it was planted and not where nothing moved; distances agree with SciPy and brute force."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstwobign

from assay import engine
from assay.access.handles import Query
from assay.data.quality.drift import (
    bins,
    column_p_value,
    coordinates,
    features,
    holm,
    mean_discrepancy,
    stability_index,
)
from assay.observe import Ledger, Workspace
from assay.probes.data.data_drift import data_drift
from assay.stats import make_draws
from assay.tasks import Argmax, task_of
from assay.values import Column, System
from support import KnownModel, make_split, small_images, small_texts


def drift(data):
    query = Query(System("one", KnownModel(), data, task_of(data), Argmax()), Workspace(), Ledger(10**9))
    num = len(data.splits["test"])
    draws = make_draws(b"key", "split", [np.zeros(num, dtype=np.int64)], num_draws=100)
    return {(one.metric, one.slice): one for one in data_drift(query, draws)}


def with_test(data, **changes):
    return replace(data, splits={**data.splits, "test": replace(data.splits["test"], **changes)})


def test_a_planted_shift_is_found_in_its_column_and_in_all_together(small_data):
    inputs = small_data.splits["test"].inputs.copy()
    inputs[:, 0] += 15
    found = drift(with_test(small_data, inputs=inputs))
    assert found["drift_p_value", ""].value < 1e-6
    assert found["drifted_columns", ""].value == 1
    assert "these moved: age" in found["drifted_columns", ""].reason
    assert found["joint_drift_p_value", ""].value == 1 / 500
    distance = found["ks_distance", "feature=age"]
    assert distance.low <= 15 / 73 <= distance.high  # uniform on 17..90, moved by 15
    assert found["population_stability_index", "feature=age"].low > 0.1
    assert found["population_stability_index", "feature=hours"].value < 0.05


def test_new_categories_and_missing_numbers_are_drift(small_data):
    jobs = small_data.splits["test"].inputs.copy()
    jobs[:120, 2] = -1
    assert "job" in drift(with_test(small_data, inputs=jobs))["drifted_columns", ""].reason
    gaps = small_data.splits["test"].inputs.copy()
    gaps[:40, 1] = np.nan
    assert "hours" in drift(with_test(small_data, inputs=gaps))["drifted_columns", ""].reason


def test_a_reference_of_ones_own_takes_the_place_of_the_training_rows(small_data):
    moved = small_data.splits["test"].inputs + np.float32(30)
    test = replace(small_data.splits["test"], inputs=moved)
    own = replace(small_data, splits={**small_data.splits, "test": test, "reference": test})
    found = drift(own)
    assert found["drift_p_value", ""].value == 1
    assert found["ks_distance", "feature=age"].value == 0
    assert drift(replace(own, splits={**small_data.splits, "test": test}))["drift_p_value", ""].value < 1e-6


@pytest.mark.parametrize("make", [small_images, small_texts, lambda num: small_texts(num, language="zh")])
def test_pictures_and_texts_drift_by_light_and_length(make):
    data = make(400)
    still = drift(data)
    assert still["drift_p_value", ""].value > 0.01
    inputs = data.splits["test"].inputs
    if inputs.dtype.kind == "T":
        moved = np.array([text + " 再来 again" for text in inputs.tolist()], dtype=inputs.dtype)
    else:
        moved = np.clip(inputs.astype(int) + 40, 0, 255).astype(np.uint8)
    found = drift(with_test(data, inputs=moved))
    assert found["drift_p_value", ""].value < 1e-4
    assert found["joint_drift_p_value", ""].value < 0.01


def null_alarms(rounds):
    """A fresh test split from the same source, and how often anything is called drift at 5 %."""
    base = make_split(1000, 1, 1)
    columns = (Column("age", "numeric"), Column("hours", "numeric"), Column("job", "categorical", ("a", "b", "c")),
               Column("sex", "categorical", ("F", "M")))  # fmt: skip
    alarms = np.zeros(3)
    for seed in range(rounds):
        inputs = make_split(400, 100 + seed, 1).inputs
        reference = make_split(1000, 5000 + seed, 1).inputs if seed else base.inputs
        p_values = np.array([column_p_value(one)[0] for one in features(columns, reference, inputs)])
        rng = np.random.default_rng(seed)
        joint = mean_discrepancy(*coordinates(columns, reference[:200], inputs[:200]), rng)[1]
        corrected = np.minimum(2 * holm(p_values), 1)
        alarms += [corrected.min() <= 0.05, joint <= 0.05, min(corrected.min(), 2 * joint) <= 0.05]
    return alarms / rounds


def test_nothing_moved_is_rarely_called_drift():
    assert (null_alarms(20) <= 0.2).all()


@pytest.mark.slow
def test_false_alarms_stay_at_five_percent():
    rounds = 300
    limit = 0.05 + 2 * np.sqrt(0.05 * 0.95 / rounds)
    found = null_alarms(rounds)
    assert (found <= limit).all(), found
    assert found[1] > 0.01  # the permutation test is exact, so not far below either


def test_discrepancy_agrees_with_its_double_sums():
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(30, 3)), rng.normal(size=(40, 3)) + 0.7
    points = np.concatenate([one, two]).astype(np.float32)
    away = np.square(points[:, None] - points).sum(axis=2)
    scale = np.median(away[:-1:4, 1::4])

    def kernel(a, b):
        return np.exp(-np.square(a[:, None] - b).sum(axis=2) / scale)

    own, other = kernel(one, one), kernel(two, two)
    expected = (own.sum() - np.trace(own)) / (30 * 29) + (other.sum() - np.trace(other)) / (40 * 39)
    expected -= 2 * kernel(one, two).mean()
    found, p = mean_discrepancy(one, two, np.random.default_rng(1))
    assert found == pytest.approx(expected, rel=1e-4)
    assert p == 1 / 500


def test_columns_agree_with_their_formulas():
    rng = np.random.default_rng(0)
    one = features([Column("x", "numeric")], rng.normal(size=(500, 1)), rng.normal(size=(300, 1)) + 0.2)[0]
    steps = np.concatenate([one.reference, one.current])
    distance = max(abs((one.reference <= t).mean() - (one.current <= t).mean()) for t in steps)
    p, found = column_p_value(one)
    assert found == pytest.approx(distance)
    assert p == pytest.approx(kstwobign.sf(distance * np.sqrt(500 * 300 / 800)), rel=0.3)
    reference, current, num = bins(one)
    assert np.bincount(reference, minlength=num)[:10].tolist() == [50] * 10
    p, q = (np.bincount(side, minlength=num)[:10] + 0.5 for side in (reference, current))
    p, q = p / p.sum(), q / q.sum()
    told = [np.bincount(side, minlength=num).astype(float) for side in (reference, current)]
    assert float(stability_index(*told)) == pytest.approx(((q - p) * np.log(q / p)).sum())


def test_empty_sides_and_constant_columns_say_nothing():
    empty = features([Column("x", "numeric")], np.zeros((0, 1)), np.ones((3, 1)))[0]
    assert column_p_value(empty) == (1.0, None)
    alike = features([Column("c", "categorical", ("a",))], np.zeros((5, 1)), np.zeros((4, 1)))[0]
    assert column_p_value(alike) == (1.0, None)
    assert holm(np.array([0.2])).tolist() == [0.2]


def test_what_is_of_the_data_alone_is_measured_once_for_all_systems(known_system, workspace, monkeypatch):
    asked = []
    module = sys.modules["assay.probes.data.data_drift"]
    joint = module._joint
    monkeypatch.setattr(module, "_joint", lambda *given: asked.append(1) or joint(*given))
    other = replace(known_system, name="other", model=KnownModel(0.01))
    assert other.digest != known_system.digest
    both = [engine.audit(one, probes=["data_drift"], workspace=workspace) for one in (known_system, other)]
    assert [one.digest for one in both[0].measurements] == [one.digest for one in both[1].measurements]
    assert len(asked) == 1
    fewer = known_system.data.splits["train"].take(np.arange(100))
    changed = replace(known_system.data, splits={**known_system.data.splits, "train": fewer})
    engine.audit(replace(other, data=changed), probes=["data_drift"], workspace=workspace)
    assert len(asked) == 2
