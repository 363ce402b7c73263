from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from assay.errors import ModelError, UsageError
from assay.models.adapters import endpoint
from assay.models.adapters.endpoint import CallableModel, Connection, HttpModel
from assay.values import Model
from support import COLUMNS, make_split

ROWS = make_split(20, 1, 1).inputs
FAST = Connection(timeout_seconds=1.0, retries=1, batch_size=8)
Answer = Callable[[Any, int], tuple[int, bytes, dict[str, str]]]


def probability(row: dict[str, Any]) -> float:
    return float(1 / (1 + np.exp(-(row["age"] - 50) / 20)))


def rows_answer(body: Any, number: int) -> tuple[int, bytes, dict[str, str]]:
    predictions = [[1 - probability(row), probability(row)] for row in body["instances"]]
    return 200, json.dumps({"predictions": predictions}).encode(), {}


class Server:
    """An endpoint on loopback whose every answer is the test's own."""

    def __init__(self, answer: Answer) -> None:
        self.requests: list[Any] = []
        self.headers: list[Any] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(body)
                outer.headers.append(dict(self.headers))
                status, content, headers = outer.answer(body, len(outer.requests))
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.answer = answer
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], Server]]:
    monkeypatch.setattr(endpoint, "MAX_WAIT", 0.01)
    servers: list[Server] = []

    def start(answer: Answer) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def model(url: str, **options: Any) -> HttpModel:
    options = {"connection": FAST, **options}
    return HttpModel(url, columns=COLUMNS, num_outputs=2, **options)


def expected() -> np.ndarray:
    right = 1 / (1 + np.exp(-(ROWS[:, 0].astype(float) - 50) / 20))
    return np.stack([1 - right, right], axis=1)


def test_rows_go_out_with_names_and_raw_values(serve: Callable[[Answer], Server]) -> None:
    server = serve(rows_answer)
    made = model(server.url + "/v1/predict")
    assert isinstance(made, Model)
    assert made.offers == {"query"}
    assert made.num_bytes is None
    np.testing.assert_allclose(made.outputs(ROWS), expected(), atol=1e-6)
    assert [len(request["instances"]) for request in server.requests] == [8, 8, 4]
    row = server.requests[0]["instances"][0]
    assert row == {
        "age": float(ROWS[0, 0]),
        "hours": float(ROWS[0, 1]),
        "job": "abc"[int(ROWS[0, 2])],
        "sex": ("Female", "Male")[int(ROWS[0, 3])],
    }
    missing = ROWS[:1].copy()
    missing[0, 1:3] = [np.nan, -1]
    made.outputs(missing)
    assert server.requests[-1]["instances"][0]["hours"] is None
    assert server.requests[-1]["instances"][0]["job"] is None
    assert made.num_errored == 0
    assert made.outputs(ROWS[:0]).shape == (0, 2)


def test_open_inference_protocol(serve: Callable[[Answer], Server]) -> None:
    def answer(body: Any, number: int) -> tuple[int, bytes, dict[str, str]]:
        named = {tensor["name"]: tensor for tensor in body["inputs"]}
        assert named["age"]["datatype"] == "FP64"
        assert named["job"]["datatype"] == "BYTES"
        num = named["age"]["shape"][0]
        right = [probability({"age": age}) for age in named["age"]["data"]]
        flat = [value for p in right for value in (1 - p, p)]
        label = {"name": "label", "shape": [num], "datatype": "INT64", "data": [0] * num}
        scores = {"name": "probabilities", "shape": [num, 2], "datatype": "FP32", "data": flat}
        return 200, json.dumps({"outputs": [label, scores]}).encode(), {}

    made = model(serve(answer).url + "/v2/models/m/infer")
    np.testing.assert_allclose(made.outputs(ROWS), expected(), atol=1e-6)


