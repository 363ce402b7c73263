"""Models made elsewhere, through `assay audit` or Python: what they offer is measured, the rest says why it is not."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay import registry, story
from assay.data import read_table
from assay.dossier import load_dossier
from assay.engine import ON_REQUEST
from assay.models.adapters.sklearn import SklearnModel
from assay.observe import Workspace
from cli_kit import Run, runner, write_table

FEW = "accuracy,input_noise,gradient_attack,membership_inference,latency,model_bytes"
MAKERS = """
import numpy as np
import torch
import assay
from assay.models import Architecture
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings

data = assay.read_table("loans.csv", label="paid", groups=["sex"])


def odds(inputs):
    score = 0.05 * (inputs[:, 0] - 50) + 0.04 * (inputs[:, 1] - 50)
    return np.stack([np.zeros_like(score), score], axis=1)


def black_box():
    return assay.system_of(assay.CallableModel(odds, name="rule", outputs_are="logits"), data, name="their rule")


def white_box():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    return assay.system_of(assay.ModuleModel(net), data, name="their net")


def trained():
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [8]}), task_of(data), TrainSettings(epochs=1))
    return assay.train_system(data, recipe=recipe)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "loans.csv")
    name = f"makers_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MAKERS)
    (tmp_path / "name").write_text(name)
    return tmp_path


@pytest.fixture
def assay(place: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys)


def check(folder: Path, offers: set[str], asked: set[str]) -> None:
    """Each probe asked for is measured when all it needs is offered; otherwise its reason names what is missing."""
    dossier = load_dossier(folder)
    measured = {one.probe for one in dossier.measurements}
    skipped = {one.probe: one.reason for one in dossier.not_applicable}
    for name in asked:
        if skipped.get(name) == ON_REQUEST:
            assert registry.PROBES[name].deep
            continue
        probe = registry.PROBES[name]
        missing = set(probe.access) - offers
        if "classification" not in probe.tasks or "table" not in probe.modalities:
            assert name in skipped
        elif missing:
            assert name not in measured
            assert all(access in skipped[name] for access in missing), skipped[name]
            assert all(access in skipped[name] for access in offers), skipped[name]
        else:
            assert name in measured, skipped.get(name)
    assert measured | skipped.keys() == asked
    assert not [one.reason for one in dossier.measurements if one.reason.startswith("the probe stopped")]


def test_a_function_as_a_system(assay: Run, place: Path) -> None:
    name = (place / "name").read_text()
    told = assay("audit", f"{name}:black_box", "--out", "d")
    assert told.code in (0, 1, 3), told.err
    check(place / "d", {"query"}, set(registry.PROBES))
    assert "gradient_attack, because it needs gradient access" in told.out
    assert not (place / "d" / "system").exists()
    told = assay("verify", "d")
    assert (told.code, "system:     absent" in told.out) == (0, True), told.out
    assert assay("report", "d").code == 0


def test_a_module_as_a_system(assay: Run, place: Path) -> None:
    name = (place / "name").read_text()
    assert assay("audit", f"{name}:white_box", "--probes", FEW, "--out", "d").code in (0, 1, 3)
    check(place / "d", {"query", "gradient", "meter"}, set(FEW.split(",")))


def test_a_treated_system_of_a_function_opens_its_data_again(assay: Run, place: Path) -> None:
    name = (place / "name").read_text()
    assert assay("treat", f"{name}:trained", "--with", "prune_magnitude", "--out", "treated").code == 0
    told = assay("audit", "treated", "--probes", "accuracy", "--out", "d")
    assert told.code in (0, 1, 3), told.err
    assert [step["treatment"] for step in load_dossier(place / "d").about["system"]["lineage"]] == ["prune_magnitude"]


def test_what_cannot_be_stored_says_so(assay: Run, place: Path) -> None:
    name = (place / "name").read_text()
    told = assay("treat", f"{name}:black_box", "--with", "group_thresholds", "--out", "treated")
    assert (told.code, told.out, len(told.err.splitlines())) == (2, "", 1)
    assert "defect" not in told.err
    assert not (place / "treated").exists()


