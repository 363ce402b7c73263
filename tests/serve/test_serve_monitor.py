"""Live monitoring: rows like those that were measured raise no alarm, others are noticed, and it is told everywhere."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from assay.data.quality.reference import _cells, reference_of
from assay.errors import ServeError
from assay.observe import Workspace
from assay.serve.admission import Served, admit
from assay.serve.monitor import AT_ONCE, Monitor
from assay.serve.oip import coder_of
from assay.serve.routes import build
from assay.serve.worker import Worker
from assay.story import audit, file
from assay.values import Array, Data, System
from serve_kit import GOOD, KEY, Caller, key_of
from support import make_split


@pytest.fixture(scope="session")
def monitored(served: Served, tiny: System) -> Served:
    split = tiny.data.splits["test"]
    _, answers = served.answer(split.inputs, np.zeros((len(split), 0)))
    return replace(served, reference=reference_of(tiny.data, answers))


def watching(served: Served, window: int = 1000) -> Monitor:
    return Monitor(served.columns_told, served.reference, served.task.classes, window)


def rows_of(served: Served, num: int, seed: int) -> tuple[Array, Array]:
    inputs = make_split(num, seed, 1).inputs
    return inputs, served.answer(inputs, np.zeros((num, 0)))[1]


def test_rows_like_those_measured_raise_no_alarm(monitored: Served) -> None:
    monitor = watching(monitored)
    inputs, answers = rows_of(monitored, 40_000, 77)
    for start in range(0, len(inputs), 250):
        monitor.seen(inputs[start : start + 250], answers[start : start + 250])
    assert (monitor.num_windows, monitor.num_rows) == (40, 40_000)
    assert not monitor.alarms
    assert monitor.warnings == ()


def test_other_rows_are_noticed_within_a_window_and_so_is_the_end(
    monitored: Served, logged: list[logging.LogRecord]
) -> None:
    monitor = watching(monitored)
    inputs, answers = rows_of(monitored, 1000, 5)
    older = inputs.copy()
    older[:, 0] = np.minimum(inputs[:, 0] + 15, 95)
    monitor.seen(older[:999], answers[:999])
    assert monitor.num_windows == 0
    monitor.seen(older[999:], answers[999:])
    monitor.seen(older, answers)  # the same again: no second line
    assert monitor.last is not None
    assert monitor.last.drifted == ("age",)
    assert "differ from those that were measured: age" in monitor.warnings[0]
    assert monitor.outside["age"] == 2 * int(((older[:, 0] > 90) | (older[:, 0] < 17)).sum()) > 100
    monitor.seen(inputs, answers)
    assert monitor.warnings == ()
    assert monitor.alarms == {"age": 2}
    said = [one.getMessage() for one in logged if "drift" in one.getMessage()]
    assert said[0].startswith("drift: age, in the 1000 rows until ")
    assert said[1].startswith("no drift any more")
    assert len(said) == 2


def test_what_is_counted_as_outside_finds_no_single_persons_number(served: Served, tiny: System) -> None:
    exact = replace(served.data.columns[0], low=30.0, high=31.0)  # as the owner's folder has it: of two persons
    known = replace(served, data=replace(served.data, columns=(exact, *served.data.columns[1:])))
    assert (known.columns_told[0].low, known.columns_told[0].high) == (17, 90)
    monitor = Caller(*build(known, Worker(known.answer), key_of(KEY))).service.monitor
    monitor.seen(tiny.data.splits["test"].inputs, np.zeros(800, np.int64))
    monitor.count()
    assert monitor.outside["age"] == 0


def test_numbers_that_were_missing_are_counted(served: Served) -> None:
    data = replace(served.data, source={"imputed": {"age": 41.0}})
    rows = coder_of(data, ()).rows([GOOD, {**GOOD, "age": None}, {**GOOD, "job": None, "age": None}])
    assert rows.filled == {"age": 2}
    monitor = watching(served)
    monitor.seen(rows.inputs, np.zeros(3, np.int64), rows.filled)
    assert monitor.to_json()["missing_or_unknown"] == {"age": 2, "job": 1, "sex": 0}


def test_a_long_window_keeps_few_rows_in_memory(monitored: Served) -> None:
    monitor = watching(monitored, 10_000_000)
    inputs, answers = rows_of(monitored, 10, 5)
    for _ in range(350):
        monitor.seen(inputs, answers)
        assert len(monitor._waiting) * 10 < AT_ONCE
    monitor.count()
    assert (monitor.num_rows, monitor._in_window, monitor.num_windows) == (3500, 3500, 0)


def test_a_rare_cell_is_not_what_the_others_leave() -> None:
    for rare in range(5):
        told, other = (
            _cells("job", 3, np.repeat([0.0, 1.0, 2.0], counts)).shares.tolist()
            for counts in ([120 - rare, 60, rare], [120 - rare, 60 + rare, 0])
        )
        assert told == other
        assert round(sum(told), 3) == 1
    assert _cells("job", 3, np.repeat([0.0, 1.0, 2.0], [90, 3, 4])).shares[1:].tolist() == [0.024055] * 3


def test_answers_alone_can_drift(monitored: Served) -> None:
    monitor = watching(monitored)
    inputs, answers = rows_of(monitored, 1000, 5)
    monitor.seen(inputs, np.ones_like(answers))
    assert monitor.last is not None
    assert monitor.last.drifted == ("(answers)",)
    assert monitor.answered == {"no": 0, "yes": 1000, "": 0}


def test_every_answer_says_so_and_the_counts_are_told(monitored: Served) -> None:
    worker = Worker(monitored.answer)
    worker.start()
    try:
        caller = Caller(*build(monitored, worker, key_of(KEY), monitor=watching(monitored, 100)))
        assert caller.predict({**GOOD, "job": "new"}).status_code == 422
        assert caller.post("/v1/explain", {"instances": [GOOD]}).json()["warnings"] == []
        caller.predict(*[GOOD] * 98, {**GOOD, "age": 200}, {**GOOD, "job": None})
        later, told = caller.predict(GOOD).json(), caller.get("/v1/monitor").json()
        text = caller.get("/metrics").text
    finally:
        worker.stop(5)
    assert later["warnings"] == told["warnings"]
    assert "the last 100 rows asked differ from those that were measured: age, hours, job, sex" in later["warnings"][0]
    assert (told["rows"], told["windows"], told["rows_in_this_window"]) == (101, 1, 1)
    assert (told["outside_of_training_range"]["age"], told["missing_or_unknown"]["job"]) == (1, 1)
    assert told["last_window"]["drifted"][:2] == ["age", "hours"]
    assert all(0 <= one["p_value"] <= 1 and one["stability_index"] > 0 for one in told["last_window"]["columns"])
    assert 'assay_drift_alarms_total{column="age"} 1\n' in text
    assert 'assay_inputs_outside_total{column="age"} 1\n' in text
    assert 'assay_answers_total{answer="yes"}' in text


def test_a_dossier_says_what_its_test_rows_look_like(
    tiny: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = audit(tiny, probes=["accuracy"], workspace=Workspace(key=b"k", num_draws=50))
    file(judged, tmp_path / "d")
    served = admit(tmp_path / "d", allow_failed=True)
    assert served.reference is not None
    assert [one.name for one in served.reference.columns] == ["age", "hours", "job", "sex", "(answers)"]
    path = tmp_path / "d" / "open" / "reference.json"
    told = json.loads(path.read_bytes())
    path.write_text(json.dumps({**told, "num_rows": 801}))
    with pytest.raises(ServeError, match="damaged"):
        admit(tmp_path / "d", allow_failed=True)
    (tmp_path / "d" / "statement.dsse.json").unlink()
    path.write_text(json.dumps({**told, "columns": told["columns"][:2]}))
    with pytest.raises(ServeError, match="of other columns"):
        admit(tmp_path / "d", allow_failed=True, allow_unsigned=True)


def test_a_dossier_without_a_reference_is_served_and_counted(served: Served, small_data: Data) -> None:
    assert served.reference is None
    monitor = watching(served, 100)
    monitor.seen(small_data.splits["test"].inputs, np.zeros(800, np.int64))
    told = monitor.to_json()
    assert (told["rows"], told["windows"], told["reference"], told["last_window"]) == (800, 0, None, None)
    assert "assay_monitor_rows_total 800" in list(monitor.lines())
