"""What the service costs: server CPU per request at 32 closed-loop callers, beside a plain Starlette handler without
batching, key or limits, and beside the bare model.

Run: python benchmarks/serving.py [--seconds 1.2] [--rounds 3] [--callers 32] [--json FILE]. About a minute.
Equality first: every way must answer as the bare model does (1e-6). Two models: 14 named columns into a small network,
and 784 numbers into 1024-1024-10. The limit is the model alone: one row a call, and 32 rows a call. CPU time is that of
the server's process, read from /proc; requests per second are of a machine shared with the callers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from assay.models import build as build_module
from assay.models.adapters.module import ModuleModel
from assay.serve.admission import Served
from assay.serve.background import synthetic_rows
from assay.tasks import Argmax, Classification
from assay.values import Column, Data, Dossier

KEY = "b" * 40
CLASSES = {"table": 2, "wide": 10}


@dataclass
class Result:
    """One way of asking: medians over rounds."""

    model: str
    way: str
    cpu_us: float  # server CPU per request
    times_bare: float  # over the bare model at one row a call
    times_limit: float  # over the bare model at 32 rows a call
    per_second: float
    p50_ms: float
    p99_ms: float


def system(name: str) -> Served:
    torch.manual_seed(0)
    num_classes = CLASSES[name]
    if name == "table":
        jobs = tuple(f"job {i}" for i in range(12))
        columns = tuple(Column(f"n{i}", "numeric", low=0, high=100) for i in range(6))
        columns += tuple(Column(f"c{i}", "categorical", jobs) for i in range(8))
        module = build_module("mlp", columns=columns, num_outputs=num_classes, params={"hidden": [64, 64]})
    else:
        columns = tuple(Column(f"p{i}", "numeric", low=0, high=1) for i in range(784))
        layers = [torch.nn.Linear(784, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 1024), torch.nn.ReLU()]
        module = torch.nn.Sequential(*layers, torch.nn.Linear(1024, num_classes))
    classes = tuple(str(i) for i in range(num_classes))
    return Served(
        name=name,
        data=Data(name, columns, "label", (), {}, classes),
        group_columns=(),
        model=ModuleModel(module.eval()),
        task=Classification(classes),
        decision=Argmax(),
        evidence_id="0" * 64,
        signer="",
        is_pinned=False,
        dossier=Dossier("", "", "pass", "0" * 64),
        background=synthetic_rows(columns),
    )


def named_row(served: Served, row: Any) -> dict[str, Any]:
    pairs = zip(served.data.columns, row.tolist(), strict=True)
    return {one.name: value if one.kind == "numeric" else one.categories[int(value)] for one, value in pairs}


# ------------------------------------------------------------------ servers, each its own process


def run_server(name: str, kind: str) -> None:
    torch.set_num_threads(1)
    served = system(name)
    if kind == "ours":
        from assay.serve.keys import key_of
        from assay.serve.routes import build
        from assay.serve.server import listen, serve
        from assay.serve.worker import Worker

        worker = Worker(served.answer)
        gate, _ = build(served, worker, key_of(KEY))
        with listen("127.0.0.1", 0) as sock:
            print(f"port {sock.getsockname()[1]}", flush=True)
            serve(gate, worker, sock)
    else:
        import uvicorn

        from assay.serve.server import listen

        sock = listen("127.0.0.1", 0)
        print(f"port {sock.getsockname()[1]}", flush=True)
        settings = uvicorn.Config(plain_app(served), http="h11", log_level="error", access_log=False, lifespan="off")
        uvicorn.Server(settings).run(sockets=[sock])


def plain_app(served: Served) -> Any:
    """What one writes in ten minutes: parse, one call of the model in the event loop, dump."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    columns = served.data.columns
    codes = [{name: code for code, name in enumerate(column.categories)} for column in columns]

    async def predict(request: Request) -> JSONResponse:
        rows = (await request.json())["instances"]
        cells = [
            [code[row[one.name]] if code else row[one.name] for one, code in zip(columns, codes, strict=True)]
            for row in rows
        ]
        return JSONResponse({"probabilities": served.probabilities(np.array(cells, dtype=np.float32)).tolist()})

    async def raw(request: Request) -> JSONResponse:
        inputs = np.frombuffer(await request.body(), dtype="<f4").reshape(-1, len(columns)).copy()
        return JSONResponse({"probabilities": served.probabilities(inputs).tolist()})

    return Starlette(routes=[Route("/predict", predict, methods=["POST"]), Route("/raw", raw, methods=["POST"])])


# ------------------------------------------------------------------ callers


