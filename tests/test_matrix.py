"""The matrix as an instrument: planted changes are marked, equal systems are not, what cannot be compared says so."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from assay import engine, matrix
from assay.access import timings
from assay.access.timings import in_turns
from assay.errors import UsageError
from assay.estimation.effects import Effect
from assay.matrix import Cell, compare, pareto_set, side_effects
from assay.observe import Workspace
from assay.values import Array, Measurement, System
from support import KnownModel, make_split

PROBES = ["accuracy", "group_error_rates", "selection_rate_gap"]


class Renamed(KnownModel):
    """The same answers under another digest."""

    def __init__(self, name: str, slope: float = 0.05) -> None:
        super().__init__(slope)
        self.digest = f"renamed {name}"


def audits(systems: list[System], workspace: Workspace) -> list[engine.Audit]:
    return [engine.audit(system, probes=PROBES, workspace=workspace) for system in systems]


def test_a_system_that_answers_alike_changes_nothing(known_system: System, workspace: Workspace) -> None:
    twin = replace(known_system, name="known+twin", model=Renamed("twin"))
    found = compare(audits([known_system, twin], workspace), workspace=workspace)
    effects = [cell.effect for cell in found.cells["known+twin"].values() if cell.effect]
    assert len(effects) >= 3
    for effect in effects:
        assert effect.value == 0
        assert effect.verdict == "no detectable change"
        assert effect.low is not None
        assert effect.high is not None
        assert effect.low < 0 < effect.high, "equal answers on these rows are not proof of equal answers on others"
    assert "nothing moved detectably" in found.sentences["known+twin"]


def test_a_planted_loss_is_marked_and_paired(known_system: System, workspace: Workspace) -> None:
    worse = replace(known_system, name="known+flat", model=Renamed("flat", slope=0.0))
    both = audits([known_system, worse], workspace)
    effect = compare(both, workspace=workspace).cells["known+flat"]["accuracy", "accuracy", ""].effect
    assert effect is not None
    assert effect.verdict == "worse"
    labels = known_system.data.splits["test"].labels
    right = [one.observations["test"].arrays["predictions"] == labels for one in both]
    assert effect.value == pytest.approx(right[1].mean() - right[0].mean())
    # Brute force: resample rows, keep the pair together.
    rng = np.random.default_rng(0)
    rows = rng.integers(len(labels), size=(2000, len(labels)))
    spread = (right[1][rows].mean(axis=1) - right[0][rows].mean(axis=1)).std()
    assert effect.low is not None
    assert effect.high is not None
    # The family is wider than one interval by itself (1.96), and far narrower than if the pair were torn apart.
    assert 1.9 * spread < (effect.high - effect.low) / 2 < 4.5 * spread


def test_comparing_runs_no_model_but_for_timings(known_system: System, workspace: Workspace) -> None:
    twin = replace(known_system, name="known+twin", model=Renamed("twin"))
    both = audits([known_system, twin], workspace)
    assert isinstance(known_system.model, KnownModel)
    before = known_system.model.num_rows
    compare(both, workspace=workspace)
    assert known_system.model.num_rows == before


def test_other_rows_and_equal_names_are_refused_together(known_system: System, workspace: Workspace) -> None:
    splits = {**known_system.data.splits, "test": make_split(700, 9, 5000)}
    other = replace(known_system, data=replace(known_system.data, splits=splits))
    both = audits([known_system, other], workspace)
    with pytest.raises(UsageError) as caught:
        compare(both, workspace=workspace)
    assert len(caught.value.problems) == 2


def timed(name: str, value: float) -> Measurement:
    return Measurement(
        "latency", "latency_p50", value, value, value, 0.95, "m", "seconds", "lower", "batch=1", 400, 400, headline=True
    )


class Clock:
    """Time that only models move; every ten calls the machine is slow for ten."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, 0

    def perf_counter(self) -> float:
        return self.now


