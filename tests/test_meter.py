"""Every way to know joules, on fake counters whose true energy is known."""

import math
import os
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from assay import meter
from assay.errors import UsageError
from assay.meter import Energy, EnergyMeter, environment, measure_energy
from assay.meter.joules import CpuEstimate, NvmlReader, Part, RaplReader, cpu_watts, find_readers

ROME = "vendor_id\t: AuthenticAMD\ncpu family\t: 23\nmodel\t\t: 49\nmodel name\t: AMD EPYC 7B12\n"
MILAN = "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\n"
GENOA = "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\n"
SKYLAKE = "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\n"


def zone(root: Path, path: str, name: str, microjoules: int, span: int = 262_143_328_850) -> Path:
    folder = root / path
    folder.mkdir(parents=True)
    (folder / "name").write_text(name + "\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{span}\n")
    return folder


class FakeNvml:
    """A driver with counters that the test moves."""

    class NVMLError(Exception):
        pass

    def __init__(self, num_devices: int = 1, *, counter: bool = True, watts: float = 100.0) -> None:
        self.millijoules = [1_000_000] * num_devices
        self.counter = counter
        self.watts = watts
        self.broken = False

    def nvmlInit(self) -> None:
        if self.broken:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:
        return len(self.millijoules)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByUUID(self, name: str) -> int:
        return int(name.removeprefix("GPU-"))

    def nvmlDeviceGetTotalEnergyConsumption(self, device: int) -> int:
        if not self.counter:
            raise self.NVMLError("Not Supported")
        return self.millijoules[device]

    def nvmlDeviceGetPowerUsage(self, device: int) -> float:
        return self.watts * 1000


def work(cpu_seconds: float) -> None:
    end = time.process_time() + cpu_seconds
    while time.process_time() < end:
        pass


def metered(readers, action=lambda: None) -> Energy:
    meter = EnergyMeter(readers)
    meter.start()
    action()
    return meter.stop()


# ------------------------------------------------------------------ RAPL


def test_rapl_adds_packages_and_dram_but_not_their_parts(tmp_path):
    first = zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 9_000_000)
    dram = zone(tmp_path, "intel-rapl:0:1", "dram", 100)
    core = zone(tmp_path, "intel-rapl:0:0", "core", 0)
    mirror = zone(tmp_path, "intel-rapl-mmio:0", "package-0", 5_000_000)  # the same package through another door
    (tmp_path / "intel-rapl").mkdir()

    def use() -> None:
        for folder, joules in ((first, 7), (second, 2), (dram, 1), (core, 6), (mirror, 7)):
            was = int((folder / "energy_uj").read_text())
            (folder / "energy_uj").write_text(str(was + joules * 1_000_000))

    energy = metered([RaplReader(tmp_path)], use)
    assert energy.joules == pytest.approx(10.0)
    assert energy.provenance == "counter"
    assert (energy.low, energy.high) == (pytest.approx(9.5), pytest.approx(10.5))
    assert "package-0" in energy.source
    assert "dram" in energy.source


def test_rapl_psys_is_used_alone(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    psys = zone(tmp_path, "intel-rapl:1", "psys", 0)
    energy = metered([RaplReader(tmp_path)], lambda: (psys / "energy_uj").write_text("3000000") and None)
    assert energy.joules == pytest.approx(3.0)


def test_rapl_wraps_around(tmp_path):
    package = zone(tmp_path, "intel-rapl:0", "package-0", 99_000_000, span=100_000_000)
    reader = RaplReader(tmp_path)
    reader.start()
    for reading in ("4000000", "90000000", "2000000"):  # +5, +86, +12 joules: two wraps seen by sampling
        (package / "energy_uj").write_text(reading)
        reader.sample()
    assert reader.total(60.0, 1.0).joules == pytest.approx(103.0)


def test_rapl_is_sampled_while_the_work_runs(tmp_path):
    package = zone(tmp_path, "intel-rapl:0", "package-0", 90, span=100)
    reader = RaplReader(tmp_path)
    reader.every = 0.01
    meter = EnergyMeter([reader])
    meter.start()
    for _ in range(3):  # each round trip is one wrap: 100 microjoules
        for value in (10, 90):
            (tmp_path / "next").write_text(str(value))
            (tmp_path / "next").replace(
                package / "energy_uj"
            )  # at once: the sampling thread must not meet an empty file
            until = time.monotonic() + 30
            while reader._last != [value] and time.monotonic() < until:  # a busy machine samples late
                time.sleep(0.002)
    assert meter.stop().joules == pytest.approx(300e-6)
    assert not [thread for thread in threading.enumerate() if thread.name.endswith("(_sample)")]


def test_rapl_that_may_not_be_read_falls_back(tmp_path, monkeypatch):
    package = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    denied = package / "energy_uj"
    real = Path.read_text

    def read_text(self: Path, *args, **options) -> str:
        if self == denied:  # chmod does not stop root, which tests may run as
            raise PermissionError(13, "Permission denied")
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "read_text", read_text)
    readers, reasons = find_readers(tmp_path, nvml=FakeNvml(0))
    assert [type(reader) for reader in readers] == [CpuEstimate]
    assert any("RAPL cannot be read (PermissionError" in reason for reason in reasons)