def test_other_shapes_of_the_same_answer(serve: Callable[[Answer], Server]) -> None:
    def objects(body: Any, number: int) -> tuple[int, bytes, dict[str, str]]:
        rows = [{"label": "no", "probabilities": {"no": 0.25, "yes": 0.75}} for _ in body["instances"]]
        return 200, json.dumps({"predictions": rows}).encode(), {}

    def plain(body: Any, number: int) -> tuple[int, bytes, dict[str, str]]:
        return 200, json.dumps({"probabilities": [[0.25, 0.75]] * len(body["instances"])}).encode(), {}

    for answer in (objects, plain):
        np.testing.assert_allclose(model(serve(answer).url).outputs(ROWS), np.tile([0.25, 0.75], (20, 1)))


def test_a_failing_endpoint_errs_rows_and_does_not_crash(serve: Callable[[Answer], Server]) -> None:
    """Rows over 70 are refused: those rows alone are errored, all others are answered."""

    def answer(body: Any, number: int) -> tuple[int, bytes, dict[str, str]]:
        if any(row["age"] > 70 for row in body["instances"]):
            return 422, b'{"error": "age"}', {}
        return rows_answer(body, number)

    made = model(serve(answer).url)
    answers = made.outputs(ROWS)
    refused = ROWS[:, 0] > 70
    assert 0 < refused.sum() < 20
    np.testing.assert_array_equal(np.isnan(answers).all(axis=1), refused)
    np.testing.assert_allclose(answers[~refused], expected()[~refused], atol=1e-6)
    assert made.num_errored == refused.sum()
    assert made.problems == ["HTTP status 422"]


def test_busy_answers_are_tried_again_a_bounded_number_of_times(serve: Callable[[Answer], Server]) -> None:
    def busy_once(body: Any, number: int) -> tuple[int, bytes, dict[str, str]]:
        return rows_answer(body, number) if number % 2 == 0 else (503, b"", {"Retry-After": "100"})

    server = serve(busy_once)
    np.testing.assert_allclose(model(server.url).outputs(ROWS), expected(), atol=1e-6)
    assert len(server.requests) == 6
    always = serve(lambda body, number: (429, b"", {}))
    made = model(always.url)
    assert np.isnan(made.outputs(ROWS)).all()
    assert len(always.requests) == 2 * 3
    assert made.num_errored == 20


def test_after_five_failures_in_a_row_it_stops_asking(serve: Callable[[Answer], Server]) -> None:
    server = serve(lambda body, number: rows_answer(body, number) if number == 1 else (500, b"", {}))
    made = model(server.url, connection=Connection(timeout_seconds=1, retries=0, batch_size=1))
    answers = made.outputs(ROWS)
    assert len(server.requests) == 1 + 5
    assert np.isfinite(answers[0]).all()
    assert np.isnan(answers[1:]).all()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b'{"other": 1}',
        b'{"predictions": 3}',
        b'{"predictions": [[0.5, 0.5]]}',
        b'{"predictions": [[0.5, 0.5, 0.5]]}',
        b'{"predictions": [["a", "b"]]}',
        b'{"predictions": [[true, false]]}',
        b'{"predictions": [[[0.5], [0.5]]]}',
        b'{"predictions": [' + b"[0.5, 0.5]," * 7 + b"[0.5]]}",
        b"[" * 100_000,
        b'{"predictions": [[1e999999, 1]' + b",[0.5,0.5]" * 6 + b"]}",
        b"\xff\xfe",
    ],
)
def test_answers_that_cannot_be_read_err_the_rows(content: bytes, serve: Callable[[Answer], Server]) -> None:
    made = model(serve(lambda body, number: (200, content, {})).url)
    assert np.isnan(made.outputs(ROWS[:8])).all()
    assert made.num_errored == 8
    assert made.problems


def test_null_and_nan_numbers_are_errored_rows(serve: Callable[[Answer], Server]) -> None:
    content = b'{"predictions": [[null, 0.5], [NaN, 0.5], [0.5, 0.5]]}'
    made = model(serve(lambda body, number: (200, content, {})).url)
    answers = made.outputs(ROWS[:3])
    assert np.isnan(answers).any(axis=1).tolist() == [True, True, False]
    assert made.num_errored == 2


