"""Functions and HTTP endpoints as black boxes: query access only."""

from __future__ import annotations

import http.client
import json
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from assay.errors import ModelError, Problem, UsageError
from assay.models.adapters._rows import check_inputs, decode
from assay.models.adapters.module import OutputsAre
from assay.parts import modality
from assay.values import Array, Column, digest_of

__all__ = ["CallableModel", "Connection", "HttpModel"]

MAX_WAIT = 5.0  # seconds between two tries, whatever Retry-After says
MAX_NUMBERS = 1 << 20  # pixels in one request
GIVE_UP_AFTER = 5  # failed batches in a row; the rows that are left are then marked errored without asking
FATAL = frozenset({401, 403, 404, 405})
AGAIN = frozenset({408, 429, 500, 502, 503, 504})


class CallableModel:
    """A function from rows `(N, F)`, pictures `(N, C, H, W)` or texts `(N,)` to outputs `(N, K)`. Offers query.

    `digest` covers `name`, `version` and what the outputs are. Limits: it cannot see the function's code, so change
    `version` whenever answers may change, or remembered answers are used. Raises ModelError, from `outputs`, when the
    function raises or returns another shape; rows of NaN are errored examples.

    >>> even = CallableModel(lambda inputs: np.full((len(inputs), 2), 0.5), name="even", outputs_are="probabilities")
    >>> even.outputs(np.zeros((3, 4), dtype=np.float32)).shape
    (3, 2)
    """

    def __init__(
        self, function: Callable[[Array], Any], *, name: str, outputs_are: OutputsAre, version: str = ""
    ) -> None:
        self.function, self.name, self.outputs_are = function, name, outputs_are
        self.offers = frozenset({"query"})
        self.num_bytes: int | None = None
        self.digest = digest_of(["callable", name, version, outputs_are])

    def outputs(self, inputs: Array) -> Array:
        """Raw inputs `(N, ...)` to outputs `(N, K)` float32."""
        try:
            answer = np.asarray(self.function(np.array(inputs)), dtype=np.float32)
        except Exception as error:  # a user's function may raise anything
            raise ModelError(Problem(f"{self.name} stopped with {type(error).__name__}: {str(error)[:200]}")) from error
        answer = answer[:, None] if answer.ndim == 1 else answer
        if answer.ndim != 2 or len(answer) != len(inputs):
            raise ModelError(Problem(f"{self.name} answered {len(inputs)} rows with shape {answer.shape}", "(N, K)"))
        return answer


@dataclass(frozen=True)
class Connection:
    """Bounds of talking to an endpoint. `headers` (a key, say) are sent, and never stored, shown or digested."""

    timeout_seconds: float = 10.0
    retries: int = 2
    batch_size: int = 256
    max_bytes: int = 16 << 20  # of one response
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        fine = 0 < self.timeout_seconds < math.inf and 0 <= self.retries <= 10
        if not (fine and self.batch_size >= 1 and self.max_bytes >= 1):
            raise UsageError(Problem(f"{self} cannot be used", "positive numbers, and 0 to 10 retries"))


