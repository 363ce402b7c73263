"""A model that gives a column away is caught, one that cannot read it adds nothing, and formulas are the papers'."""

from dataclasses import dataclass

import numpy as np
import pytest

from assay.probes.privacy.attribute_inference import attribute_inference, coded, csmia, guess, learnt, sensitive
from assay.stats import make_draws
from assay.values import Column, Groups

SEX = Column("sex", "categorical", ("Female", "Male"))
COLUMNS = (Column("age", "numeric", low=0, high=1), SEX, Column("job", "categorical", ("a", "b", "c")))


def rule(inputs, reads_sex):
    if not reads_sex:
        return inputs[:, 0] > 0.5
    return (np.floor(inputs[:, 0] * 100) % 2 == 1) != (inputs[:, 1] > 0.5)


@dataclass
class FakeQuery:
    """Label = (second decimal of age odd) xor sex, noisily: no line through the columns shows it, the model does.

    Without sex the label is that of age alone.
    """

    inputs: np.ndarray
    labels: np.ndarray
    reads_sex: bool = True
    columns = COLUMNS

    @property
    def groups(self):
        return Groups(self.inputs[:, 1:2].astype(np.int16), (SEX,))

    def rows(self, num):
        return np.arange(min(num, len(self.inputs)))

    def rng(self, name):
        return np.random.default_rng(len(name))

    def logits(self, inputs):
        margin = 4.0 * (rule(inputs, self.reads_sex) - 0.5)
        logits = np.stack([-margin / 2, margin / 2], axis=1).astype(np.float32)
        logits[inputs[:, 2] < 0] = np.nan
        return logits


def made(num=1500, seed=0, **options):
    rng = np.random.default_rng(seed)
    inputs = np.stack([rng.random(num), rng.integers(0, 2, num), rng.integers(0, 3, num)], axis=1).astype(np.float32)
    right = rule(inputs, options.get("reads_sex", True))
    return FakeQuery(inputs, np.where(rng.random(num) < 0.88, right, ~right).astype(np.int64), **options)


def measure(query):
    draws = make_draws(b"key", "split", [query.labels, query.inputs[:, 1].astype(np.int64)], num_draws=200)
    return {(one.metric, one.slice): one for one in attribute_inference(query, draws)}


def test_a_model_that_gives_the_column_away_is_caught():
    found = measure(made())
    gain = found["attribute_inference_gain", "feature=sex"]
    assert gain.low > 0.25
    assert gain.replicates.shape == (200,)
    assert found["attribute_guess_rate", "feature=sex & attack=none"].value < 0.6
    for attack in ("learnt", "csmia", "map"):
        assert found["attribute_guess_rate", f"feature=sex & attack={attack}"].low > 0.8
    parts = [found["attribute_inference_gain", f"feature=sex & sex={value}"].value for value in SEX.categories]
    assert max(parts) > 0.25


def test_a_model_that_cannot_read_the_column_adds_nothing():
    alarms = 0
    for seed in range(10):
        gain = measure(made(600, seed, reads_sex=False))["attribute_inference_gain", "feature=sex"]
        alarms += gain.low > 0
    assert alarms <= 1
    assert abs(gain.value) < 0.05


def test_errored_rows_are_guessed_wrongly_and_counted():
    query = made()
    query.inputs[:300, 2] = -1
    gain, clean = (measure(one)["attribute_inference_gain", "feature=sex"] for one in (query, made()))
    assert (gain.attempted, gain.errored) == (1500, 300)
    assert gain.value < clean.value


def test_csmia_case_by_case():
    # one right answer; several right: the surest; none right: the least sure of the wrong
    odds = np.array([[1.0, -2.0, -3.0], [0.5, 2.0, -1.0], [-4.0, -0.5, -2.0]])
    assert csmia(odds).tolist() == [0, 1, 1]


def test_map_by_hand():
    rng = np.random.default_rng(0)
    odds, truth = rng.normal(size=(60, 3)), rng.integers(0, 3, 60)
    prior = (np.bincount(truth, minlength=3) + 1) / 63
    by_hand = [int(np.argmax([prior[v] / (1 + np.exp(-row[v])) for v in range(3)])) for row in odds]
    assert guess(odds, truth, np.ones((60, 1)), rng.permutation(60))["map"].tolist() == by_hand


@pytest.mark.peer
def test_ridge_is_scikit_learn_s():
    sklearn = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 60)
    known, order = np.column_stack([np.ones(60), rng.normal(size=(60, 4))]), rng.permutation(60)
    expected = np.zeros(60, dtype=int)
    for fit, use in ((order[:30], order[30:]), (order[30:], order[:30])):
        ridge = sklearn.Ridge(alpha=1.0, fit_intercept=False).fit(known[fit], np.eye(3)[truth[fit]])
        expected[use] = ridge.predict(known[use]).argmax(axis=1)
    assert learnt(known, truth, 3, order).tolist() == expected.tolist()


def test_which_columns_and_what_is_known():
    many = Column("city", "categorical", tuple(f"c{i}" for i in range(15)))
    assert [place for place, _ in sensitive((*COLUMNS, many), ["sex", "city", "age"])] == [1]
    rows = np.array([[0.5, 1, 2], [np.nan, 0, -1], [0.7, 1, 0]], dtype=np.float32)
    known = coded(rows, np.array([0, 1, 1]), COLUMNS, 1)
    assert known.shape == (3, 2 * (1 + 2 + 3))
    assert np.isfinite(known).all()
    assert known[1].tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0]


def test_no_sensitive_feature_is_undefined():
    query = made(100)
    query.columns = (COLUMNS[0], Column("kind", "categorical", ("Female", "Male")), COLUMNS[2])
    (only,) = measure(query).values()
    assert only.value is None
    assert "sensitive" in only.reason
