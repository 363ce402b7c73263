"""Latency, size and joules on meters whose truth is known."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from assay.access.timings import Passes
from assay.meter import Energy, EnergyMeter
from assay.meter.joules import CpuEstimate
from assay.policy import judge, parse_policy
from assay.probes.energy._timing import REPEATS, passes_of, percentile
from assay.probes.energy.carbon_intensity import carbon_intensity
from assay.probes.energy.energy_use import energy_use, of_training
from assay.probes.energy.latency import latency
from assay.probes.energy.model_bytes import model_bytes
from assay.probes.energy.roofline import Machine, measured_machine, roof
from assay.registry import PROBES, Sizes
from assay.report.page import _reason
from assay.report.phrases import Phrases
from assay.values import plain

SIZES = Sizes(100, 100, 3, 2)


@dataclass
class FakeMeter:
    num_bytes: int | None = 1000
    scale: float = 1.0
    window: Energy = field(default_factory=lambda: Energy(10.24, 5.12, 20.48, "counter", "RAPL package-0", 1.0, 1.0))
    rows: int = 0

    def passes(self, batch_size: int, repeats: int) -> Passes:
        self.rows += batch_size * (repeats + 3)
        return Passes(self.scale * batch_size * np.random.default_rng(0).exponential(size=repeats), self.window)

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
    assert few.reason == "no upper bound from 120 passes: it takes 368"
    assert percentile(np.arange(368.0), 0.99).high == 367.0
    none = percentile(np.arange(5.0), 0.5)
    assert (none.low, none.high) == (None, None)
    assert none.reason == "no lower and upper bound from 5 passes: it takes 6"
    assert None not in (percentile(np.arange(6.0), 0.5).low, percentile(np.arange(6.0), 0.5).high)
    assert percentile(np.array([]), 0.5).value is None


def test_latency_finds_a_planted_slow_system_and_counts_its_rows():
    meter = FakeMeter()
    fast, slow = by_key(latency(meter)), by_key(latency(FakeMeter(scale=2.0)))
    assert sum(PROBES["latency"].cost(SIZES).values()) == meter.rows
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


@pytest.mark.parametrize("size", [8, 64, 256])
def test_a_rule_on_the_tail_without_an_upper_bound_is_inconclusive_and_says_why(size):
    """However far below the bound it lies: what was not measured is not claimed. Above it for certain, it fails."""
    found = latency(FakeMeter(scale=1e-6))
    text = """name = "fast"\nversion = "1"\n[clause.c]\ncite = "C"\n[[rule]]\nid = "tail"\nmetric = "latency_p99"