class HttpModel:
    """An HTTP endpoint that answers rows of named raw values. Offers query.

    A URL that ends in `/infer` is spoken to in the Open Inference Protocol v2, one tensor per column; any other gets
    `{"instances": [{column: value, ...}, ...]}` and must answer `{"predictions": [[...K numbers...], ...]}` or
    `{"probabilities": ...}`. Missing values are null; a text is a string (BYTES); a picture is nested lists
    `(C, H, W)` of numbers from 0 to 255 (UINT8, or FP32 where some are not whole).

    Rows that the endpoint cannot answer (a bad status after bounded retries, a wrong shape, a number that is null)
    become NaN: errored examples, counted in `num_errored`, with the first reasons in `problems`; a refused batch is
    halved until the refused rows stand alone. After five failed batches in a row the rest is marked errored unasked.

    `digest` covers the URL, the declared `version`, and what the outputs are. Limits: an endpoint may change under the
    same version. Redirects and proxies are not followed, and no other host is spoken to. Raises UsageError for another
    kind of URL; ModelError when nothing has answered yet and the endpoint refuses the connection, the key or the path.
    """

    def __init__(
        self,
        url: str,
        *,
        columns: Sequence[Column],
        num_outputs: int,
        outputs_are: OutputsAre = "probabilities",
        version: str = "",
        connection: Connection | None = None,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise UsageError(
                Problem(f"{url!r} is not the address of an endpoint", "http(s)://host[:port]/path, no user")
            )
        self.url, self.columns, self.num_outputs, self.outputs_are = url, tuple(columns), num_outputs, outputs_are
        self.connection = connection or Connection()
        self.offers = frozenset({"query"})
        self.num_bytes: int | None = None
        self.digest = digest_of(["http", url, version, outputs_are, [column.name for column in columns]])
        self.num_errored = 0
        self.problems: list[str] = []
        self._answered = False
        self._failures = 0
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())

    def outputs(self, inputs: Array) -> Array:
        """Raw inputs `(N, ...)` to outputs `(N, K)` float32; NaN rows are errored examples."""
        check_inputs(inputs, self.columns)
        self._failures = 0
        size = max(1, min(self.connection.batch_size, MAX_NUMBERS // max(1, math.prod(inputs.shape[1:]))))
        batches = [self._rows(inputs[start : start + size]) for start in range(0, len(inputs), size)]
        answer = np.concatenate([np.empty((0, self.num_outputs), dtype=np.float32), *batches])
        self.num_errored += int(np.isnan(answer).any(axis=1).sum())
        return answer

    def _rows(self, inputs: Array) -> Array:
        if self._failures >= GIVE_UP_AFTER:
            return self._errored(inputs)
        try:
            answer = self._ask(inputs)
        except _RefusedError as refused:
            if refused.divisible and len(inputs) > 1:
                middle = len(inputs) // 2
                return np.concatenate([self._rows(inputs[:middle]), self._rows(inputs[middle:])])
            self._failures += 0 if refused.divisible else 1
            if len(self.problems) < 10 and str(refused) not in self.problems:
                self.problems.append(str(refused))
            return self._errored(inputs)
        self._answered, self._failures = True, 0
        return answer

    def _errored(self, inputs: Array) -> Array:
        return np.full((len(inputs), self.num_outputs), np.nan, dtype=np.float32)

    def _ask(self, inputs: Array) -> Array:
        """One request with its retries. Raises _RefusedError, or ModelError where trying on makes no sense."""
        oip = urllib.parse.urlsplit(self.url).path.rstrip("/").endswith("/infer")
        table = decode(inputs, self.columns)
        body = _oip_request(table, self.columns, inputs.dtype) if oip else _rows_request(table)
        content = self._send(json.dumps(body, allow_nan=False).encode())
        try:
            answer = json.loads(content)
            values = _oip_answer(answer) if oip else _rows_answer(answer)
            array = np.array(values, dtype=np.float32)
        except (ValueError, TypeError, KeyError, IndexError, RecursionError, OverflowError) as error:
            raise _RefusedError(f"the answer cannot be read: {type(error).__name__}: {str(error)[:100]}") from error
        if array.size != len(inputs) * self.num_outputs or array.ndim == 0 or len(array) != len(inputs):
            raise _RefusedError(f"{len(inputs)} rows were answered with shape {array.shape}")
        return array.reshape(len(inputs), self.num_outputs)

    def _send(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json", **self.connection.headers}
        why = ""
        for attempt in range(self.connection.retries + 1):
            request = urllib.request.Request(self.url, data=body, headers=headers, method="POST")  # noqa: S310
            wait = min(MAX_WAIT, 0.1 * 2**attempt)
            try:
                with self._opener.open(request, timeout=self.connection.timeout_seconds) as response:
                    return self._read(response)
            except urllib.error.HTTPError as error:
                why = f"HTTP status {error.code}"
                error.close()
                if error.code in FATAL and not self._answered:
                    raise ModelError(Problem(f"{self.url} answered {why}", next="Look at the path and key")) from error
                if error.code not in AGAIN:
                    raise _RefusedError(why, divisible=400 <= error.code < 500) from error
                wait = min(MAX_WAIT, max(wait, _seconds(error.headers.get("Retry-After"))))
            except OSError as error:  # URLError and every socket error are OSErrors
                reason = error.reason if isinstance(error, urllib.error.URLError) else error
                why = f"no answer: {reason}"
                if isinstance(reason, ConnectionRefusedError) and not self._answered:
                    raise ModelError(
                        Problem(f"nothing answers at {self.url}", next="Start it, then try again")
                    ) from error
            except http.client.HTTPException as error:
                why = f"no answer: {type(error).__name__}"
            if attempt < self.connection.retries:
                time.sleep(wait)
        raise _RefusedError(why)

    def _read(self, response: Any) -> bytes:
        began, chunks, total = time.monotonic(), [], 0
        while chunk := response.read1(1 << 16):
            chunks.append(chunk)
            total += len(chunk)
            if total > self.connection.max_bytes:
                raise _RefusedError(f"the answer is longer than {self.connection.max_bytes:,} bytes")
            if time.monotonic() - began > self.connection.timeout_seconds:  # a drip of bytes resets the socket's own
                raise TimeoutError("the answer came too slowly")
        return b"".join(chunks)


class _RefusedError(Exception):
    """One request that gave no usable answer; `divisible`: perhaps only for some of its rows."""

    def __init__(self, why: str, *, divisible: bool = False) -> None:
        super().__init__(why)
        self.divisible = divisible


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would send rows to a host that nobody named."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


def _seconds(retry_after: str | None) -> float:
    try:
        return max(0.0, float(retry_after or 0))
    except ValueError:
        return 0.0  # a date: our own wait will do


def _rows_request(table: Mapping[str, list[Any]]) -> dict[str, Any]:
    return {"instances": [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]}


def _rows_answer(answer: Any) -> list[Any]:
    """`predictions` or `probabilities`: rows of numbers, or objects that hold `probabilities`."""
    rows = answer["probabilities"] if "probabilities" in answer else answer["predictions"]
    rows = [row["probabilities"] if isinstance(row, dict) else row for row in rows]
    return [_numbers(row) for row in rows]


def _numbers(row: Any) -> list[float]:
    """A row as floats, null as NaN; ValueError for anything else than numbers."""
    values = row if isinstance(row, list) else list(row.values()) if isinstance(row, dict) else [row]
    if not all(value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)) for value in values):
        raise ValueError("an answer that is not a number")
    return [math.nan if value is None else float(value) for value in values]


def _oip_request(table: Mapping[str, list[Any]], columns: Sequence[Column], dtype: Any) -> dict[str, Any]:
    if modality(columns) == "image":
        (column,) = columns
        pixels = np.array(table[column.name], dtype=dtype)
        kind = "UINT8" if dtype == np.uint8 else "FP32"
        data = pixels.ravel().tolist()
        return {"inputs": [{"name": column.name, "shape": list(pixels.shape), "datatype": kind, "data": data}]}
    kinds = {column.name: "FP64" if column.kind == "numeric" else "BYTES" for column in columns}
    num = len(next(iter(table.values()), []))
    return {
        "inputs": [
            {"name": name, "shape": [num, 1], "datatype": kinds[name], "data": values} for name, values in table.items()
        ]
    }


def _oip_answer(answer: Any) -> list[Any]:
    """The output named like probabilities, else the first floating-point one, in its declared shape."""
    outputs = [output for output in answer["outputs"] if output["datatype"] in ("FP16", "FP32", "FP64")]
    named = [output for output in outputs if "prob" in output["name"].lower()]
    output = (named or outputs)[0]
    return np.array(_numbers(output["data"])).reshape(output["shape"]).tolist()  # type: ignore[no-any-return]
