"""Readers of energy: NVML on a GPU, RAPL on a CPU, else CPU seconds × watts. `assay.meter` adds them up."""

from __future__ import annotations

import importlib
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

__all__ = [
    "CpuEstimate",
    "NvmlReader",
    "Part",
    "Provenance",
    "RaplReader",
    "Reader",
    "cpu_watts",
    "cuda_in_use",
    "find_readers",
]

Provenance = Literal["counter", "power-integrated", "estimated", "not measured"]
POWERCAP = Path("/sys/class/powercap")
CPUINFO = Path("/proc/cpuinfo")

# Watts of one idle and one busy vCPU: Cloud Carbon Footprint, "Energy coefficients", by (vendor, family, models).
WATTS = (
    ("AMD EPYC 2nd generation", "AuthenticAMD", 23, range(48, 64), (0.47, 1.64)),
    ("AMD EPYC 3rd generation", "AuthenticAMD", 25, range(0, 16), (0.45, 1.87)),
    ("Intel Skylake server", "GenuineIntel", 6, range(85, 86), (0.64, 4.05)),
)
ESTIMATE_ERROR = 0.4  # estimators of this kind were up to 40 % off wall meters (arXiv 2509.22092)
UNKNOWN_FACTOR = 2.0  # a CPU not in the table may lie this far outside the table's range
NVML_ERROR = 0.05  # nvidia-smi manual: power draw is accurate to within 5 %
NVML_UPDATE = 0.1  # seconds between updates of the energy counter (arXiv 2312.02741)
RAPL_ERROR = 0.05  # of the domains read; not of what RAPL does not see


@dataclass(frozen=True)
class Part:
    """What one reader saw: joules with bounds; joules None with a reason."""

    joules: float | None
    low: float
    high: float
    provenance: Provenance
    source: str
    reason: str = ""


class Reader(Protocol):
    """One source of joules. `every` is how often it must be sampled in between, in seconds; 0 = never."""

    every: float

    def start(self) -> None:
        """Take the first reading."""
        ...

    def sample(self) -> None:
        """Take a reading in between."""
        ...

    def total(self, seconds: float, cpu_seconds: float) -> Part:
        """Take a reading and add up all since `start`."""
        ...


class RaplReader:
    """CPU energy counters in `/sys/class/powercap/intel-rapl:*` (Intel, and AMD since Linux 5.8), microjoules.

    A `psys` domain covers the machine and is used alone; else packages plus their `dram`, which packages leave out.
    The counter wraps at `max_energy_range_uj` (minutes to hours under load), so it is sampled once a minute.
    Limits: counts the whole package, other processes included. Source: Linux kernel, power/powercap.
    """

    every = 60.0

    def __init__(self, root: Path = POWERCAP) -> None:
        self._domains = _rapl_domains(root)
        self._joules = 0.0
        self._last: list[int] = []

    @property
    def num_domains(self) -> int:
        """Domains that are added up; 0 = there is no counter."""
        return len(self._domains)

    def _read(self) -> list[int]:
        return [int((domain / "energy_uj").read_text()) for domain in self._domains]

    def start(self) -> None:
        """Read all domains; OSError when they may not be read."""
        self._ranges = [int((domain / "max_energy_range_uj").read_text()) for domain in self._domains]
        self._joules, self._last = 0.0, self._read()

    def sample(self) -> None:
        """Add what was used since the last reading, one wrap allowed."""
        now = self._read()
        for before, after, span in zip(self._last, now, self._ranges, strict=True):
            self._joules += (after - before + (span if after < before else 0)) * 1e-6
        self._last = now

    def total(self, seconds: float, cpu_seconds: float) -> Part:
        """Joules of all domains since `start`."""
        self.sample()
        names = "+".join((domain / "name").read_text().strip() for domain in self._domains)
        return _part(self._joules, RAPL_ERROR, 0.0, "counter", f"RAPL {names} (all processes)")


