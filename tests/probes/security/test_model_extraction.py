"""A simple system is copied from few questions, one that answers at random is not, and the curve is what it says."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from assay import engine
from assay.access.handles import Query
from assay.observe import Ledger, Workspace
from assay.probes.security._student import (
    BATCH,
    DECAY,
    NUM_HIDDEN,
    NUM_STEPS,
    RATE,
    Coordinates,
    answers_of,
    imitate,
)
from assay.probes.security.model_extraction import QUERIES, area, questions
from assay.tasks import Argmax, task_of
from assay.values import Column, System
from support import KnownModel, small_images, small_texts


class Noise(KnownModel):
    """Answers by a hash of the row: there is nothing to learn."""

    def outputs(self, inputs):
        self.num_rows += len(inputs)
        bits = np.sin(inputs.astype(np.float64) @ np.array([12.9898, 78.233, 37.719, 4.581])) * 43758.5453 % 1
        return np.stack([bits, 1 - bits], axis=1).astype(np.float32)


def audited(model, data):
    system = System("one", model, data, task_of(data), Argmax())
    audit = engine.audit(system, probes=["model_extraction"], workspace=Workspace(key=b"key", num_draws=100))
    return {(one.metric, one.slice): one for one in audit.measurements}, audit


@pytest.mark.slow
def test_a_simple_system_is_copied_and_noise_is_not(small_data):
    found, audit = audited(KnownModel(), small_data)
    asked = [found["extraction_agreement", f"answers=probabilities & queries={num}"] for num in QUERIES]
    assert asked[-1].low > 0.95
    assert asked[0].value <= asked[-1].value
    assert found["extraction_area", "answers=probabilities"].value > found["extraction_area", "answers=public"].value
    assert audit.ledger["model_extraction"] == max(QUERIES)
    noise, _ = audited(Noise(), small_data)
    last = noise["extraction_agreement", f"answers=labels & queries={max(QUERIES)}"]
    assert abs(last.value - 0.5) < 0.12


def test_the_area_is_the_mean_height_over_the_logarithm():
    heights = np.array([[0.5, 0.7, 0.9]])
    first, second = np.log(10), np.log(5)
    expected = (0.6 * first + 0.8 * second) / (first + second)
    assert area(heights)[0] == pytest.approx(expected)
    assert area(np.full((2, 3), 0.8)) == pytest.approx([0.8, 0.8])


@pytest.mark.parametrize("make", [small_images, small_texts, lambda num: small_texts(num, language="zh"), None])
def test_questions_keep_the_marginals_and_are_no_training_rows(make, small_data):
    data = small_data if make is None else make(200)
    query = Query(System("one", KnownModel(), data, task_of(data), Argmax()), Workspace(), Ledger(10**9))
    made = questions(query, 300, np.random.default_rng(0))
    again = questions(query, 300, np.random.default_rng(0))
    assert len(made) == 300
    assert (made == again).all()
    train = data.splits["train"].inputs
    assert made.dtype == train.dtype
    if made.dtype.kind == "T":
        assert len(set(made.tolist()) - set(train.tolist())) > 200
        assert set("".join(made.tolist())) <= set("".join(train.tolist())) | {" "}
    else:
        own = {row.tobytes() for row in train}
        assert np.mean([row.tobytes() in own for row in made]) < 0.1
        np.testing.assert_allclose(made.mean(axis=0).mean(), train.mean(axis=0).mean(), rtol=0.1)


@pytest.mark.slow
def test_a_student_learns_what_is_learnable_and_the_same_each_time():
    rng = np.random.default_rng(0)
    columns = (Column("x", "numeric"), Column("c", "categorical", ("a", "b")))
    rows = np.stack([rng.normal(size=800) * 1000, rng.integers(0, 2, 800)], axis=1).astype(np.float32)
    labels = ((rows[:, 0] > 0) ^ (rows[:, 1] == 1)).astype(np.int64)
    points = Coordinates(columns, rows).of(rows)
    answers = [answers_of(imitate(points, np.eye(2)[labels], seed=3), points) for _ in range(2)]
    assert (answers[0] == answers[1]).all()
    assert (answers[0] == labels).mean() > 0.95
    strange = np.array([[np.nan, -1], [5.0, 1]], dtype=np.float32)
    assert np.isfinite(Coordinates(columns, rows).of(strange)).all()


def test_the_loop_written_out_is_that_of_autograd_and_adam_to_the_bit():
    rng = np.random.default_rng(1)
    points, shares = rng.normal(size=(100, 20)).astype(np.float32), rng.dirichlet(np.ones(3), 100)
    generator = torch.Generator().manual_seed(5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        plain = torch.nn.Sequential(torch.nn.Linear(20, NUM_HIDDEN), torch.nn.ReLU(), torch.nn.Linear(NUM_HIDDEN, 3))
    inputs, wanted = torch.from_numpy(points), torch.from_numpy(shares.astype(np.float32))
    optimizer = torch.optim.Adam(plain.parameters(), lr=RATE, weight_decay=DECAY)
    for step in range(NUM_STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / NUM_STEPS)
        rows = torch.randint(len(inputs), (BATCH,), generator=generator)
        loss = torch.nn.functional.cross_entropy(plain(inputs[rows]), wanted[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made = imitate(points, shares, seed=5)
    assert all(torch.equal(one, two) for one, two in zip(plain.parameters(), made.parameters(), strict=True))


@pytest.mark.slow
def test_a_student_is_trained_once_for_all_systems_it_imitates_alike(small_data, monkeypatch):
    module = sys.modules["assay.probes.security.model_extraction"]
    taught = []
    monkeypatch.setattr(module, "imitate", lambda *given, **options: taught.append(1) or imitate(*given, **options))
    monkeypatch.setattr(module, "QUERIES", (20, 40, 80))
    workspace, found = Workspace(key=b"key", num_draws=10), []
    for slope in (0.05, 0.02):  # one answers otherwise, and is asked the same
        model = KnownModel(slope)
        system = System(f"slope {slope}", model, small_data, task_of(small_data), Argmax())
        found.append(engine.audit(system, probes=["model_extraction"], workspace=workspace))
        alone = engine.audit(system, probes=["model_extraction"], workspace=replace(workspace, memory={}))
        assert [one.digest for one in alone.measurements] == [one.digest for one in found[-1].measurements]
    # Three ways and three sizes, each twice where it was asked alone; the second system shares three of its nine.
    assert len(taught) == 9 + 9 + 6 + 9
    assert found[0].ledger["model_extraction"] == found[1].ledger["model_extraction"] == 80
