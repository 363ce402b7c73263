"""The shapes of answers, and that they are the system's: named rows, the open protocol, groups, explanations."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.data import decode_rows, encode_rows
from assay.evidence.signing import Signer
from assay.models.store import load_system
from assay.serve.admission import Served, admit
from assay.serve.bodies import Coder
from assay.serve.refusals import Refusal
from assay.tasks import Identity, Regression
from assay.treatments.serve.refuse_unfamiliar import refuse_unfamiliar
from assay.values import Array, Column, Data, Groups, System
from serve_kit import GOOD, Caller, Echo, by_sex, calling, file_tiny, told

INFER = "/v2/models/tiny/infer"


@pytest.fixture(scope="module")
def grouped(tiny: System, signer: Signer, tmp_path_factory: pytest.TempPathFactory) -> Served:
    return admit(file_tiny(by_sex(tiny), tmp_path_factory.mktemp("grouped") / "dossier", signer, bound=0.3))


def expected(tiny: System, num: int) -> tuple[list[dict[str, Any]], Array]:
    inputs = tiny.data.splits["test"].inputs[:num]
    logits = tiny.task.logits(tiny.model.outputs(inputs), "logits")
    return decode_rows(tiny.data, inputs), tiny.task.probabilities(logits)


def test_named_rows(caller: Caller, tiny: System) -> None:
    rows, probabilities = expected(tiny, 50)
    found = caller.predict(*rows)
    answer = found.json()
    np.testing.assert_allclose(answer["probabilities"], probabilities, atol=1e-6)
    assert answer["predictions"] == [("no", "yes")[one] for one in probabilities.argmax(axis=1)]
    assert answer["classes"] == ["no", "yes"]
    assert answer["warnings"] == []
    served = caller.service.served
    assert answer["model_digest"] == found.headers["assay-model-digest"] == served.model.digest == tiny.model.digest
    assert answer["evidence_id"] == found.headers["assay-evidence-id"] == served.dossier.evidence_id
    assert len(answer["evidence_id"]) == 64


def tensors(rows: list[dict[str, Any]], *, flat: bool = False) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "shape": [len(rows)] if flat else [len(rows), 1],
            "datatype": "FP32" if name in ("age", "hours") else "BYTES",
            "data": [row[name] if flat else [row[name]] for row in rows],
        }
        for name in rows[0]
    ]


def test_the_open_protocol_takes_one_tensor_a_column(caller: Caller, tiny: System) -> None:
    rows, probabilities = expected(tiny, 7)
    for flat in (True, False):
        found = caller.post(INFER, {"id": "r-1", "inputs": tensors(rows, flat=flat)})
        answer = found.json()
        assert (answer["model_name"], answer["model_version"], answer["id"]) == ("tiny", "1", "r-1")
        share, names = answer["outputs"]
        assert (share["name"], share["datatype"], share["shape"]) == ("probabilities", "FP32", [7, 2])
        assert (names["name"], names["datatype"], names["shape"]) == ("predictions", "BYTES", [7])
        np.testing.assert_allclose(np.reshape(share["data"], (7, 2)), probabilities, atol=1e-6)
        assert names["data"] == [("no", "yes")[one] for one in probabilities.argmax(axis=1)]
        assert answer["parameters"]["model_digest"] == tiny.model.digest
        assert all(isinstance(value, str | bool | int | float) for value in answer["parameters"].values())


def test_a_refused_row_is_named_no_class(tiny: System, signer: Signer, tmp_path: Path) -> None:
    treated = refuse_unfamiliar(tiny, refused=0.3)
    with calling(admit(file_tiny(treated, tmp_path / "dossier", signer, bound=0.1))) as caller:
        inputs = tiny.data.splits["test"].inputs[:60]
        rows = decode_rows(tiny.data, inputs)
        answer = caller.predict(*rows).json()
        name = caller.service.served.name
        _, names = caller.post(f"/v2/models/{name}/infer", {"inputs": tensors(rows)}).json()["outputs"]
        explained = caller.post("/v1/explain", {"instances": rows[:12]}).json()
    probabilities = tiny.task.probabilities(treated.model.outputs(inputs))
    given = treated.decision.decide(probabilities, inputs, tiny.data.splits["test"].groups)
    assert 5 < (given == -2).sum() < 40
    assert answer["predictions"] == [None if one < 0 else ("no", "yes")[one] for one in given]
    assert names["data"] == ["" if one < 0 else ("no", "yes")[one] for one in given]
    assert all(answer["probabilities"][row] == [0.5, 0.5] for row in np.flatnonzero(given == -2))
    assert explained["refused"] == (given == -2)[:12].tolist()
    assert 0 < sum(explained["refused"]) < 12
    assert "no answer to a refused row" in explained["refused_means"]
    assert all(explained["output"][row] == pytest.approx(0.5) for row in np.flatnonzero(given[:12] == -2))


def test_the_open_protocol_takes_one_coded_tensor_in_json_and_in_bytes(caller: Caller, tiny: System) -> None:
    _, probabilities = expected(tiny, 9)
    inputs = tiny.data.splits["test"].inputs[:9]
    one = {"name": "inputs", "shape": [9, 4], "datatype": "FP32"}
    as_json = caller.post(INFER, {"inputs": [{**one, "data": inputs.ravel().tolist()}]}).json()
    nested = caller.post(INFER, {"inputs": [{**one, "data": inputs.tolist()}]}).json()
    raw = inputs.astype("<f4").tobytes()
    head = json.dumps({"inputs": [{**one, "parameters": {"binary_data_size": len(raw)}}]}).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    as_bytes = caller.post(INFER, head + raw, headers=headers).json()
    assert as_json == nested == as_bytes
    np.testing.assert_allclose(np.reshape(as_json["outputs"][0]["data"], (9, 2)), probabilities, atol=1e-6)
    for wrong in (raw[:-1], raw + b"0000", b""):
        assert caller.post(INFER, head + wrong, headers=headers).status_code == 422
    for length in ("0", "99999", "-1", "x", "１"):
        named = {**headers, "inference-header-content-length": length.encode()}
        assert caller.post(INFER, head + raw, headers=named).status_code in (400, 422)


@pytest.mark.parametrize(
    ("cell", "place"), [(-2, 2), (3, 2), (0.5, 2), (2, 3), (1e39, 0), (float("nan"), 0), (float("inf"), 1)]
)
def test_coded_cells_that_mean_nothing_are_refused(served: Served, cell: float, place: int) -> None:
    inputs = np.array([[40, 50, 0, 1], [40, 50, -1, -1]], dtype=np.float64)
    coder = Coder(served.data)
    assert list(coder.coded(inputs)) == []
    inputs[1, place] = cell
    (problem,) = coder.coded(inputs)
    assert served.data.columns[place].name in problem.what
    assert "row 2" in problem.what


def test_the_open_protocol_describes_itself(caller: Caller) -> None:
    assert caller.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert caller.get("/v2/models/tiny/ready").json() == {"name": "tiny", "ready": True}
    about = caller.get("/v2/models/tiny").json()
    assert set(about) >= {"name", "versions", "platform", "inputs", "outputs"}
    assert [one["name"] for one in about["inputs"]] == ["age", "hours", "job", "sex"]
    assert [one["datatype"] for one in about["inputs"]] == ["FP64", "FP64", "BYTES", "BYTES"]
    assert [one["name"] for one in about["outputs"]] == ["probabilities", "predictions"]


def test_outputs_are_given_by_name(caller: Caller) -> None:
    rows = tensors([GOOD])
    found = caller.post(INFER, {"inputs": rows, "outputs": [{"name": "predictions"}]}).json()
    assert [one["name"] for one in found["outputs"]] == ["predictions"]
    for wrong in ([], [{"name": "other"}], ["predictions"], {"name": "predictions"}, [{}], 3):
        assert caller.post(INFER, {"inputs": rows, "outputs": wrong}).status_code == 422


WRONG_TENSORS: list[Any] = [
    None,
    [],
    {},
    [None],
    [{}],
    [{"name": "age"}],
    [{"name": "age", "shape": [1], "datatype": "FP32"}],
    [{"name": "age", "shape": [1], "datatype": "FP32", "data": [1]}] * 2,
    [{"name": "age", "shape": [-1], "datatype": "FP32", "data": [1]}],
    [{"name": "age", "shape": [2**40], "datatype": "FP32", "data": [1]}],
    [{"name": "age", "shape": [0], "datatype": "FP32", "data": []}],
    [{"name": "age", "shape": [True], "datatype": "FP32", "data": [1]}],
    [{"name": "age", "shape": [], "datatype": "FP32", "data": [1]}],
    [{"name": "inputs", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}],
    [{"name": "inputs", "shape": [1, 4], "datatype": "FP64", "data": [1, 2, 0, 0]}],
    [{"name": "inputs", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 0]}],
    [{"name": "inputs", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 0, None]}],
    [{"name": "inputs", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 0, 10**400]}],
    [{"name": "inputs", "shape": [1, 4], "datatype": "FP32"}],
    [*tensors([GOOD]), {"name": "extra", "shape": [1], "datatype": "BYTES", "data": ["x"]}],
    [{**one, "datatype": "BYTES"} for one in tensors([GOOD])],
    [{**one, "datatype": "FP32"} for one in tensors([GOOD])],
    [{**one, "shape": [1, 2]} for one in tensors([GOOD])],
]


@pytest.mark.parametrize("wrong", WRONG_TENSORS)
def test_wrong_tensors_are_refused(caller: Caller, wrong: Any) -> None:
    assert caller.post(INFER, {"inputs": tensors([GOOD])}).status_code == 200
    found = caller.post(INFER, {"inputs": wrong})
    assert found.status_code == 422
    assert found.json()["problems"]


# ------------------------------------------------------------------ groups


def test_a_rule_that_reads_groups_must_be_given_them(grouped: Served, tiny: System) -> None:
    split = tiny.data.splits["test"]
    inputs, codes = split.inputs[:20], split.groups.codes[:20]
    probabilities = expected(tiny, 20)[1]
    answers = by_sex(tiny).decision.decide(probabilities, inputs, Groups(codes, split.groups.columns))
    assert len(set(answers.tolist())) == 2
    with calling(grouped) as caller:
        rows = decode_rows(tiny.data, inputs)
        found = caller.predict(*[{**row, "race": "x"} for row in rows])  # more than is read is let pass
        assert found.json()["predictions"] == [("no", "yes")[one] for one in answers]
        missing = caller.predict(*[{name: row[name] for name in ("age", "hours", "job")} for row in rows])
        assert missing.status_code == 422
        assert "'sex' is not given" in missing.json()["message"]
        coded = {"name": "inputs", "shape": [20, 4], "datatype": "FP32", "data": inputs.ravel().tolist()}
        sex = {"name": "sex", "shape": [20], "datatype": "BYTES", "data": [row["sex"] for row in rows]}
        given = caller.post(INFER, {"inputs": [coded, sex]}).json()
        assert given["outputs"][1]["data"] == found.json()["predictions"]
        refused = caller.post(INFER, {"inputs": [coded]})
        assert refused.status_code == 422
        assert "treats groups differently" in refused.json()["next"]
        assert caller.get("/card").json()["groups_needed"] == ["sex"]
        explained = caller.post("/v1/explain", {"instances": rows[:1]})
        assert explained.status_code == 200
        assert explained.json()["refused"] == [False], "a rule that never refuses says so"
        assert "refused_means" not in explained.json()


# ------------------------------------------------------------------ other tasks and broken models


class Fixed:
    offers = frozenset({"query"})
    outputs_are: Any = "values"
    digest = "f" * 64
    num_bytes = 0

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def outputs(self, inputs: Array) -> Array:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer(inputs)


def test_regression(served: Served) -> None:
    data = replace(served.data, classes=(), positive=None)
    double = Fixed(lambda inputs: inputs[:, :1] * 2)
    with calling(replace(served, data=data, task=Regression(), decision=Identity(), model=double)) as caller:
        assert caller.predict(GOOD, {**GOOD, "age": 7}).json()["predictions"] == [80.0, 14.0]
        (output,) = caller.post(INFER, {"inputs": tensors([GOOD])}).json()["outputs"]
        assert output == {"name": "values", "shape": [1, 1], "datatype": "FP32", "data": [80.0]}
        found = caller.post("/v1/explain", {"instances": [GOOD], "background": [{**GOOD, "age": 30}]}).json()
        assert found["attributions"][0] == pytest.approx({"age": 20, "hours": 0, "job": 0, "sex": 0}, abs=1e-9)
        assert (found["base"], found["output"], found["explained"]) == ([60.0], pytest.approx([80.0]), ["label"])
        assert caller.post("/v1/explain", {"instances": [GOOD], "class": "yes"}).status_code == 422


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_no_answer_is_a_typed_503_and_never_nan(served: Served, bad: float) -> None:
    def outputs(inputs: Array) -> Array:
        return np.where(inputs[:, :1] > 50, np.float32(bad), np.array([[0.5, 0.5]], dtype=np.float32))

    broken = Fixed(outputs)
    broken.outputs_are = "logits"
    with calling(replace(served, model=broken)) as caller:
        assert caller.predict(GOOD).json()["probabilities"] == [[0.5, 0.5]]
        old = {**GOOD, "age": 80}
        for found in (
            caller.predict(GOOD, old),
            caller.post(INFER, {"inputs": tensors([GOOD, old])}),
            caller.post("/v1/explain", {"instances": [old]}),
        ):
            assert (found.status_code, found.json()["error"]) == (503, "no-answer")
            assert "NaN" not in found.text
            assert "Infinity" not in found.text
        assert "(2)" in caller.predict(GOOD, old).json()["message"]


def test_a_model_that_raises_is_a_typed_503_and_the_service_stays_up(
    served: Served, logged: list[logging.LogRecord]
) -> None:
    broken = Fixed(RuntimeError("John, 40, a"))
    with calling(replace(served, model=broken)) as caller:
        for found in (caller.predict(GOOD), caller.post("/v1/explain", {"instances": [GOOD]})):
            assert (found.status_code, found.json()["error"]) == (503, "model-failed")
            assert "John" not in found.text + "".join(map(told, logged))
        broken.answer = lambda inputs: np.full((len(inputs), 2), 0.5, dtype=np.float32)
        broken.outputs_are = "probabilities"
        assert caller.predict(GOOD).status_code == 200


# ------------------------------------------------------------------ explanations


def brute_shapley(function: Any, row: Array, background: Array) -> Array:
    """All coalitions against all background rows, from the definition."""
    num = len(row)
    values = np.zeros(num)
    worth = {}
    for members in product((False, True), repeat=num):
        worth[members] = function(np.where(members, row, background)).mean()
    for members, column in product(worth, range(num)):
        if not members[column]:
            size = sum(members)
            weight = factorial(size) * factorial(num - size - 1) / factorial(num)
            joined = tuple(one or index == column for index, one in enumerate(members))
            values[column] += weight * (worth[joined] - worth[members])
    return values


def test_explanations_are_shapley_values_and_sum_to_the_output(caller: Caller, tiny: System) -> None:
    rows, probabilities = expected(tiny, 4)
    served = caller.service.served
    inputs = tiny.data.splits["test"].inputs[:4]
    for own in (None, rows[1:3]):
        body = {"instances": rows} | ({} if own is None else {"background": own})
        found = caller.post("/v1/explain", body).json()
        background = served.background if own is None else inputs[1:3]
        np.testing.assert_allclose(found["output"], probabilities[:, 1], atol=1e-6)
        for index, values in enumerate(found["attributions"]):
            assert sum(values.values()) == pytest.approx(found["output"][index] - found["base"][index], abs=1e-9)
            brute = brute_shapley(lambda x: served.probabilities(x)[:, 1].astype(float), inputs[index], background)
            np.testing.assert_allclose(list(values.values()), brute, atol=1e-6)
        assert found["explained"] == ["yes"] * 4
    no = caller.post("/v1/explain", {"instances": rows, "class": "no", "background": rows[1:3]}).json()
    np.testing.assert_allclose(
        [list(one.values()) for one in no["attributions"]],
        [[-value for value in one.values()] for one in found["attributions"]],
        atol=1e-6,
    )


def test_explanations_say_what_they_compare_with(caller: Caller) -> None:
    made = caller.post("/v1/explain", {"instances": [GOOD]}).json()
    assert "nobody's data" in made["background"]
    assert caller.post("/v1/explain", {"instances": [GOOD]}).json() == made
    own = caller.post("/v1/explain", {"instances": [GOOD], "background": [GOOD]}).json()
    assert own["background"] == "the 1 rows sent"
    assert list(own["attributions"][0].values()) == pytest.approx([0] * 4, abs=1e-9)


def test_explanations_are_bounded(caller: Caller) -> None:
    assert caller.post("/v1/explain", {"instances": [GOOD] * 16}).status_code == 200
    for body in (
        {"instances": [GOOD] * 17},
        {"instances": [GOOD], "background": [GOOD] * 101},
        {"instances": [GOOD], "background": []},
        {"instances": [GOOD], "background": [{**GOOD, "job": "q"}]},
        {"instances": [GOOD], "class": "maybe"},
        {"instances": [GOOD], "class": 1},
    ):
        assert caller.post("/v1/explain", body).status_code == 422


def test_an_explanation_that_needs_too_many_model_rows_is_refused(served: Served) -> None:
    columns = tuple(Column(f"c{i}", "numeric", low=0, high=1) for i in range(400))
    wide = replace(served, data=replace(served.data, columns=columns), background=np.zeros((64, 400), np.float32))
    with calling(wide) as caller:
        found = caller.post("/v1/explain", {"instances": [{column.name: 0 for column in columns}] * 16})
    assert found.status_code == 422
    assert "200,000" in found.json()["allowed"]


# ------------------------------------------------------------------ the card, the counters, the coder


def test_the_card_says_what_was_found(caller: Caller, passed: Path) -> None:
    card = caller.get("/card").json()
    about = json.loads((passed / "open/dossier.json").read_bytes())
    assert card["verdict"] == "pass"
    assert card["policy"]["digest"] == about["policy"]["digest"]
    assert card["system"]["digest"] == about["system"]["digest"]
    assert [(one["metric"], one["verdict"]) for one in card["findings"]] == [("accuracy", "pass")]
    assert card["signer"] == caller.service.served.signer
    assert card["signer_is_pinned"] is False
    assert [one["name"] for one in card["data"]["columns"]] == ["age", "hours", "job", "sex"]


def test_the_counters_count(caller: Caller) -> None:
    caller.predict(GOOD, GOOD)
    caller.predict({})
    text = caller.get("/metrics").text
    assert 'assay_responses_total{status="200"} 1' in text
    assert 'assay_responses_total{status="422"} 1' in text
    assert "assay_model_rows_total 2\n" in text
    assert "assay_requests_accepted_total 3\n" in text
    assert "assay_requests_answered_total 2\n" in text


def cells() -> Iterator[Any]:
    yield from (0, -3, 2.5, 1e38, 3.5e38, -1e300, 10**400, True, None, "", "a", "Male", "b ", "1", [], {}, float("nan"))


def test_the_fast_way_of_coding_is_the_careful_one(served: Served) -> None:
    """For any row: the same bits, or the fast way hands over to the careful one."""
    coder, data = Coder(served.data), served.data
    rng, values = np.random.default_rng(0), list(cells())
    num_fast = num_refused = 0
    for _ in range(2000):
        row: dict[str, Any] = dict(GOOD)
        for name in rng.choice(["age", "hours", "job", "sex", "race", "odd"], size=rng.integers(0, 3)):
            row[str(name)] = values[rng.integers(len(values))]
        if rng.random() < 0.2:
            row.pop(str(rng.choice(list(row))))
        fast = coder._plainly_good([row])
        try:
            careful = encode_rows(data, [row])
        except ValueError:
            assert fast is None
            num_refused += 1
            with pytest.raises(Refusal):
                coder.rows([row])
        else:
            assert fast is None or fast.tobytes() == careful.tobytes()
            assert coder.rows([row]).inputs.tobytes() == careful.tobytes()
            num_fast += fast is not None
    assert num_fast > 300
    assert num_refused > 300


def test_served_parts_are_those_of_the_stored_system(passed: Path, small_data: Data, served: Served) -> None:
    whole = load_system(passed / "system", small_data)
    assert whole.digest == served.dossier.system_digest
    assert whole.model.digest == served.model.digest


def test_an_echo_model_echoes(served: Served) -> None:
    """The control of the batching tests."""
    with calling(replace(served, model=Echo())) as caller:
        assert caller.predict({**GOOD, "age": 25}).json()["probabilities"] == [[0.75, 0.25]]