def test_long_and_slow_answers_are_cut(serve: Callable[[Answer], Server]) -> None:
    long = serve(lambda body, number: (200, b" " * 300_000, {}))
    small = Connection(timeout_seconds=60, retries=0, batch_size=8, max_bytes=100_000)
    made = model(long.url, connection=small)
    assert np.isnan(made.outputs(ROWS[:8])).all()
    assert "longer than 100,000 bytes" in made.problems[0]

    go = threading.Event()

    def sleepy(body: Any, number: int) -> tuple[int, bytes, dict[str, str]]:
        go.wait(60)  # whoever waited for this answer would get it
        return rows_answer(body, number)

    made = model(serve(sleepy).url, connection=Connection(timeout_seconds=0.1, retries=0, batch_size=20))
    assert np.isnan(made.outputs(ROWS)).all()
    go.set()
    assert "timed out" in made.problems[0]


def test_redirects_are_not_followed(serve: Callable[[Answer], Server]) -> None:
    elsewhere = serve(rows_answer)
    server = serve(lambda body, number: (307, b"", {"Location": elsewhere.url}))
    made = model(server.url)
    assert np.isnan(made.outputs(ROWS[:8])).all()
    assert elsewhere.requests == []


def test_proxies_of_the_environment_are_not_used(
    serve: Callable[[Answer], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    np.testing.assert_allclose(model(serve(rows_answer).url).outputs(ROWS), expected(), atol=1e-6)


def test_nothing_there_and_no_key_are_errors_at_once(serve: Callable[[Answer], Server]) -> None:
    server = serve(rows_answer)
    server.server.server_close()
    with pytest.raises(ModelError, match="nothing answers at"):
        model(server.url).outputs(ROWS)
    locked = serve(lambda body, number: (401, b"", {}))
    with pytest.raises(ModelError, match="HTTP status 401"):
        model(locked.url).outputs(ROWS)
    assert len(locked.requests) == 1


def test_keys_are_sent_and_never_kept(serve: Callable[[Answer], Server]) -> None:
    server = serve(rows_answer)
    secret = Connection(headers={"Authorization": "Bearer s3cret"})
    made = model(server.url, connection=secret)
    made.outputs(ROWS)
    assert server.headers[0]["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in repr(secret)
    assert made.digest == model(server.url).digest


def test_digest_covers_url_and_declared_version() -> None:
    digests = {
        model("http://127.0.0.1:1/a").digest,
        model("http://127.0.0.1:1/b").digest,
        model("http://127.0.0.1:1/a", version="2").digest,
        model("http://127.0.0.1:1/a", outputs_are="logits").digest,
    }
    assert len(digests) == 4


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "localhost:80", "http://", "http://u:p@host/x"])
def test_only_plain_http_addresses(url: str) -> None:
    with pytest.raises(UsageError, match="not the address of an endpoint"):
        model(url)


def test_connection_bounds() -> None:
    with pytest.raises(UsageError):
        Connection(timeout_seconds=0)
    with pytest.raises(UsageError):
        Connection(retries=99)


def test_callables() -> None:
    even = CallableModel(lambda inputs: np.full((len(inputs), 2), 0.5), name="even", outputs_are="probabilities")
    assert isinstance(even, Model)
    assert even.offers == {"query"}
    assert even.outputs(ROWS).dtype == np.float32
    assert even.digest != CallableModel(len, name="even", outputs_are="probabilities", version="2").digest
    with pytest.raises(ModelError, match=r"shape \(3, 1\)"):
        CallableModel(lambda inputs: np.zeros(3), name="short", outputs_are="logits").outputs(ROWS)
    with pytest.raises(ModelError, match="broken stopped with ZeroDivisionError"):
        CallableModel(lambda inputs: 1 / 0, name="broken", outputs_are="logits").outputs(ROWS)


def test_a_callable_cannot_change_the_inputs() -> None:
    def spoil(inputs: np.ndarray) -> np.ndarray:
        inputs[:] = 0
        return np.zeros((len(inputs), 2))

    before = ROWS.copy()
    CallableModel(spoil, name="spoil", outputs_are="logits").outputs(ROWS)
    assert np.array_equal(ROWS, before)