def test_a_counter_that_vanishes_does_not_stop_the_work(tmp_path):
    package = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    energy = metered([RaplReader(tmp_path)], (package / "energy_uj").unlink)
    assert energy.joules is None
    assert energy.provenance == "not measured"
    assert "FileNotFoundError" in energy.reason


# ------------------------------------------------------------------ NVML


def test_nvml_counter_with_bounds_that_widen_in_short_windows():
    nvml = FakeNvml(2)
    reader = NvmlReader(nvml, visible="")
    assert reader.num_devices == 0
    reader = NvmlReader(nvml)
    reader.start()
    nvml.millijoules = [1_400_000, 1_100_000]
    long, short = reader.total(10.0, 1.0), reader.total(0.5, 1.0)
    assert long.joules == short.joules == pytest.approx(500.0)
    assert long.provenance == "counter"
    assert (long.low, long.high) == (pytest.approx(470), pytest.approx(530))
    assert short.high - short.low > long.high - long.low
    assert short.low > 0


@pytest.mark.parametrize(("visible", "joules"), [(None, 6.0), ("1", 2.0), ("GPU-2,0", 4.0)])
def test_only_visible_devices_are_counted(monkeypatch, visible, joules):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    nvml = FakeNvml(3)
    reader = NvmlReader(nvml)
    reader.start()
    nvml.millijoules = [1_001_000, 1_002_000, 1_003_000]
    assert reader.total(10.0, 1.0).joules == pytest.approx(joules)


def test_nvml_without_a_counter_integrates_power():
    nvml = FakeNvml(counter=False, watts=200.0)
    began = time.perf_counter()
    energy = metered([NvmlReader(nvml)], lambda: time.sleep(0.35))
    most = time.perf_counter() - began
    assert energy.provenance == "power-integrated"
    # Neither less than the work took nor more than the whole window: between the two a busy machine may hold us up.
    assert 0.35 * 0.999 <= energy.joules / 200 <= most * 1.001
    assert energy.low < energy.joules < energy.high


def test_a_counter_that_did_not_move_is_not_zero():
    energy = metered([NvmlReader(FakeNvml())])
    assert energy.joules is None
    assert "did not move" in energy.reason


def test_nvml_that_fails_is_said(tmp_path):
    nvml = FakeNvml()
    nvml.broken = True
    readers, reasons = find_readers(tmp_path, nvml=nvml, gpu_in_use=False)
    assert [type(reader) for reader in readers] == [CpuEstimate]
    assert "NVML: Driver Not Loaded" in reasons


def test_an_unmetered_gpu_makes_the_sum_unknown(tmp_path):
    nvml = FakeNvml()
    nvml.broken = True
    readers, reasons = find_readers(tmp_path, nvml=nvml, gpu_in_use=True)
    meter = EnergyMeter(readers, reasons=reasons)
    meter.start()
    work(0.01)
    energy = meter.stop()
    assert energy.joules is None
    assert "unmetered: a GPU is in use" in energy.reason


def test_gpu_and_cpu_add_up_and_the_weakest_names_the_sum(tmp_path):
    nvml = FakeNvml()
    (tmp_path / "cpuinfo").write_text(ROME)
    readers, _ = find_readers(tmp_path / "none", nvml=nvml, cpuinfo=tmp_path / "cpuinfo")

    def use() -> None:
        nvml.millijoules[0] += 50_000
        work(0.05)

    energy = metered(readers, use)
    assert energy.provenance == "estimated"
    assert energy.joules == pytest.approx(50 + 1.64 * energy.cpu_seconds)
    assert " + " in energy.source


# ------------------------------------------------------------------ estimate


@pytest.mark.parametrize(("text", "busy"), [(ROME, 1.64), (MILAN, 1.87), (SKYLAKE, 4.05)])
def test_known_processors(text, busy):
    _, value, low, high = cpu_watts(text)
    assert (value, low, high) == (busy, pytest.approx(0.6 * busy), pytest.approx(1.4 * busy))


@pytest.mark.parametrize("text", [GENOA, "", "vendor_id : ARM\n", "cpu family : x\nmodel : y\n"])
def test_an_unknown_processor_has_bounds_outside_all_known(text):
    name, value, low, high = cpu_watts(text)
    assert name == "CPU not in the table"
    assert low < 0.6 * 1.64 < value < 4.05 * 1.4 < high
    assert value == pytest.approx(math.sqrt(1.64 * 4.05))