def test_an_onnx_file(assay: Run, place: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    weights = np.array([[0, 0.05], [0, 0.04], [0, 0], [0, 0]], dtype=np.float32)
    tensors = [
        onnx.numpy_helper.from_array(weights, "w"),
        onnx.numpy_helper.from_array(np.array([0, -4.5], dtype=np.float32), "b"),
    ]
    sides = [
        onnx.helper.make_tensor_value_info(one, onnx.TensorProto.FLOAT, ["N", width])
        for one, width in (("rows", 4), ("probabilities", 2))
    ]
    nodes = [
        onnx.helper.make_node("Gemm", ["rows", "w", "b"], ["z"]),
        onnx.helper.make_node("Softmax", ["z"], ["probabilities"], axis=1),
    ]
    graph = onnx.helper.make_graph(nodes, "odds", sides[:1], sides[1:], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (place / "model.onnx").write_bytes(model.SerializeToString())
    told = assay("audit", "model.onnx", "--data", "loans.csv", "--label", "paid", "--groups", "sex", "--out", "d")
    assert told.code in (0, 1, 3), told.err
    check(place / "d", {"query", "meter"}, set(registry.PROBES))
    accuracy = next(one.value for one in load_dossier(place / "d").measurements if one.metric == "accuracy")
    split = read_table("loans.csv", label="paid", groups=["sex"]).splits["test"]
    expected = (split.inputs @ weights[:, 1] > 4.5) == (split.labels == 1)
    assert accuracy == pytest.approx(expected.mean())
    told = assay("audit", "model.onnx", "--out", "e")
    assert (told.code, "--data" in told.err) == (2, True)


def test_a_scikit_learn_estimator(place: Path) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    data = read_table("loans.csv", label="paid", groups=["sex"])
    train = data.splits["train"]
    estimator = linear.LogisticRegression(max_iter=1000).fit(train.inputs, train.labels)
    model = SklearnModel(estimator, data.columns, classes=data.classes)
    judged = story.audit(story.system_of(model, data), workspace=Workspace(key=b"k", num_draws=50))
    dossier = story.file(judged, place / "d")
    check(Path(dossier.path), {"query", "meter"}, set(registry.PROBES))
    test = data.splits["test"]
    assert judged.audit.find("accuracy").value == pytest.approx(estimator.score(test.inputs, test.labels))


# ------------------------------------------------------------------ an endpoint


@pytest.fixture
def endpoint() -> Iterator[tuple[str, dict[str, Any]]]:
    """An endpoint on this machine; `state` says how it answers and counts what it was asked."""
    state: dict[str, Any] = {"rows": 0, "requests": 0, "answer": None}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["instances"]
            state["rows"] += len(rows)
            state["requests"] += 1
            status, body = (state["answer"] or good)(rows)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/predict", state
    server.shutdown()
    server.server_close()
    thread.join()


def chance(row: dict[str, Any]) -> list[float]:
    odds = 1 / (1 + np.exp(-0.05 * (row["age"] - 50) - 0.04 * (row["hours"] - 50)))
    return [1 - odds, odds]


def good(rows: list[dict[str, Any]]) -> tuple[int, bytes]:
    return 200, json.dumps({"predictions": [chance(row) for row in rows]}).encode()


def test_an_endpoint(assay: Run, place: Path, endpoint: tuple[str, dict[str, Any]]) -> None:
    url, state = endpoint
    words = ("--data", "loans.csv", "--label", "paid", "--groups", "sex", "--probes", FEW)
    told = assay("audit", url, *words, "--out", "d", "--json")
    assert told.code in (0, 1, 3), told.err
    check(place / "d", {"query"}, set(FEW.split(",")))
    assert state["rows"] == sum(json.loads(told.out)["ledger"].values())
    assert assay("audit", url, *words, "--out", "d").code in (0, 1, 3)
    assert state["rows"] == sum(json.loads(told.out)["ledger"].values()), "asked again for what was remembered"
    assert assay("verify", "d").code == 0


def test_an_endpoint_that_fails_half_of_the_time_loses_no_row(
    assay: Run, place: Path, endpoint: tuple[str, dict[str, Any]]
) -> None:
    url, state = endpoint

    def half(rows: list[dict[str, Any]]) -> tuple[int, bytes]:
        told = [[None, None] if row["sex"] == "f" else chance(row) for row in rows]
        return 200, json.dumps({"predictions": told}).encode()

    state["answer"] = half
    words = ("--data", "loans.csv", "--label", "paid", "--groups", "sex", "--probes", "accuracy,group_error_rates")
    assert assay("audit", url, *words, "--out", "d").code in (1, 3)
    split = read_table("loans.csv", label="paid", groups=["sex"]).splits["test"]
    women = int((split.groups.codes[:, 0] == 0).sum())
    found = next(one for one in load_dossier(place / "d").measurements if one.metric == "accuracy")
    assert (found.attempted, found.errored) == (len(split), women)
    assert found.value is not None
    assert found.value <= 1 - women / len(split), "a row without an answer is not right"
    errors = {one.slice: one for one in load_dossier(place / "d").measurements if one.metric == "error_rate"}
    assert errors["sex=f"].value == 1.0


@pytest.mark.parametrize("status", [401, 404])
def test_an_endpoint_that_refuses_is_one_sentence(
    assay: Run, endpoint: tuple[str, dict[str, Any]], status: int
) -> None:
    url, state = endpoint
    state["answer"] = lambda rows: (status, b"no")
    words = ("--data", "loans.csv", "--label", "paid", "--groups", "sex", "--probes", "accuracy")
    told = assay("audit", url, *words, "--out", "d")
    assert (told.code, told.out, len(told.err.splitlines())) == (2, "", 1)
    assert f"HTTP status {status}" in told.err
    assert state["requests"] == 1, "what was refused is not asked again"
