"""Times of forward passes: of one system alone, and of several in turns, so that they can be compared."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from assay.access.handles import keyed_rng
from assay.meter import Energy, EnergyMeter
from assay.observe import Ledger, Workspace
from assay.values import Array, Measurement, System

WARM_UP = 3  # passes, or rounds, that do not count
TIMED = ("latency_p50", "throughput")  # what is taken again, in turns
PLACEMENT = 0.02  # systems of one architecture were up to 1.2 % apart in the same rounds (LOG.md)
FIRST, NUM_BLOCKS = 8, 15  # rounds of the first stage; blocks of the second
ENOUGH = PLACEMENT / 2  # standard error of a median: with none at all the interval would be a ninth narrower
MOST_ROUNDS = {64: 60, 256: 30}  # by batch size, else 300: on a busy machine rounds of many rows would cost most of all

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Passes:
    """Seconds of each pass `(repeats,)`, and the energy of all of them."""

    seconds: Array
    energy: Energy


@dataclass(frozen=True)
class Meter:
    """Clock and energy of the system's own forward pass, on test rows.

    Passes of one size are run once an audit: whoever asks for as many of the same size reads the same ones.
    """

    system: System
    ledger: Ledger
    audit_meter: EnergyMeter
    taken: dict[tuple[int, int], Passes] = field(default_factory=dict, compare=False, repr=False)

    @property
    def num_bytes(self) -> int | None:
        """Bytes of the stored weights, None when unknown."""
        return self.system.model.num_bytes

    def passes(self, batch_size: int, repeats: int) -> Passes:
        """`repeats` forward passes after three to warm up, on rows that differ each time."""
        if (batch_size, repeats) not in self.taken:
            self.ledger.add(f"passes, batch={batch_size}", batch_size * (repeats + WARM_UP))
            for number in range(WARM_UP):
                _one_pass(self.system, batch_size, number)
            meter = EnergyMeter()
            meter.start()
            seconds = [_one_pass(self.system, batch_size, WARM_UP + number) for number in range(repeats)]
            self.taken[batch_size, repeats] = Passes(np.array(seconds), meter.stop())
        return self.taken[batch_size, repeats]

    def audit_energy(self) -> Energy:
        """Energy of this audit so far."""
        return self.audit_meter.read()


def _one_pass(system: System, batch_size: int, number: int) -> float:
    """Seconds of one forward pass; getting at its rows does not count."""
    inputs = system.data.splits["test"].inputs
    batch = inputs[(np.arange(batch_size) + number * batch_size) % len(inputs)]
    started = time.perf_counter()
    system.model.outputs(batch)
    return time.perf_counter() - started


# ------------------------------------------------------------------ side by side


def in_turns(
    systems: Sequence[System],
    paired: Sequence[Mapping[Key, Measurement]],
    workspace: Workspace,
    *,
    ledger: Ledger | None = None,
) -> list[dict[Key, Measurement]]:
    """Replace median latencies and throughputs by ones taken side by side: each round, every system, the same rows.

    Definition: median over rounds of t / g, times the median of g, with g the geometric mean of the round's times.

    Two stages (Stein 1945): how much the times of a first one vary says how many rounds the second one has, and the
    numbers come from the second alone, so that what decided their number does not touch their interval.
    Replicates resample whole blocks of rounds, the same for all systems, so that a slow spell of the machine is shared
    and neighbouring rounds need not be independent. Each system's replicates also carry a factor of its own with
    standard deviation PLACEMENT: where its weights lie in memory moves a time however many rounds are run.
    """
    found = [dict(table) for table in paired]
    keys = [key for key in found[0] if key[1] == TIMED[0] and all(key in table for table in found)]
    if len(systems) < 2:
        return found
    for key in keys:
        batch_size = int(key[2].removeprefix("batch="))
        seconds = _both_stages(systems, batch_size, ledger or Ledger(workspace.row_budget))
        rng = keyed_rng("rounds", *key)
        for table, median, replicates in zip(found, *_of_rounds(seconds, workspace.num_draws, rng), strict=True):
            low, high = np.quantile(replicates, [(1 - workspace.level) / 2, (1 + workspace.level) / 2])
            num = seconds.shape[1]
            method = f"median of {num} rounds in turns, block bootstrap, {PLACEMENT:.0%} for memory placement"
            timed = replace(table[key], value=float(median), low=float(low), high=float(high), reason="")
            table[key] = replace(timed, method=method, attempted=num, scored=num, replicates=replicates)
            rows = (key[0], TIMED[1], key[2])
            if rows in table:  # the same rounds the other way round: else the two could contradict each other
                turned = replace(table[rows], value=batch_size / float(median), reason="", method=method)
                turned = replace(turned, low=batch_size / float(high), high=batch_size / float(low))
                table[rows] = replace(turned, attempted=num, scored=num, replicates=batch_size / replicates)
    return found


def _both_stages(systems: Sequence[System], batch_size: int, ledger: Ledger) -> Array:
    """Seconds `(S, rounds)` of the second stage, whose number of rounds the first decides."""
    ledger.add("timing in turns", len(systems) * batch_size * (WARM_UP + FIRST))
    first = rounds(systems, batch_size, WARM_UP + FIRST)[:, WARM_UP:]
    num = rounds_needed(first, MOST_ROUNDS.get(batch_size, 300))
    ledger.add("timing in turns", len(systems) * batch_size * num)
    return rounds(systems, batch_size, num, start=WARM_UP + FIRST)


def rounds(systems: Sequence[System], batch_size: int, num: int, *, start: int = 0) -> Array:
    """Seconds `(S, num)` of one forward pass of each system in each round, starting with another one each time."""
    seconds = np.empty((len(systems), num))
    for number in range(num):
        for turn in range(len(systems)):
            index = (turn + number) % len(systems)
            seconds[index, number] = _one_pass(systems[index], batch_size, start + number)
    return seconds


def rounds_needed(first: Array, most: int) -> int:
    """Rounds after which a median's own standard error is about ENOUGH, from the seconds `(S, R)` of a first stage.

    (1.2533 s / ENOUGH)^2 rounds, s^2 = the mean over systems of the square of 1.4826 x median |log(t / g) - its
    median|; a multiple of NUM_BLOCKS, at most `most`: then the interval is as much wider as the machine was busy.
    """
    log = np.log(np.maximum(first, 1e-12))
    log -= log.mean(axis=0)
    spreads = 1.4826 * np.median(np.abs(log - np.median(log, axis=1, keepdims=True)), axis=1)
    blocks = np.ceil(float(np.square(1.2533 * spreads / ENOUGH).mean()) / NUM_BLOCKS)
    return int(np.clip(blocks, 1, most // NUM_BLOCKS)) * NUM_BLOCKS


def _of_rounds(seconds: Array, num_draws: int, rng: np.random.Generator) -> tuple[Array, list[Array]]:
    """Medians `(S,)` of seconds `(S, rounds)`, and `(B,)` replicates of each, over blocks of rounds."""
    # A slow spell multiplies all times of a round alike, so it leaves with the round's geometric mean.
    pace = np.exp(np.log(seconds).mean(axis=0))
    seconds = seconds / pace * np.median(pace)
    blocks = rng.integers(NUM_BLOCKS, size=(num_draws, NUM_BLOCKS))
    stretch = np.sqrt(NUM_BLOCKS / (NUM_BLOCKS - 1))  # so many blocks vary less among themselves than anew
    medians, replicates = np.median(seconds, axis=1), []
    for middle, mine in zip(medians, seconds, strict=True):
        drawn = np.median(mine.reshape(NUM_BLOCKS, -1)[blocks].reshape(num_draws, -1), axis=1)
        drawn = middle + stretch * (drawn - middle)
        replicates.append(drawn * (1 + PLACEMENT * rng.standard_normal(num_draws)))
    return medians, replicates