def test_estimate_is_cpu_seconds_times_watts(tmp_path):
    (tmp_path / "cpuinfo").write_text(SKYLAKE)
    energy = metered([CpuEstimate(tmp_path / "cpuinfo")], lambda: work(0.05))
    assert energy.provenance == "estimated"
    assert energy.cpu_seconds >= 0.05
    assert energy.joules == pytest.approx(4.05 * energy.cpu_seconds)
    assert energy.low == pytest.approx(0.6 * energy.joules)
    assert energy.high == pytest.approx(1.4 * energy.joules)


def test_estimate_counts_threads_and_finished_children():
    spin = "import time\nwhile time.process_time() < 0.2: pass"

    def threads() -> None:
        workers = [threading.Thread(target=lambda: sum(range(2_000_000))) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    started = time.thread_time()
    of_threads = metered([CpuEstimate()], threads).cpu_seconds
    assert of_threads > 5 * (time.thread_time() - started)  # this thread only waited
    child = metered([CpuEstimate()], lambda: subprocess.run([sys.executable, "-c", spin], check=True) and None)
    assert child.cpu_seconds > 0.15


def test_no_cpu_time_is_not_zero_joules():
    part = CpuEstimate().total(1e-9, 0.0)
    assert part.joules is None
    assert part.reason


def test_a_missing_cpuinfo_still_gives_wide_bounds(tmp_path):
    part = CpuEstimate(tmp_path / "none").total(1.0, 1.0)
    assert part.high > 10 * part.low > 0


# ------------------------------------------------------------------ meter


def test_no_reader_is_not_measured():
    energy = metered([])
    assert (energy.joules, energy.low, energy.high) == (None, None, None)
    assert energy.provenance == "not measured"
    assert energy.reason
    assert energy.seconds > 0


def test_reading_while_running_and_again_after_stop():
    meter = EnergyMeter([CpuEstimate()])
    with pytest.raises(UsageError, match="before it was started"):
        meter.stop()
    meter.start()
    work(0.01)
    first = meter.read()
    work(0.01)
    assert meter.stop().joules > first.joules
    with pytest.raises(UsageError):
        meter.read()
    meter.start()
    work(0.001)
    assert meter.stop().cpu_seconds < first.cpu_seconds


def test_a_block_that_raises_is_still_metered():
    def fail() -> None:
        work(0.01)
        raise KeyError("work")

    with pytest.raises(KeyError), measure_energy() as meter:
        fail()
    assert meter.energy is not None
    assert meter.energy.cpu_seconds > 0.009


def test_energy_holds_its_promise():
    with pytest.raises(UsageError):
        Energy(None, None, None, "estimated", "", 1.0, 1.0, "why")
    with pytest.raises(UsageError):
        Energy(None, None, None, "not measured", "", 1.0, 1.0)
    with pytest.raises(UsageError):
        Energy(1.0, 1.0, 1.0, "not measured", "", 1.0, 1.0, "why")


def test_sums_of_parts_are_of_joules_low_and_high():
    class Fixed:
        every = 0.0

        def __init__(self, *numbers: float) -> None:
            self.numbers = numbers

        def start(self) -> None: ...

        def sample(self) -> None: ...

        def total(self, seconds: float, cpu_seconds: float) -> Part:
            return Part(*self.numbers, "counter", "fixed")

    energy = metered([Fixed(1.0, 0.5, 2.0), Fixed(10.0, 9.0, 12.0)])
    assert (energy.joules, energy.low, energy.high) == (11.0, 9.5, 14.0)


def test_one_window_costs_little():
    start = time.process_time()
    for _ in range(20):
        with measure_energy():
            pass
    assert (time.process_time() - start) / 20 < 0.01  # 10 ms; a warm CodeCarbon tracker takes 8


def test_gpu_work_is_waited_for_before_the_clock_is_read(monkeypatch):
    calls = []
    cuda = SimpleNamespace(is_initialized=lambda: True, synchronize=lambda: calls.append(1))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    metered([CpuEstimate()])
    assert len(calls) == 2


def test_without_a_resource_module_children_are_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    energy = metered([CpuEstimate()], lambda: work(0.01))
    assert energy.cpu_seconds >= 0.01


def test_environment_says_what_and_not_who():
    found = environment()
    assert found["python"] == sys.version.split()[0]
    assert found["cores"] >= 1
    text = str(found)
    for private in (os.uname().nodename, os.environ.get("HOME", ""), str(Path.cwd())):
        assert len(private) < 3 or private not in text


def test_metering_does_not_import_torch():
    script = "import assay.meter as m, sys; m.environment(); m.EnergyMeter().start(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_checkout_that_is_only_on_the_path_says_so(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    monkeypatch.setattr(meter, "_own_version", meter._own_version.__wrapped__)  # not what was remembered before
    assert environment()["assay"] == "not installed"