class Ticking(KnownModel):
    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def outputs(self, inputs: Array) -> Array:
        self.clock.calls += 1
        slow = 3.0 if (self.clock.calls // 40) % 2 else 1.0
        self.clock.now += self.seconds * slow
        return super().outputs(inputs)


def test_timings_in_turns_share_the_slow_spells(
    known_system: System, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(timings, "time", clock)
    seconds = {"known": 1.0, "same": 1.0, "slower": 1.3}
    systems = [replace(known_system, name=name, model=Ticking(clock, s)) for name, s in seconds.items()]
    # As audited one by one the first was unlucky: the audit alone would call the others faster.
    tables = [{("latency", "latency_p50", "batch=1"): timed(name, 3.0)} for name in seconds]
    found = in_turns(systems, tables, workspace)
    known, same, slower = (table["latency", "latency_p50", "batch=1"] for table in found)
    assert known.value == same.value
    assert slower.value == pytest.approx(1.3 * (known.value or 0))
    verdicts = [matrix.effects([(one, known)])[0].verdict for one in (same, slower)]
    assert verdicts == ["no detectable change", "worse"]


def test_rows_per_second_come_from_the_same_rounds(
    known_system: System, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(timings, "time", clock)
    systems = [replace(known_system, name=name, model=Ticking(clock, 1.0)) for name in ("known", "same")]
    where = ("latency", "throughput", "batch=1")
    # The first audit met a slow machine, the second a fast one: their bounds do not even overlap.
    audited = [replace(timed("x", value), metric="throughput", better="higher") for value in (0.3, 1.0)]
    tables = [{("latency", "latency_p50", "batch=1"): timed("x", 3.0), where: one} for one in audited]
    known, same = (table[where] for table in in_turns(systems, tables, workspace))
    assert matrix.effects([(audited[1], audited[0])])[0].verdict == "better"
    assert matrix.effects([(same, known)])[0].verdict == "no detectable change"
    assert known.low is not None
    assert known.high is not None
    assert known.low <= (known.value or 0) <= known.high


def test_one_system_alone_is_not_timed_again(known_system: System, workspace: Workspace) -> None:
    table = {("latency", "latency_p50", "batch=1"): timed("known", 1.0)}
    assert in_turns([known_system], [table], workspace) == [table]


def test_pareto_set_is_the_set_nothing_beats() -> None:
    rng = np.random.default_rng(3)
    names, keys = tuple("abcdefg"), tuple(("p", str(index), "") for index in range(3))
    better = ("higher", "lower", "higher")
    for _ in range(50):
        values = rng.integers(0, 4, size=(len(names), len(keys))).astype(float)
        cells = {
            name: {
                key: Cell(Measurement("p", key[1], values[i, j], None, None, 0.95, "m", "", better[j]), None)  # type: ignore[arg-type]
                for j, key in enumerate(keys)
            }
            for i, name in enumerate(names)
        }
        signed = values * np.array([1, -1, 1])
        beaten = {
            names[i]
            for i, j in itertools.permutations(range(len(names)), 2)
            if (signed[j] >= signed[i]).all() and (signed[j] > signed[i]).any()
        }
        assert set(pareto_set(names, keys, cells)) == set(names) - beaten


def test_what_one_system_lacks_is_named(known_system: System, workspace: Workspace, tmp_path: Path) -> None:
    blind = replace(known_system, name="known+blind", data=replace(known_system.data, group_columns=()))
    both = [
        engine.audit(known_system, probes=PROBES, workspace=workspace),
        engine.audit(blind, probes=PROBES, workspace=workspace),
    ]
    cells = compare(both, workspace=workspace).cells["known+blind"]
    cell = cells["selection_rate_gap", "demographic_parity_difference", "sex"]
    assert cell.measurement is None
    assert "no group column" in cell.reason


def test_times_are_told_in_per_cent_shares_in_points_and_groups_by_name() -> None:
    def both(key: tuple[str, str, str], unit: str, *numbers: float) -> tuple[Cell, Measurement]:
        before, value, low, high = numbers
        after = Measurement(
            *key[:2], before + value, None, None, 0.95, "m", unit, "lower", key[2], 10, 10, headline=True
        )
        effect = Effect(key, value, low, high, "worse" if value > 0 else "better", 0.95, "m", "test rows")
        return Cell(after, effect), replace(after, value=before)

    latency, size = ("latency", "latency_p50", "batch=1"), ("model_bytes", "model_bytes", "")
    gap, unit = ("gap", "gap", ""), ("p", "log_loss", "")
    given = {
        latency: both(latency, "seconds", 0.004, -0.00284, -0.0029, -0.0028),
        size: both(size, "bytes", 1000.0, -750.0, -750.0, -750.0),
        gap: both(gap, "fraction", 0.1, 0.021, 0.008, 0.034),
        unit: both(unit, "nats", 0.3, 0.02, 0.01, 0.03),
    }
    women = ("group_error_rates", "true_positive_rate", "sex=F")
    _, before = both(women, "fraction", 0.6, -0.021, -0.034, -0.008)
    groups = [
        Effect((*women[:2], f"sex={name}"), -0.021, -0.034, -0.008, "worse", 0.95, "m", "test rows") for name in "FMXYZ"
    ]
    told = side_effects(
        "a+b",
        {key: cell for key, (cell, _) in given.items()},
        groups,
        {**{k: m for k, (_, m) in given.items()}, women: before},
    )
    assert "latency p50 of batch=1 −71 % [−72, −70] (better)" in told
    assert "model bytes −75 % (better)" in told
    assert "gap +2.1 points [+0.80, +3.4] (worse)" in told
    assert "log loss +0.02 [+0.01, +0.03] (worse)" in told
    assert "no detectable change in 0 of 4; of groups: true positive rate of sex=F −2.1 points" in told
    assert told.endswith("and 2 more")
