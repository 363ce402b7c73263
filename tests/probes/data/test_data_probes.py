"""Probes of the data: counted by hand, planted defects found, clean cases quiet, intervals that cover."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from assay import engine
from assay.observe import Workspace
from assay.probes.data.label_errors import label_errors
from assay.probes.data.personal_data import personal_data
from assay.probes.data.representativeness import largest, representativeness
from assay.stats import make_draws
from assay.tasks import Argmax, Classification, task_of
from assay.values import Column, Groups, System, texts
from support import KnownModel

NOBODY = Groups(np.zeros((0, 0), dtype=np.int16), ())
TASK = Classification(("no", "yes"))
SEX = Column("sex", "categorical", ("f", "m"))


def told(labels, positive, groups=None, num_draws=50):
    rows = np.stack([1 - positive, positive], axis=1).astype(np.float32)
    groups = groups or Groups(np.zeros((len(labels), 0), dtype=np.int16), ())
    draws = make_draws(b"key", "split", [labels], num_draws=num_draws)
    return {one.slice: one for one in label_errors(labels, rows, groups, draws, TASK)}


def population(num, rng, wrong=0.0):
    """Labels drawn from the probabilities themselves, then some turned over."""
    positive = rng.beta(0.6, 0.6, num)
    labels = (rng.random(num) < positive).astype(np.int64)
    return np.where(rng.random(num) < wrong, 1 - labels, labels), positive


def test_label_errors_by_hand():
    labels, positive = np.array([0, 0, 0, 1, 1, 1]), np.array([0.05, 0.1, 0.75, 0.8, 0.25, 0.45])
    groups = Groups(np.array([[0], [0], [1], [1], [1], [-1]], dtype=np.int16), (SEX,))
    found = told(labels, positive, groups)
    assert {name: one.value for name, one in found.items()} == {
        "": pytest.approx(2 / 6),
        "class=no": pytest.approx(1 / 3),
        "class=yes": pytest.approx(1 / 3),
        "sex=f": 0,
        "sex=m": pytest.approx(2 / 3),
    }
    spoilt = told(labels, np.where(np.arange(6) == 0, np.nan, positive))[""]
    assert (spoilt.attempted, spoilt.errored, spoilt.scored) == (6, 1, 5)


def test_planted_label_errors_raise_the_share_and_a_clean_sure_system_sees_none():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 2000)
    positive = np.where(truth == 1, rng.uniform(0.9, 1, 2000), rng.uniform(0, 0.1, 2000))
    assert told(truth, positive)[""].value == 0
    wrong = rng.random(2000) < 0.1
    found = told(np.where(wrong, 1 - truth, truth), positive)[""]
    assert found.value == pytest.approx(wrong.mean(), abs=0.02)
    assert found.low < wrong.mean() < found.high


@pytest.mark.slow
@pytest.mark.parametrize(("num", "wrong"), [(300, 0.0), (300, 0.1), (2000, 0.1)])
def test_interval_of_label_errors_covers(num, wrong):
    """The share among 100,000 rows, their own thresholds included, is what the interval is for."""
    rng = np.random.default_rng(1)
    truth = told(*population(100_000, rng, wrong), num_draws=1)[""].value
    found = [told(*population(num, rng, wrong), num_draws=1)[""] for _ in range(400)]
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.93


def test_personal_data_counts_texts_by_kind():
    inputs = texts(["ann@example.org and bob@example.org", "call 138-1234-5678", "nothing here", "version 1.2.3.4"])
    found = {one.slice: one for one in personal_data(inputs, make_draws(b"key", "split", [np.zeros(4, dtype=int)]))}
    assert found[""].value == 0.5
    assert found["personal=email"].value == 0.25
    assert found["personal=chinese mobile"].value == 0.25
    assert found["personal=ip address"].value == 0
    assert found[""].headline


def audited(data, name):
    system = System("known", KnownModel(), data, task_of(data), Argmax())
    workspace = Workspace(key=b"owner", num_draws=50)
    return {
        (one.metric, one.slice): one for one in engine.audit(system, probes=[name], workspace=workspace).measurements
    }


def test_overlap_is_what_was_planted(small_data):
    clean = audited(small_data, "train_test_overlap")
    assert clean["train_test_overlap", ""].value == 0
    assert clean["near_train_test_overlap", ""].value == 0
    train, test = small_data.splits["train"], small_data.splits["test"]
    inputs, labels = test.inputs.copy(), test.labels.copy()
    inputs[:40], labels[:40] = train.inputs[:40], train.labels[:40]
    inputs[40:60] = train.inputs[40:60]
    labels[40:60] = 1 - train.labels[40:60]  # a memory of train would be wrong about these
    inputs[60:70] = train.inputs[60:70] + np.array([0.01, -0.01, 0, 0], dtype=np.float32)
    planted = replace(test, inputs=inputs, labels=labels)
    found = audited(replace(small_data, splits={**small_data.splits, "test": planted}), "train_test_overlap")
    exact, near = found["train_test_overlap", ""], found["near_train_test_overlap", ""]
    assert (exact.value, near.value) == (pytest.approx(40 / 800), pytest.approx(50 / 800))
    assert exact.low < 0.05 < exact.high
    assert exact.attempted == 800


def test_representativeness_against_a_declared_population(small_data):
    nothing = audited(small_data, "representativeness")
    assert all(one.value is None and "no population is declared" in one.reason for one in nothing.values())
    declared = {"sex": {"Female": 0.7, "Male": 0.3}, "race": {"x": 0.6, "y": 0.35, "z": 0.05}}
    found = audited(replace(small_data, source={"population": declared}), "representativeness")
    share = (small_data.splits["test"].groups.codes[:, 0] == 0).mean()
    assert found["representation_difference", "sex=Female"].value == pytest.approx(share - 0.7)
    assert found["representation_gap", "sex"].value == pytest.approx(abs(share - 0.7))
    assert found["representation_gap", "sex"].low > 0.1
    assert found["representation_gap", "race"].low == 0  # as drawn
    wrong = replace(small_data, source={"population": {"sex": {"Female": 0.7, "Mail": 0.3}}})
    (undefined,) = audited(wrong, "representativeness").values()
    assert "Mail" in undefined.reason
    assert representativeness.__doc__


def test_a_changed_population_is_measured_anew(small_data, tmp_path):
    workspace = Workspace(folder=tmp_path, key=b"owner", num_draws=50)
    values = []
    for share in (0.5, 0.9):
        source = {"population": {"sex": {"Female": share, "Male": 1 - share}}}
        data = replace(small_data, source=source)
        system = System("known", KnownModel(), data, task_of(data), Argmax())
        found = engine.audit(system, probes=["representativeness"], workspace=workspace)
        values.append(found.find("representation_gap", "sex").value)
    assert values[1] > values[0] + 0.2


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.6, 0.3, 0.1), (0.25, 0.25, 0.2, 0.2, 0.1)])
def test_interval_of_the_largest_gap_covers(shares):
    rng, shares = np.random.default_rng(2), np.array(shares)
    for expected in (shares, np.roll(shares, 1)):
        truth = np.abs(shares - expected).max()
        drawn = rng.multinomial(400, shares, size=400).astype(float)
        found = [largest(counts[None], expected, level=0.95) for counts in drawn]
        assert np.mean([one.low - 1e-12 <= truth <= one.high for one in found]) >= 0.93
