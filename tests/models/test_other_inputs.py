"""Pictures and texts through the ways in that were first made for tables."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from assay.errors import ModelError
from assay.models.adapters.endpoint import CallableModel, Connection, HttpModel
from assay.models.adapters.module import ModuleModel
from assay.models.adapters.onnx import export_onnx, load_onnx
from assay.models.adapters.sklearn import SklearnModel, digest_estimator
from assay.parts import texts
from assay.values import Column

TEXT = (Column("text", "text", language="en"),)
IMAGE = (Column("image", "image", low=0, high=255, shape=(2, 3, 4)),)
PIXELS = np.random.default_rng(0).integers(0, 256, (7, 2, 3, 4)).astype(np.uint8)
REVIEWS = texts(["a good film", "bad", "", "not good", "好"])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2)).eval()


class TestOnnx:
    @pytest.fixture(autouse=True)
    def _needs(self) -> None:
        for name in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(name)

    @pytest.mark.slow
    def test_pictures_round_trip(self, tmp_path: Path) -> None:
        export_onnx(network(), tmp_path / "m.onnx", (2, 3, 4))
        model = load_onnx(tmp_path / "m.onnx")
        assert model.shape == (2, 3, 4)
        assert model.num_features is None
        expected = ModuleModel(network()).outputs(PIXELS)
        np.testing.assert_allclose(model.outputs(PIXELS), expected, rtol=1e-4, atol=1e-3)
        np.testing.assert_array_equal(model.outputs(PIXELS.astype(np.float32)), model.outputs(PIXELS))
        for wrong in (PIXELS[:, :1], PIXELS[:, 0], np.zeros((2, 3), np.float32), REVIEWS):
            with pytest.raises(ModelError, match=r"inputs have shape .*Allowed: \(N, 2, 3, 4\)"):
                model.outputs(wrong)

    def test_texts_are_told_where_to_go(self, tmp_path: Path) -> None:
        from onnx import TensorProto, helper

        inputs = [helper.make_tensor_value_info("text", TensorProto.STRING, ["N"])]
        outputs = [helper.make_tensor_value_info("out", TensorProto.STRING, ["N"])]
        graph = helper.make_graph([helper.make_node("Identity", ["text"], ["out"])], "g", inputs, outputs)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
        with pytest.raises(ModelError, match=r"tensor\(string\).*Hugging Face folder"):
            load_onnx(tmp_path / "m.onnx")

    def test_a_module_that_reads_raw_texts_cannot_be_exported(self, tmp_path: Path) -> None:
        class Reads(nn.Linear):
            def encode(self, inputs: Any) -> torch.Tensor:
                return torch.zeros(len(inputs), 2)

        with pytest.raises(ModelError, match="Reads reads raw inputs"):
            export_onnx(Reads(2, 2), tmp_path / "m.onnx", 2)


FIT = """
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
words = TfidfVectorizer(stop_words=["the", "of"])
estimator = make_pipeline(words, LogisticRegression()).fit(["good film", "bad film", "good", "so bad"], [1, 0, 1, 0])
"""


class TestEstimators:
    @pytest.fixture(autouse=True)
    def _needs(self) -> None:
        pytest.importorskip("sklearn")

    def fitted(self) -> Any:
        made: dict[str, Any] = {}
        exec(FIT, made)  # noqa: S102
        made["estimator"].predict(["the end"])
        return made["estimator"]

    def test_texts_come_raw(self) -> None:
        model = SklearnModel(self.fitted(), TEXT, classes=("neg", "pos"))
        assert model.outputs_are == "probabilities"
        np.testing.assert_allclose(model.outputs(REVIEWS), self.fitted().predict_proba(REVIEWS.tolist()), atol=1e-6)
        with pytest.raises(ModelError, match=r"Allowed: texts \(N,\)"):
            model.outputs(np.zeros((2, 2), np.float32))
        with pytest.raises(ModelError, match="no table"):
            SklearnModel(self.fitted(), TEXT, inputs_are="table")

    @pytest.mark.slow
    def test_the_digest_is_the_same_in_another_process(self) -> None:
        """The vectoriser remembers where in memory its stop words lie; that is not what it answers."""
        code = FIT + "from assay.models.adapters.sklearn import digest_estimator\n"
        code += "estimator.predict(['the end'])\nprint(digest_estimator(estimator)[0])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == digest_estimator(self.fitted())[0]

    def test_pixels_come_flat(self) -> None:
        from sklearn.linear_model import LogisticRegression

        flat = PIXELS.reshape(7, 24)
        estimator = LogisticRegression().fit(flat, [0, 1, 0, 1, 0, 1, 1])
        model = SklearnModel(estimator, IMAGE)
        np.testing.assert_allclose(model.outputs(PIXELS), estimator.predict_proba(flat), atol=1e-6)
        with pytest.raises(ModelError, match=r"Allowed: numbers \(N, 2, 3, 4\)"):
            model.outputs(PIXELS[:, :1])
        with pytest.raises(ModelError, match=r"texts \(N,\)"):
            SklearnModel(estimator, TEXT).outputs(PIXELS)
        with pytest.raises(ModelError, match="the estimator stopped"):
            SklearnModel(estimator, TEXT).outputs(REVIEWS)


def length_answer(body: Any) -> list[list[float]]:
    """Two numbers a row that only the right text or picture gives."""
    if "instances" in body:
        rows = [next(iter(row.values())) for row in body["instances"]]
    else:
        (tensor,) = body["inputs"]
        rows = np.array(tensor["data"]).reshape(tensor["shape"]).tolist()
        rows = [row[0] if tensor["datatype"] == "BYTES" else row for row in rows]
    values = [len(row) / 100 if isinstance(row, str) else float(np.mean(row)) / 255 for row in rows]
    return [[1 - value, value] for value in values]


@pytest.fixture
def endpoint() -> Iterator[tuple[str, list[Any]]]:
    seen: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append(body)
            answer: Any = {"predictions": length_answer(body)}
            if self.path.endswith("/infer"):
                flat = [value for row in answer["predictions"] for value in row]
                shape = [len(flat) // 2, 2]
                answer = {"outputs": [{"name": "p", "datatype": "FP64", "shape": shape, "data": flat}]}
            content = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", seen
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("path", ["/predict", "/v2/models/m/infer"])
def test_an_endpoint_gets_texts_and_pictures(endpoint: tuple[str, list[Any]], path: str) -> None:
    url, seen = endpoint
    fast = Connection(timeout_seconds=2.0, retries=0, batch_size=3)
    model = HttpModel(url + path, columns=TEXT, num_outputs=2, connection=fast)
    lengths = np.array([len(text) for text in REVIEWS.tolist()]) / 100
    np.testing.assert_allclose(model.outputs(REVIEWS)[:, 1], lengths, atol=1e-6)
    assert "好" in json.dumps(seen, ensure_ascii=False)
    assert len(seen) == 2
    model = HttpModel(url + path, columns=IMAGE, num_outputs=2, connection=fast)
    for pixels, kind in ((PIXELS, "UINT8"), (PIXELS + np.float32(0.25), "FP32")):
        seen.clear()
        found = model.outputs(pixels)
        np.testing.assert_allclose(found[:, 1], pixels.mean(axis=(1, 2, 3)) / 255, atol=1e-5)
        if path.endswith("infer"):
            assert (seen[0]["inputs"][0]["datatype"], seen[0]["inputs"][0]["shape"]) == (kind, [3, 2, 3, 4])
        else:
            assert seen[0]["instances"][0]["image"] == pixels[0].tolist()
    for wrong in (REVIEWS, PIXELS[:, :1], np.zeros((2, 24), np.float32)):
        with pytest.raises(ModelError, match=r"Allowed: numbers \(N, 2, 3, 4\)"):
            model.outputs(wrong)


def test_large_pictures_go_in_small_requests(endpoint: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.models.adapters.endpoint.MAX_NUMBERS", 50)
    url, seen = endpoint
    HttpModel(url + "/predict", columns=IMAGE, num_outputs=2).outputs(PIXELS)
    assert [len(body["instances"]) for body in seen] == [2, 2, 2, 1]


def test_a_function_gets_what_there_is() -> None:
    def longer(inputs: Any) -> Any:
        assert inputs.dtype.kind == "T"
        return np.array([[1.0, len(text)] for text in inputs.tolist()])

    model = CallableModel(longer, name="longer", outputs_are="logits")
    assert model.outputs(REVIEWS)[:, 1].tolist() == [11, 3, 0, 8, 1]
    brightness = CallableModel(lambda pixels: pixels.mean(axis=(1, 2, 3)), name="b", outputs_are="values")
    np.testing.assert_allclose(brightness.outputs(PIXELS)[:, 0], PIXELS.mean(axis=(1, 2, 3)), rtol=1e-6)


def test_a_module_without_its_own_encoding_refuses_texts() -> None:
    with pytest.raises(ModelError, match="Linear cannot read inputs"):
        ModuleModel(nn.Linear(2, 2)).outputs(REVIEWS)
    np.testing.assert_array_equal(
        ModuleModel(network()).outputs(PIXELS), ModuleModel(network()).outputs(PIXELS.astype(np.float32))
    )
