"""Latency, size and joules on meters whose truth is known."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from assay.meter import Energy
from assay.meter.joules import CpuEstimate
from assay.probes.energy.energy_use import energy_use, of_training
from assay.probes.energy.latency import REPEATS, latency, percentile, timed_rows
from assay.probes.energy.model_bytes import model_bytes
from assay.registry import PROBES, Sizes
from assay.values import plain

SIZES = Sizes(100, 100, 3, 2)


@dataclass
class FakeMeter:
    num_bytes: int | None = 1000
    scale: float = 1.0
    window: Energy = field(default_factory=lambda: Energy(20.48, 10.24, 40.96, "counter", "RAPL package-0", 1.0, 1.0))
    rows: int = 0

    def latency(self, batch_size: int, repeats: int) -> np.ndarray:
        self.rows += batch_size * (repeats + 3)
        return self.scale * batch_size * np.random.default_rng(0).exponential(size=repeats)

    def energy(self, batch_size: int, repeats: int) -> Energy:
        self.rows += batch_size * repeats
        return self.window

    def audit_energy(self) -> Energy:
        return Energy(None, None, None, "not measured", "", 1.0, 1.0, "no reader")


def by_key(found):
    return {(one.metric, one.slice): one for one in found}


# ------------------------------------------------------------------ latency


@pytest.mark.parametrize(("share", "num"), [(0.5, 30), (0.5, 400), (0.99, 400), (0.99, 1000)])
def test_bounds_of_a_percentile_cover_the_truth(share, num):
    truth, covered = -np.log(1 - share), 0
    for seed in range(300):
        found = percentile(np.random.default_rng(seed).exponential(size=num), share)
        assert found.low <= found.value <= found.high
        covered += found.low <= truth <= found.high
    assert covered >= 0.95 * 300 - 2.6 * np.sqrt(300 * 0.95 * 0.05)


def test_bounds_are_as_tight_as_the_order_statistics_allow():
    # One order statistic nearer on either side would leave the level: brute force over the binomial.
    from scipy.stats import binom

    num, share = 100, 0.5
    found = percentile(np.arange(1.0, num + 1), share)
    low, high = int(found.low), int(found.high)
    assert binom.cdf(high - 1, num, share) - binom.cdf(low - 1, num, share) >= 0.95
    assert binom.cdf(low, num, share) > 0.025
    assert binom.sf(high - 2, num, share) > 0.025


def test_too_few_passes_have_no_upper_bound_for_the_tail_and_say_so():
    assert percentile(np.arange(367.0), 0.99).high is None
    few = percentile(np.arange(120.0), 0.99)
    assert few.high is None
    assert "too few for the upper bound" in few.reason
    assert percentile(np.arange(368.0), 0.99).high == 367.0
    assert percentile(np.array([]), 0.5).value is None


def test_latency_finds_a_planted_slow_system_and_counts_its_rows():
    meter = FakeMeter()
    fast, slow = by_key(latency(meter)), by_key(latency(FakeMeter(scale=2.0)))
    assert timed_rows(SIZES) == {"latency": meter.rows}
    assert slow["latency_p50", "batch=1"].low > fast["latency_p50", "batch=1"].high
    one = fast["latency_p50", "batch=256"]
    rate = fast["throughput", "batch=256"]
    assert rate.value == pytest.approx(256 / one.value)
    assert (rate.low, rate.high) == (pytest.approx(256 / one.high), pytest.approx(256 / one.low))
    assert fast["latency_p99", "batch=1"].high is not None
    assert fast["latency_p99", "batch=256"].high is None
    assert [key for key, one in fast.items() if one.headline] == [("latency_p50", "batch=1")]
    assert fast["latency_p50", "batch=1"].attempted == REPEATS[1]
    assert one.replicates is None
    assert "no replicates" in one.method


def test_a_clock_that_does_not_move_gives_no_throughput():
    found = by_key(latency(FakeMeter(scale=0.0)))
    assert found["throughput", "batch=1"].value is None
    assert "clock" in found["throughput", "batch=1"].reason


# ------------------------------------------------------------------ size


def test_bytes_are_exact_or_unknown_with_a_reason():
    (known,), (unknown,) = model_bytes(FakeMeter(num_bytes=4096)), model_bytes(FakeMeter(num_bytes=None))
    assert (known.value, known.low, known.high, known.headline) == (4096, 4096, 4096, True)
    assert unknown.value is None
    assert unknown.reason
    assert PROBES["model_bytes"].cost(SIZES) == {}


# ------------------------------------------------------------------ joules


def test_energy_per_thousand_predictions_is_scaled_with_its_bounds():
    meter = FakeMeter()
    found = by_key(energy_use(meter, {}))
    assert PROBES["energy_use"].cost(SIZES) == {"energy_use": meter.rows}
    one = found["joules_per_1000_predictions", ""]
    assert (one.value, one.low, one.high) == (pytest.approx(2.0), pytest.approx(1.0), pytest.approx(4.0))
    assert one.method == "counter: RAPL package-0"
    assert one.headline
    audit = found["audit_joules", ""]
    assert audit.value is None
    assert audit.reason == "no reader"


def test_training_energy_is_what_the_run_reported():
    energy = Energy(50.0, 40.0, 60.0, "power-integrated", "NVML", 3.0, 2.0)
    found = of_training({"energy": plain(energy), "cpu_seconds": 1e9})
    assert (found.value, found.low, found.high) == (50.0, 40.0, 60.0)
    assert found.method == "power-integrated: NVML"
    lost = of_training({"energy": plain(Energy(None, None, None, "not measured", "", 1.0, 1.0, "driver reset"))})
    assert lost.value is None
    assert lost.reason == "driver reset"


def test_training_energy_from_cpu_seconds_is_an_estimate():
    part = CpuEstimate().total(100.0, 100.0)
    found = of_training({"cpu_seconds": 100.0})
    assert (found.value, found.low, found.high) == (part.joules, part.low, part.high)
    assert found.method.startswith("estimated:")
    assert "as if trained on this CPU" in found.method


@pytest.mark.parametrize(
    "facts", [{}, {"cpu_seconds": 0}, {"cpu_seconds": "3"}, {"cpu_seconds": 5.0, "device": "cuda"}]
)
def test_training_energy_that_is_not_known_is_never_zero(facts):
    found = of_training(facts)
    assert found.value is None
    assert found.reason
