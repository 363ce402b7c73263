"""A limit of rows a key: in the lineage and its digest, no answer changed, and copies are worth less."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from assay import engine
from assay.errors import ModelError, TreatmentError
from assay.models.query_limit import QueryLimit, limit_of
from assay.observe import Workspace
from assay.probes.security import _student
from assay.probes.security import model_extraction as extraction
from assay.tasks import Argmax, task_of
from assay.treatments.serve.limit_queries import limit_queries
from assay.values import Step, System
from support import KnownModel


class Crossed(KnownModel):
    """Whether the row lies in two opposite corners: some questions are needed to find out."""

    def outputs(self, inputs):
        self.num_rows += len(inputs)
        side = np.sign((inputs[:, :1] - np.float32(53)) * (inputs[:, 1:2] - np.float32(40)))
        return np.concatenate([-2 * side, 2 * side], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def known(small_data):
    return System("known", Crossed(), small_data, task_of(small_data), Argmax())


def audited(system):
    audit = engine.audit(system, probes=["model_extraction"], workspace=Workspace(key=b"key", num_draws=100))
    return {(one.metric, one.slice): one for one in audit.measurements}, audit.ledger.get("model_extraction", 0)


def test_the_limit_is_in_the_lineage_and_nothing_else_changes(known):
    treated = limit_queries(known, rows=40, per="day")
    assert limit_of(treated.lineage) == QueryLimit(40, "day")
    assert limit_of(known.lineage) is None
    assert (treated.model, treated.decision, treated.data) == (known.model, known.decision, known.data)
    digests = {known.digest, treated.digest, limit_queries(known, rows=41, per="day").digest}
    digests.add(limit_queries(known, rows=40).digest)
    assert len(digests) == 4


def test_everything_wrong_is_said_at_once(known):
    with pytest.raises(TreatmentError) as caught:
        limit_queries(limit_queries(known), rows=-1, per="hour")
    assert [word in str(caught.value) for word in ("rows is -1", "per is 'hour'", "a limit already")] == [True] * 3
    with pytest.raises(TreatmentError, match="rows is True"):
        limit_queries(known, rows=True)


@pytest.mark.parametrize("parameters", [{}, {"rows": "9", "per": "day"}, {"rows": 9, "per": "week"}, {"rows": 1e3}])
def test_a_limit_that_cannot_be_read_is_not_taken_for_none(parameters):
    with pytest.raises(ModelError, match="cannot be held to"):
        limit_of([Step("limit_queries", "serve", parameters, "")])
    with pytest.raises(ModelError, match="2 limits"):
        limit_of([Step("limit_queries", "serve", {"rows": 1, "per": "day"}, "")] * 2)


def test_the_copy_gets_worse_as_the_limit_shrinks_and_no_more_is_asked(known, monkeypatch):
    monkeypatch.setattr(extraction, "QUERIES", (10, 60, 400))
    monkeypatch.setattr(_student, "NUM_STEPS", 60)
    found = {}
    for rows in (400, 60, 10, 0):
        found[rows], asked = audited(limit_queries(known, rows=rows))
        assert asked == rows
    for where in ("answers=labels", "answers=probabilities"):
        most, middle, least = (found[rows]["extraction_area", where].value for rows in (400, 60, 10))
        assert most > middle > least
        agree = [found[60]["extraction_agreement", f"{where} & queries={num}"].value for num in (10, 60, 400)]
        whole = [found[400]["extraction_agreement", f"{where} & queries={num}"].value for num in (10, 60, 400)]
        assert agree == [whole[0], whole[1], whole[1]]  # the same questions, and the last ones are not asked
        nothing = found[0]["extraction_area", where]
        assert nothing.value is None
        assert "no question was answered" in nothing.reason
    public = [one["extraction_area", "answers=public"].value for one in found.values()]
    assert len(set(public)) == 1  # whoever never asks loses nothing


def test_a_limit_that_nobody_reaches_changes_no_number(known, monkeypatch):
    monkeypatch.setattr(extraction, "QUERIES", (5, 10, 20))
    monkeypatch.setattr(_student, "NUM_STEPS", 5)
    before, after = audited(known), audited(limit_queries(known, rows=20))
    assert before[1] == after[1] == 20
    assert {key: one.value for key, one in before[0].items()} == {key: one.value for key, one in after[0].items()}


def test_a_question_without_an_answer_is_spent(known, monkeypatch):
    class Half(Crossed):
        def outputs(self, inputs):
            return np.where(inputs[:, :1] > 50, np.float32(np.nan), super().outputs(inputs))

    monkeypatch.setattr(extraction, "QUERIES", (5, 10, 20))
    sizes = []
    monkeypatch.setattr(extraction, "imitate", lambda points, *_, **__: sizes.append(len(points)))
    monkeypatch.setattr(extraction, "answers_of", lambda _, points: np.zeros(len(points)))
    audited(replace(known, model=Half()))
    assert all(size < wanted for size, wanted in zip(sizes[:6], (5, 10, 20) * 2, strict=True)), sizes
    assert sizes[6:] == [5, 10, 20]
