"""Times taken once and read by all who ask; rounds in two stages, as an instrument."""

from __future__ import annotations

import numpy as np
import pytest

from assay import engine
from assay.access import timings
from assay.access.timings import ENOUGH, FIRST, MOST_ROUNDS, NUM_BLOCKS, WARM_UP, Meter, in_turns, rounds_needed
from assay.errors import BudgetError
from assay.meter import EnergyMeter
from assay.observe import Ledger, Workspace
from assay.values import Array, Measurement, System


def test_passes_of_one_size_are_run_once_an_audit(known_system: System, workspace: Workspace) -> None:
    names = ["latency", "roofline", "energy_use", "carbon_intensity"]
    alone = engine.audit(known_system, probes=["latency"], workspace=Workspace())
    both = engine.audit(known_system, probes=names, workspace=Workspace())
    assert both.ledger == alone.ledger, "energy and the roof are read off the passes that are timed"
    assert {kind for kind in both.ledger if kind != "test pass"} == {
        f"passes, batch={size}" for size in (1, 8, 64, 256)
    }
    planned = engine.plan(known_system, probes=names, workspace=Workspace()).rows
    assert planned == sum(both.ledger.values()) + 64, "of a black box the roof counts no outputs"


def test_passes_are_counted_before_they_are_run(known_system: System) -> None:
    ledger = Ledger(8 * (2 + WARM_UP))
    meter = Meter(known_system, ledger, EnergyMeter())
    assert meter.passes(8, 2) is meter.passes(8, 2)
    assert meter.passes(8, 2).seconds.shape == (2,)
    assert ledger.total == 8 * (2 + WARM_UP)
    with pytest.raises(BudgetError):
        meter.passes(8, 3)


def noisy(rng: np.random.Generator, base: Array, num: int, spread: float) -> Array:
    """Seconds `(S, num)`: shared slow spells, neighbouring rounds alike, and one pass in twenty held up."""
    own = rng.standard_normal((len(base), num + 1))
    alike = (own[:, 1:] + 0.3 * own[:, :-1]) / np.hypot(1, 0.3)
    held = 1 + (rng.random((len(base), num)) < 0.05) * rng.exponential(size=(len(base), num))
    spell = np.where(np.sin(np.arange(num) / 9 + 6 * rng.random()) > 0.3, 2.0, 1.0)
    return base[:, None] * np.exp(spread * alike) * held * spell


def test_the_first_stage_asks_for_as_many_rounds_as_the_noise_needs() -> None:
    rng = np.random.default_rng(0)
    asked = {
        spread: np.median([rounds_needed(noisy(rng, np.ones(5), FIRST, spread), 300) for _ in range(100)])
        for spread in (0.005, 0.05, 0.5)
    }
    assert asked[0.005] == NUM_BLOCKS
    assert 0.5 < asked[0.05] / (1.2533 * 0.05 / ENOUGH) ** 2 < 2
    assert asked[0.5] == 300
    assert rounds_needed(np.zeros((2, FIRST)), 90) == NUM_BLOCKS, "a clock that does not move"


@pytest.mark.parametrize("spread", [0.02, 0.08])
def test_intervals_of_two_stages_cover(monkeypatch: pytest.MonkeyPatch, spread: float) -> None:
    # Of the rounds alone: with the share for placement they are as wide as that at least.
    monkeypatch.setattr(timings, "PLACEMENT", 0.0)
    rng, covered, num = np.random.default_rng(1), 0, 0
    truth = np.array([1.0, 1.0, 1.3, 0.8])
    for _ in range(120):
        rounds = rounds_needed(noisy(rng, truth, FIRST, spread), 150)
        medians, replicates = timings._of_rounds(noisy(rng, truth, rounds, spread), 200, rng)
        for median, drawn, expected in zip(medians[1:], replicates[1:], truth[1:], strict=True):
            gap, spread_of = np.log(median / medians[0]), np.log(drawn / replicates[0]).std()
            covered += abs(gap - np.log(expected)) < 1.96 * spread_of
            num += 1
    # Median and quantiles of 15 blocks: a little below 0.95; thirty blocks of three rounds gave 0.92 as well.
    assert covered / num >= 0.90


def test_rounds_are_counted_in_both_stages(known_system: System, workspace: Workspace) -> None:
    key = ("latency", "latency_p50", "batch=256")
    one = Measurement(key[0], key[1], 1.0, 1.0, 1.0, 0.95, "m", "seconds", "lower", key[2], 30, 30)
    ledger = Ledger(10**9)
    found = in_turns([known_system, known_system], [{key: one}, {key: one}], workspace, ledger=ledger)
    scored = found[0][key].scored
    assert NUM_BLOCKS <= scored <= MOST_ROUNDS[256]
    assert ledger.rows == {"timing in turns": 2 * 256 * (WARM_UP + FIRST + scored)}
