"""Energy and time of a stretch of work, and the environment it ran in. Never a bare 0: unknown is None with a reason.

Three ways to know joules, best first: a hardware counter (NVML on a GPU, RAPL on a CPU), power read at intervals and
integrated, or an estimate from CPU seconds. A sum is only as good as its weakest part, and says so in `provenance`.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from assay.errors import Problem, UsageError
from assay.meter.joules import CPUINFO, Part, Provenance, Reader, cuda_in_use, find_readers

__all__ = ["Energy", "EnergyMeter", "environment", "measure_energy"]

ORDER: tuple[Provenance, ...] = ("counter", "power-integrated", "estimated", "not measured")  # best first


@dataclass(frozen=True)
class Energy:
    """Joules of one stretch of work, with bounds and how they are known. `joules` is None exactly when not measured."""

    joules: float | None
    low: float | None
    high: float | None
    provenance: Provenance
    source: str
    seconds: float
    cpu_seconds: float
    reason: str = ""

    def __post_init__(self) -> None:
        if (self.joules is None) != (self.provenance == "not measured") or (self.joules is None and not self.reason):
            raise UsageError(
                Problem("energy without joules is 'not measured' and has a reason; with joules it is neither")
            )


def _synchronise() -> None:
    if cuda_in_use():  # kernels still running belong to the window that launched them
        sys.modules["torch"].cuda.synchronize()


def _cpu_seconds() -> float:
    own = time.process_time()  # all threads
    try:
        import resource
    except ImportError:
        return own
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own + children.ru_utime + children.ru_stime


class EnergyMeter:
    """Start, work, stop: the `Energy` of what ran in between.

    >>> meter = EnergyMeter()
    >>> meter.start()
    >>> total = sum(range(200_000))
    >>> meter.stop().provenance in {"counter", "power-integrated", "estimated", "not measured"}
    True
    """

    def __init__(self, readers: Sequence[Reader] | None = None, *, reasons: Sequence[str] = ()) -> None:
        found, why = find_readers() if readers is None else (list(readers), list(reasons))
        self._readers, self._reasons = found, why
        self._started: tuple[float, float] | None = None
        self._halt = threading.Event()
        self._threads: list[threading.Thread] = []
        self._broken: list[str] = []
        self._lock = threading.Lock()  # a sampling thread and `read` may meet
        self.energy: Energy | None = None

    def start(self) -> None:
        """Take the first readings. A meter can be started again after it was stopped."""
        _synchronise()
        self._halt.clear()
        self._broken = []
        for reader in self._readers:
            self._guard(reader.start)
        sampled = [reader for reader in self._readers if reader.every > 0]
        self._threads = [threading.Thread(target=self._sample, args=(reader,), daemon=True) for reader in sampled]
        for thread in self._threads:
            thread.start()
        self._started = (time.perf_counter(), _cpu_seconds())

    def _guard(self, call: Callable[[], None]) -> bool:
        try:
            with self._lock:
                call()
        except Exception as error:  # a counter may vanish (driver reset, permissions): say so, never crash the work
            self._broken.append(f"{type(error).__name__}: {error}")
        return not self._broken

    def _sample(self, reader: Reader) -> None:
        while not self._halt.wait(reader.every) and self._guard(reader.sample):
            pass

    def read(self) -> Energy:
        """Joules, seconds and CPU seconds since `start`; the meter keeps running. UsageError before `start`."""
        if self._started is None:
            raise UsageError(Problem("the meter was read before it was started", "start(), then read() or stop()"))
        _synchronise()
        seconds, cpu_seconds = time.perf_counter() - self._started[0], _cpu_seconds() - self._started[1]
        parts: list[Part] = []

        def add(reader: Reader) -> None:
            parts.append(reader.total(seconds, cpu_seconds))

        for reader in self._readers:
            self._guard(partial(add, reader))
        unmetered = [reason for reason in self._reasons if reason.startswith("unmetered")]
        unknown = [part.reason for part in parts if part.joules is None]
        return _add(parts, seconds, cpu_seconds, unmetered + self._broken + unknown)

    def stop(self) -> Energy:
        """Read for the last time; also kept as `energy`. Raises UsageError when the meter was not started."""
        self.energy = self.read()
        self._started = None
        self._halt.set()
        for thread in self._threads:
            thread.join()
        return self.energy


def _add(parts: Sequence[Part], seconds: float, cpu_seconds: float, problems: Sequence[str]) -> Energy:
    source = " + ".join(part.source for part in parts)
    if problems or not parts:
        reason = "; ".join(problems) or "no energy reader works here"
        return Energy(None, None, None, "not measured", source, seconds, cpu_seconds, reason)
    joules, low, high = (
        sum(values) for values in zip(*((part.joules or 0.0, part.low, part.high) for part in parts), strict=True)
    )
    weakest = max((part.provenance for part in parts), key=ORDER.index)
    return Energy(joules, low, high, weakest, source, seconds, cpu_seconds)


@contextmanager
def measure_energy(readers: Sequence[Reader] | None = None) -> Iterator[EnergyMeter]:
    """Meter a block; afterwards `.energy` holds what it used, also when the block raised.

    >>> with measure_energy() as meter:
    ...     total = sum(range(200_000))
    >>> meter.energy.cpu_seconds > 0
    True
    """
    meter = EnergyMeter(readers)
    meter.start()
    try:
        yield meter
    finally:
        meter.stop()


def environment() -> Mapping[str, Any]:
    """What the numbers were taken on: versions, CPU, cores. No host, user or folder names.

    >>> sorted(environment())[:3]
    ['assay', 'cores', 'cpu']
    """
    release = re.match(r"[\d.]*", platform.release())  # the rest of a kernel's release can name its owner
    found: dict[str, Any] = {
        "assay": _own_version(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {release.group() if release else ''} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
    }
    for package in ("numpy", "scipy", "torch", "onnxruntime", "sklearn"):
        module = sys.modules.get(package)
        if module is not None:
            found[package] = str(module.__version__)
    if "torch" in sys.modules:
        found["torch threads"] = sys.modules["torch"].get_num_threads()
    return found


@cache
def _own_version() -> str:
    from importlib import metadata

    try:
        return metadata.version("assay")
    except metadata.PackageNotFoundError:  # run from a checkout that is only on the path
        return "not installed"


@cache
def _cpu_name(cpuinfo: Path = CPUINFO) -> str:
    try:
        text = cpuinfo.read_text()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(re.findall(r"^(model name|cpu family|model)\s*:\s*(.+)$", text, flags=re.MULTILINE))
    name, family, model = (fields.get(key, "?") for key in ("model name", "cpu family", "model"))
    return f"{name} (family {family}, model {model})"
