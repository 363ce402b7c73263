"""Slices of up to three conditions: ours, SliceLine, and the limit (one pass over every column).

Run: python benchmarks/slices.py [--rows 1000000] [--peer-rows 10000] [--rounds 3]. Needs the peer extra (sliceline).
Equality first: the peer's top slices by its own score, against the same score of our counts. Then CPU seconds, one
thread, ours, peer and limit interleaved on the peer's rows; then ours and the limit on all rows, search alone and the
whole probe with its intervals. 20 columns, ten of them numeric, 1 % least support, 25 % errors planted in one slice of
three conditions, 10 % elsewhere.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from sliceline.slicefinder import Slicefinder

from assay import registry
from assay.probes.utility._conditions import Conditions, coins, conditions_of
from assay.probes.utility._slices import joint_counts, search
from assay.stats import make_draws
from assay.values import Array, Column, Groups

SIZES = (2, 2, 3, 4, 5, 6, 7, 8, 10, 12)
ALPHA, SHARE, TOP = 0.99, 0.01, 10


def made_up(num: int, num_columns: int = 20) -> tuple[Array, Array, tuple[Column, ...]]:
    """A table `(num, num_columns)`, which answers are wrong `(num,)`, and the columns."""
    rng = np.random.default_rng(0)
    half = num_columns // 2
    codes = [rng.choice(size, size=num, p=rng.dirichlet(np.full(size, 3.0))) for size in SIZES[:half]]
    table = np.column_stack([rng.normal(size=(num, half)), *codes])
    bad = (table[:, half] == 1) & (table[:, half + 3] == 2) & (table[:, 0] > 0.7)
    columns = [Column(f"x{k}", "numeric") for k in range(half)]
    columns += [Column(f"c{k}", "categorical", tuple(map(str, range(SIZES[k])))) for k in range(half)]
    return table, rng.random(num) < np.where(bad, 0.25, 0.10), tuple(columns)


def peer(conditions: Conditions, wrong: Array, least: int) -> dict[str, float]:
    """SliceLine's top slices and their scores."""
    codes = np.column_stack(conditions.codes)
    finder = Slicefinder(alpha=ALPHA, k=TOP, max_l=3, min_sup=least, verbose=False).fit(codes, wrong.astype(float))
    found = {}
    for row, numbers in zip(finder.top_slices_, finder.top_slices_statistics_, strict=True):
        met = [(c, int(code)) for c, code in enumerate(row) if code is not None]
        known = all(code < conditions.nums[c] for c, code in met)  # the peer takes "none of them" for a condition
        names = [conditions.names[conditions.starts[c] + code] if known else f"{c}={code}" for c, code in met]
        found[" & ".join(names)] = float(numbers["slice_score"])
    return found


def by_our_counts(conditions: Conditions, wrong: Array, least: int) -> dict[str, float]:
    """The same score (SliceLine, definition 1) of every slice, from our tables; the best of them."""
    num, mean = len(wrong), wrong.mean()
    best: list[tuple[float, str]] = []
    for size in (1, 2, 3):
        sets = itertools.combinations(range(len(conditions.codes)), size)
        for columns, table in joint_counts(conditions.codes, conditions.widths, wrong.astype(np.uint8), sets):
            real = table[tuple(slice(conditions.nums[column]) for column in columns)].astype(float)
            rows, errors = real.sum(axis=-1), real[..., 1]
            at = np.nonzero((rows >= least) & (errors > 0))
            share = errors[at] / rows[at] / mean
            scores = ALPHA * (share - 1) - (1 - ALPHA) * (num / rows[at] - 1)
            for one in np.flatnonzero(scores >= (best[-1][0] if len(best) == TOP else 0)):
                names = [conditions.names[conditions.starts[c] + at[k][one]] for k, c in enumerate(columns)]
                best = sorted([*best, (float(scores[one]), " & ".join(names))], reverse=True)[:TOP]
    return {name: score for score, name in best}


def limit(conditions: Conditions, wrong: Array) -> None:
    """One pass over every column: less cannot have read the data."""
    for codes, width in zip(conditions.codes, conditions.widths, strict=True):
        np.bincount(codes * np.uint16(2) + wrong, minlength=2 * width)


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """Print equality, then times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--peer-rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    table, wrong, columns = made_up(options.peer_rows)
    least = int(SHARE * len(wrong))
    conditions = conditions_of(table, columns, least)
    theirs, ours = peer(conditions, wrong, least), by_our_counts(conditions, wrong, least)
    shared = {name: abs(theirs[name] - ours[name]) for name in theirs if name in ours}
    print(f"equality on {len(wrong):,} rows: {len(shared)} of the peer's {len(theirs)} top slices are our top slices,")
    largest = max(shared.values(), default=float("nan"))
    print(f"  largest difference of their scores {largest:.1e}; first: {next(iter(ours))}")
    work = {
        "SliceLine, top 10": lambda: peer(conditions, wrong, least),
        "ours, all slices by its score": lambda: by_our_counts(conditions, wrong, least),
        "limit, one pass": lambda: limit(conditions, wrong),
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(options.rounds):
        for name, call in work.items():
            times[name].append(seconds(call))
    for name, found in times.items():
        print(f"{len(wrong):>9,} rows x 20  {name:32} {statistics.median(found):9.4f} s")
    table, wrong, columns = made_up(options.rows)
    at_scale(table, wrong, columns, options.rounds)


def at_scale(table: Array, wrong: Array, columns: tuple[Column, ...], rounds: int) -> None:
    """Ours and the limit on all rows."""
    registry.load()
    probe = registry.PROBES["worst_slice"].function
    least = SHARE * len(wrong)
    conditions = conditions_of(table, columns, least)
    outcome = wrong + 2 * coins(table, wrong.astype(np.uint8)).astype(np.uint8)
    labels, nobody = np.zeros(len(wrong), dtype=np.int64), Groups(np.zeros((len(wrong), 0), dtype=np.int16), ())
    draws = make_draws(b"key", "split", [labels, wrong.astype(np.int64)])
    draws.sums(wrong.astype(float))  # shared by every probe of an audit
    inputs = table.astype(np.float32)
    found = search(conditions, outcome, least=least)
    work = {
        "ours, search": lambda: search(conditions, outcome, least=least),
        "ours, the whole probe": lambda: probe(inputs, labels, wrong.astype(np.int64), nobody, columns, draws),
        "limit, one pass": lambda: limit(conditions, wrong),
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, call in work.items():
            times[name].append(seconds(call))
    for name, one in times.items():
        print(f"{len(wrong):>9,} rows x 20  {name:32} {statistics.median(one):9.4f} s")
    shown = [one for one in probe(inputs, labels, wrong.astype(np.int64), nobody, columns, draws) if one.slice]
    print(f"{found.num_counted:,} slices counted, {found.num_cut:,} cut off; found: {[one.slice for one in shown]}")


if __name__ == "__main__":
    main()