slice = "batch={size}"\nat_most = {bound}\nclauses = ["c"]\n"""
    (tail,) = [one for one in found if (one.metric, one.slice) == ("latency_p99", f"batch={size}")]
    for bound in (1000.0, tail.value, tail.low):
        (finding,) = judge(parse_policy(text.format(size=size, bound=bound).encode()), found)
        assert finding.verdict == "inconclusive"
        assert finding.reason.endswith(f"unknown]: no upper bound from {REPEATS[size]} passes: it takes 368")
        shown = {lang: str(_reason(finding, {tail.digest: tail}, Phrases(lang))) for lang in ("en", "zh")}
        assert shown == {
            "en": f"no upper bound from {REPEATS[size]} passes: it takes 368",
            "zh": f"{REPEATS[size]} 次计时得不出上界：需要 368 次",
        }
    (finding,) = judge(parse_policy(text.format(size=size, bound=tail.low / 2).encode()), found)
    assert finding.verdict == "fail"


def test_a_clock_that_does_not_move_gives_no_throughput():
    found = by_key(latency(FakeMeter(scale=0.0)))
    assert found["throughput", "batch=1"].value is None
    assert "clock" in found["throughput", "batch=1"].reason


# ------------------------------------------------------------------ size


def test_bytes_are_exact_or_unknown_with_a_reason():
    known, loading = model_bytes(FakeMeter(num_bytes=4096), {})
    unknown, nothing = model_bytes(FakeMeter(num_bytes=None), {"largest_shard": 5})
    assert (known.value, known.low, known.high, known.headline) == (4096, 4096, 4096, True)
    assert unknown.value is nothing.value is None
    assert unknown.reason == nothing.reason
    assert (loading.metric, loading.value, loading.headline) == ("load_bytes", 8192, False)
    assert model_bytes(FakeMeter(num_bytes=4096), {"largest_shard": 1000})[1].value == 5096
    assert model_bytes(FakeMeter(num_bytes=4096), {"largest_shard": 9000})[1].value == 8192  # pruned since
    assert PROBES["model_bytes"].cost(SIZES) == {}


# ------------------------------------------------------------------ joules


def test_energy_per_thousand_predictions_is_scaled_with_its_bounds():
    meter = FakeMeter()
    found = by_key(energy_use(meter, {}))
    assert PROBES["energy_use"].cost(SIZES) == passes_of(256) == {"passes, batch=256": meter.rows}
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


# ------------------------------------------------------------------ carbon and roofline


def test_carbon_adds_its_parts_as_the_standard_has_it():
    meter = FakeMeter()  # 10.24 J in 1 s for 5,120 rows
    found = by_key(carbon_intensity(meter, {"grid": "FRA"}))
    assert PROBES["carbon_intensity"].cost(SIZES) == {"passes, batch=256": meter.rows}
    used = found["electricity_carbon_per_1000_predictions", ""]
    made = found["embodied_carbon_per_1000_predictions", ""]
    assert used.value == pytest.approx(2.0 / 3.6e6 * 56)  # 2 J for 1,000 rows
    assert made.value == pytest.approx(1e6 * (1 / 5.12) / (4 * 365.25 * 86400) / 64)
    whole = found["carbon_per_1000_predictions", ""]
    assert (whole.value, whole.low, whole.high) == pytest.approx(
        (used.value + made.value, used.low + made.low, used.high + made.high)
    )
    assert "yearly average of FRA" in used.method


def test_an_undeclared_place_widens_the_interval_and_says_so():
    unknown = by_key(carbon_intensity(FakeMeter(), {}))["carbon_per_1000_predictions", ""]
    known = by_key(carbon_intensity(FakeMeter(), {"grid": 475, "embodied_grams": 0}))["carbon_per_1000_predictions", ""]
    assert "place not declared" in unknown.method
    assert unknown.low < known.low < known.high < unknown.high
    dark = FakeMeter(window=Energy(None, None, None, "not measured", "", 1.0, 1.0, "no reader"))
    lost = by_key(carbon_intensity(dark, {}))
    assert lost["carbon_per_1000_predictions", ""].value is None
    assert lost["carbon_per_1000_predictions", ""].reason == "no reader"
    assert lost["embodied_carbon_per_1000_predictions", ""].value > 0


def test_roofline_counts_a_known_network_by_hand(small_data):
    import torch

    from assay import engine
    from assay.models.adapters.module import ModuleModel
    from assay.observe import Workspace
    from assay.tasks import Argmax, task_of
    from assay.values import System
    from support import KnownModel

    module = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    before = [part.training for part in module.modules()]
    system = System("net", ModuleModel(module), small_data, task_of(small_data), Argmax())
    audit = engine.audit(system, probes=["roofline"], workspace=Workspace())
    found = {one.metric: one for one in audit.measurements}
    assert found["flops_per_example"].value == 2 * (4 * 32 + 32 * 2)
    weights = 4 * (4 * 32 + 32 + 32 * 2 + 2)
    assert found["bytes_per_example"].value == pytest.approx(weights / 64 + 2 * 4 * (32 + 32 + 2) + 4 * 4)
    share = found["attained_share"]
    assert 0 < share.low <= share.value <= share.high
    assert [part.training for part in module.modules()] == before
    box = System("box", KnownModel(), small_data, task_of(small_data), Argmax())
    told = engine.audit(box, probes=["roofline"], workspace=Workspace()).measurements
    assert {one.reason for one in told} == {"the system has no module whose operations could be counted"}


def test_the_roof_is_the_lower_of_two():
    assert roof(Machine(100.0, 10.0), 9.9) == 99.0
    assert roof(Machine(100.0, 10.0), 11.0) == 100.0
    machine = measured_machine()
    assert machine.peak > 1e8
    assert machine.bandwidth > 1e7


def test_the_meter_takes_less_than_a_thousandth_of_a_second_of_work():
    import time

    meter = EnergyMeter()
    spent = []
    for _ in range(20):
        before = time.process_time()
        meter.start()
        meter.stop()
        spent.append(time.process_time() - before)
    assert np.median(spent) < 1e-3  # of a window of one second: 0.1 %