def _rapl_domains(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    zones = sorted(path for path in root.iterdir() if re.fullmatch(r"intel-rapl(:\d+)+", path.name))
    named = {path: (path / "name").read_text().strip() for path in zones if (path / "name").is_file()}
    whole = [path for path, name in named.items() if name.startswith("psys")]
    return whole or [path for path, name in named.items() if name.startswith("package") or name == "dram"]


class NvmlReader:
    """GPU energy by NVML: the total-energy counter (Volta and later), else power read every 100 ms and integrated.

    Limits: the counter moves every 100 ms, and on A100 and H100 the sensor sees a quarter of the run time, so windows
    under some seconds are rough; all processes on the device are counted. Source: NVML reference; arXiv 2312.02741.
    """

    def __init__(self, nvml: Any, *, visible: str | None = None) -> None:
        nvml.nvmlInit()
        self._nvml = nvml
        self._devices = _visible(nvml, os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible)
        self._counter = all(self._counts(device) for device in self._devices)
        self.every = 0.0 if self._counter else NVML_UPDATE
        self._first = 0.0
        self._joules = 0.0
        self._last = (0.0, 0.0)

    @property
    def num_devices(self) -> int:
        """GPUs that are added up."""
        return len(self._devices)

    def _counts(self, device: Any) -> bool:
        try:
            self._nvml.nvmlDeviceGetTotalEnergyConsumption(device)
        except self._nvml.NVMLError:
            return False
        return True

    def _millijoules(self) -> float:
        return float(sum(self._nvml.nvmlDeviceGetTotalEnergyConsumption(device) for device in self._devices))

    def _watts(self) -> float:
        return float(sum(self._nvml.nvmlDeviceGetPowerUsage(device) for device in self._devices)) * 1e-3

    def start(self) -> None:
        """First reading."""
        if self._counter:
            self._first = self._millijoules()
        else:
            self._joules, self._last = 0.0, (time.perf_counter(), self._watts())

    def sample(self) -> None:
        """Trapezium since the last reading of power."""
        if not self._counter:
            now = (time.perf_counter(), self._watts())
            self._joules += (now[0] - self._last[0]) * (now[1] + self._last[1]) / 2
            self._last = now

    def total(self, seconds: float, cpu_seconds: float) -> Part:
        """Joules of all devices; the bounds widen when the window is short beside the counter's 100 ms step."""
        self.sample()
        name = f"NVML on {len(self._devices)} GPU"
        step = NVML_UPDATE / max(seconds, 1e-9)  # part of the window that one missed update hides
        if self._counter:
            joules = (self._millijoules() - self._first) * 1e-3
            return _part(joules, NVML_ERROR, step, "counter", name + " total energy")
        return _part(self._joules, NVML_ERROR, step, "power-integrated", name + " power every 100 ms")


def _visible(nvml: Any, visible: str | None) -> list[Any]:
    if visible is None:
        return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    names = [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    by_index, by_name = nvml.nvmlDeviceGetHandleByIndex, nvml.nvmlDeviceGetHandleByUUID
    return [by_index(int(name)) if name.isdigit() else by_name(name) for name in names]


def _part(joules: float, error: float, step: float, provenance: Provenance, source: str) -> Part:
    if joules <= 0:
        return Part(None, 0.0, 0.0, "not measured", source, f"{source}: the counter did not move in so short a window")
    low, high = joules * max(0.0, 1 - error - step), joules * (1 + error + step)
    return Part(joules, low, high, provenance, source)


def cpu_watts(cpuinfo: str) -> tuple[str, float, float, float]:
    """Watts of one busy vCPU: (name, value, low, high).

    Formula: value = the table's busy watts; bounds ×0.6 and ×1.4. A CPU not in the table gets the geometric mean of
    the table's lowest and highest, and bounds another factor 2 outside them.
    Limits: says nothing of idle power, memory, disks, cooling. Source: Cloud Carbon Footprint; arXiv 2509.22092.

    >>> cpu_watts("vendor_id : AuthenticAMD" + chr(10) + "cpu family : 25" + chr(10) + "model : 1")[1]
    1.87
    """
    fields = dict(re.findall(r"^(vendor_id|cpu family|model)\s*:\s*(\S+)", cpuinfo, flags=re.MULTILINE))
    for name, vendor, family, models, (_, busy) in WATTS:
        same = (fields.get("vendor_id"), fields.get("cpu family")) == (vendor, str(family))
        if same and int(fields.get("model", -1)) in models:
            return name, busy, busy * (1 - ESTIMATE_ERROR), busy * (1 + ESTIMATE_ERROR)
    least, most = (pick(watts[1] for *_, watts in WATTS) for pick in (min, max))
    low, high = least * (1 - ESTIMATE_ERROR) / UNKNOWN_FACTOR, most * (1 + ESTIMATE_ERROR) * UNKNOWN_FACTOR
    return "CPU not in the table", float((least * most) ** 0.5), low, high


class CpuEstimate:
    """CPU seconds of this process, its threads and finished children × watts of a busy vCPU.

    Limits: idle power, memory, and children still running are left out.
    """

    every = 0.0

    def __init__(self, cpuinfo: Path = CPUINFO) -> None:
        try:
            self._text = cpuinfo.read_text()
        except OSError:
            self._text = ""

    def start(self) -> None:
        """Nothing to read: the meter keeps the CPU clock."""

    def sample(self) -> None:
        """Nothing to read in between."""

    def total(self, seconds: float, cpu_seconds: float) -> Part:
        """CPU seconds × watts, with the table's bounds."""
        name, value, low, high = cpu_watts(self._text)
        source = f"CPU seconds x {low:.2f} to {high:.2f} W per vCPU ({name}; Cloud Carbon Footprint)"
        if cpu_seconds <= 0:
            return Part(None, 0.0, 0.0, "not measured", source, "no CPU time was spent in so short a window")
        return Part(cpu_seconds * value, cpu_seconds * low, cpu_seconds * high, "estimated", source)


def find_readers(
    root: Path = POWERCAP, *, nvml: Any = None, cpuinfo: Path = CPUINFO, gpu_in_use: bool | None = None
) -> tuple[list[Reader], list[str]]:
    """Readers that work here (GPU if there is one, and one for the CPU), and why the better ones do not.

    A reason starting with "unmetered" means that work is done where no reader looks, so that a sum would mislead.
    """
    readers: list[Reader] = []
    reasons: list[str] = []
    try:
        gpu = NvmlReader(importlib.import_module("pynvml") if nvml is None else nvml)
        gpu.start()
        readers += [gpu] if gpu.num_devices else []
    except ImportError:
        reasons.append("pynvml is not installed")
    except Exception as error:  # pynvml has one exception class per status, and none when its library is missing
        reasons.append(f"NVML: {error}")
    if not readers and (cuda_in_use() if gpu_in_use is None else gpu_in_use):
        reasons.append("unmetered: a GPU is in use and NVML cannot be read; install nvidia-ml-py")
    try:
        rapl = RaplReader(root)
        rapl.start()
        if rapl.num_domains:
            return [*readers, rapl], reasons
        reasons.append("no RAPL counter (usual in a virtual machine)")
    except (OSError, ValueError) as error:
        reasons.append(f"RAPL cannot be read ({type(error).__name__}; since Linux 5.10 it needs root or a udev rule)")
    return [*readers, CpuEstimate(cpuinfo)], reasons


def cuda_in_use() -> bool:
    """Whether this process has started CUDA."""
    torch = sys.modules.get("torch")
    return bool(torch is not None and torch.cuda.is_initialized())