def request_bytes(path: str, body: bytes, **headers: str) -> bytes:
    named = {"host": "here", "authorization": f"Bearer {KEY}", "content-length": str(len(body)), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in named.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def ways(served: Served, row: Any) -> dict[str, tuple[str, bytes]]:
    """Way of asking to (kind of server, whole request), for one row."""
    shape = {"name": "inputs", "shape": [1, len(row)], "datatype": "FP32"}
    head = json.dumps({"inputs": [{**shape, "parameters": {"binary_data_size": 4 * len(row)}}]}).encode()
    named = json.dumps({"instances": [named_row(served, row)]}).encode()
    listed = json.dumps({"inputs": [{**shape, "data": row.tolist()}]}).encode()
    infer, types = f"/v2/models/{served.name}/infer", {"json": "application/json", "raw": "application/octet-stream"}
    raw = row.astype("<f4").tobytes()
    binary = {"content_type": types["raw"], "inference_header_content_length": str(len(head))}
    return {
        "ours, named JSON": ("ours", request_bytes("/v1/predict", named, content_type=types["json"])),
        "ours, OIP JSON": ("ours", request_bytes(infer, listed, content_type=types["json"])),
        "ours, OIP binary": ("ours", request_bytes(infer, head + raw, **binary)),
        "plain, named JSON": ("plain", request_bytes("/predict", named, content_type=types["json"])),
        "plain, raw bytes": ("plain", request_bytes("/raw", raw, content_type=types["raw"])),
    }


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
    body = await reader.readexactly(length)
    assert head.startswith(b"HTTP/1.1 200"), (head, body)
    return body


async def load(port: int, requests: list[bytes], seconds: float, callers: int) -> list[float]:
    """Closed loop: each caller asks again as soon as it is answered; seconds of every request."""
    taken: list[float] = []

    async def caller(place: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        index = place
        while time.perf_counter() < until:
            began = time.perf_counter()
            await ask(reader, writer, requests[index % len(requests)])
            taken.append(time.perf_counter() - began)
            index += 1
        writer.close()

    until = time.perf_counter() + seconds
    await asyncio.gather(*[caller(place) for place in range(callers)])
    return taken


async def once(port: int, request: bytes) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = json.loads(await ask(reader, writer, request))
    writer.close()
    if "outputs" in found:
        return list(found["outputs"][0]["data"])
    return list(found["probabilities"][0])


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bare_us(served: Served, batch_size: int) -> float:
    """CPU microseconds a row of the model alone."""
    inputs = np.tile(served.background, (1 + batch_size // len(served.background), 1))[:batch_size]
    repeats = max(20, 2000 // batch_size)
    for _ in range(5):
        served.probabilities(inputs)
    began = time.process_time()
    for _ in range(repeats):
        served.probabilities(inputs)
    return (time.process_time() - began) / repeats / batch_size * 1e6


# ------------------------------------------------------------------ the table


def measure(name: str, ports: dict[str, tuple[int, int]], options: argparse.Namespace) -> list[Result]:
    served = system(name)
    rows = served.background[:32]
    requests = {way: [ways(served, row)[way][1] for row in rows] for way in ways(served, rows[0])}
    kinds = {way: kind for way, (kind, _) in ways(served, rows[0]).items()}
    expected = served.probabilities(rows)
    for way, listed in requests.items():  # equality first
        for row, request in enumerate(listed):
            found = asyncio.run(once(ports[kinds[way]][1], request))
            np.testing.assert_allclose(found, expected[row], atol=1e-6, err_msg=way)
    costs: dict[str, list[tuple[float, ...]]] = {way: [] for way in requests}
    bare: dict[int, list[float]] = {1: [], 32: []}
    for _ in range(options.rounds):
        for batch_size, found_us in bare.items():
            found_us.append(bare_us(served, batch_size))
        for way, listed in requests.items():
            pid, port = ports[kinds[way]]
            began, started = cpu_seconds(pid), time.perf_counter()
            taken = asyncio.run(load(port, listed, options.seconds, options.callers))
            wall = time.perf_counter() - started
            cost = (cpu_seconds(pid) - began) / len(taken) * 1e6
            p50, p99 = np.quantile(taken, [0.5, 0.99]) * 1e3
            costs[way].append((cost, cost / bare[1][-1], cost / bare[32][-1], len(taken) / wall, p50, p99))
    medians = {way: [statistics.median(column) for column in zip(*found, strict=True)] for way, found in costs.items()}
    ones = [statistics.median(bare[1]), statistics.median(bare[32])]
    alone = [
        Result(name, f"bare model, {size} rows a call", us, us / ones[0], us / ones[1], 1e6 / us, 0, 0)
        for size, us in zip(bare, ones, strict=True)
    ]
    return alone + [Result(name, way, *found) for way, found in medians.items()]


def show(results: list[Result]) -> None:
    print(f"{'model':6} {'way':26} {'CPU µs':>8} {'× bare':>7} {'× limit':>8} {'req/s':>8} {'p50 ms':>7} {'p99 ms':>7}")
    for one in results:
        numbers = f"{one.cpu_us:8.0f} {one.times_bare:7.2f} {one.times_limit:8.1f} {one.per_second:8.0f}"
        print(f"{one.model:6} {one.way:26} {numbers} {one.p50_ms:7.1f} {one.p99_ms:7.1f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=1.2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", choices=list(CLASSES), help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=["ours", "plain"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        run_server(options.serve, options.kind)
        return
    torch.set_num_threads(1)
    started = {}
    for name in CLASSES:
        for kind in ("ours", "plain"):
            command = [sys.executable, __file__, "--serve", name, "--kind", kind]
            started[name, kind] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        ports = {key: (one.pid, int(one.stdout.readline().split()[1])) for key, one in started.items() if one.stdout}
        results = []
        for name in CLASSES:
            own = {kind: ports[name, kind] for kind in ("ours", "plain")}
            results += measure(name, own, options)
    finally:
        for one in started.values():
            one.kill()
            one.wait()
    show(results)
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in results], indent=2))


if __name__ == "__main__":
    main()
