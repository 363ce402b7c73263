"""Group metrics with intervals: ours, fairlearn's MetricFrame(n_boot), and the bare limit, in one run.

    python benchmarks/group_metrics.py [--json] [--rounds 5] [--peer-rounds 3] [--large 10000000]

Work: 5 metrics (selection rate, accuracy, true and false positive rate, precision) for the 10 groups of sex and race on
the 16,281 test rows of Adult, with 100 draws. Equality comes first: point values equal, end points of the percentile
intervals within Monte-Carlo error of each other. Limit: three columns to codes, one bincount, one multinomial draw.
`draws`: our resampled metrics alone, which is the limit's work and the ratios; `ours`: with 50 intervals, 5 largest
gaps and 5 worst groups by the functions that the fairness probes call, whose cost does not depend on rows or draws.
The main figures have another key or seed at every call, on both sides, as no audit draws the same numbers twice; beside
them is one seed for all calls, whose 4,000 binomials the processor learns to predict, which makes the limit a third
faster and ours hardly (most of ours is no drawing).
Figures are in docs/benchmarks.md.
CPU seconds on one thread, interleaved, medians and ratios. Then 10 million rows, 1,000 draws, and the memory it took.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np  # noqa: E402

from assay.stats import Estimate, largest_gaps, make_draws, rates, worsts  # noqa: E402
from assay.values import Array  # noqa: E402

METRICS = ("selection_rate", "accuracy", "true_positive_rate", "false_positive_rate", "precision")
Columns = tuple[Array, Array, Array]
SEEDS = itertools.count(1)


def adult() -> Columns:
    """Labels, groups (sex and race) and predictions (logistic regression on numeric columns) of Adult's test rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from assay.data.adult import load_adult

    data = load_adult()
    train, test = data.splits["train"], data.splits["test"]
    numeric = [index for index, column in enumerate(data.columns) if column.kind == "numeric"]
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(train.inputs[:, numeric], train.labels)
    codes = test.groups.codes
    groups = codes[:, 0] * (codes[:, 1].max() + 1) + codes[:, 1]
    return (
        test.labels.astype(np.int64),
        groups.astype(np.int64),
        model.predict(test.inputs[:, numeric]).astype(np.int64),
    )


def synthetic(num_rows: int) -> Columns:
    """Ten groups of 5 to 15 %, 24 % positive, 85 % right, as small integers, made in blocks."""
    rng, made = np.random.default_rng(0), []
    for begin in range(0, num_rows, 1 << 20):
        size = min(1 << 20, num_rows - begin)
        labels = (rng.random(size, dtype=np.float32) < 0.24).astype(np.int8)
        wrong = (rng.random(size, dtype=np.float32) < 0.15).astype(np.int8)
        made.append((labels, rng.integers(0, 10, size, dtype=np.int8), labels ^ wrong))
    labels, groups, predictions = (np.concatenate(column) for column in zip(*made, strict=True))
    return labels, groups, predictions


def shares(counts: Array) -> tuple[Array, Array]:
    """Hits and totals `(1 + B, M, G)` of all METRICS from counts `(1 + B, G, label, prediction)`."""
    true, false, missed, passed = (counts[:, :, label, told] for label, told in ((1, 1), (0, 1), (1, 0), (0, 0)))
    shape = (len(counts), len(METRICS), counts.shape[1])
    hits, totals = np.empty(shape), np.empty(shape)
    positives, negatives, chosen = true + missed, false + passed, true + false
    for place, own in enumerate((chosen, true + passed, true, false, true)):
        hits[:, place] = own
    rows = positives + negatives
    for place, own in enumerate((rows, rows, positives, negatives, chosen)):
        totals[:, place] = own
    return hits, totals


def drawn(columns: Columns, num_draws: int, seed: int = 0) -> tuple[Array, Array]:
    """Every metric of every group under every draw."""
    labels, groups, predictions = columns
    draws = make_draws(str(seed).encode(), "adult", [labels, groups, predictions], num_draws=num_draws)
    num_groups = int(groups.max()) + 1
    return shares(draws.counts(joint(columns), 4 * num_groups).reshape(-1, num_groups, 2, 2))


def joint(columns: Columns) -> Array:
    """One code per row for group, label and prediction, `(N,)`."""
    labels, groups, predictions = columns
    small = np.min_scalar_type(4 * (int(groups.max()) + 1))
    codes = groups.astype(small) * small.type(4)
    codes += (labels * 2 + predictions).astype(small)
    return codes


def ours(
    columns: Columns, num_draws: int, seed: int = 0
) -> tuple[dict[str, list[Estimate]], dict[str, tuple[Estimate, Estimate]]]:
    """Every rate of every group with its interval, and of every metric the largest gap and the worst group."""
    hits, totals = drawn(columns, num_draws, seed)
    num = hits.shape[2]
    flat = rates(hits.reshape(len(hits), -1), totals.reshape(len(totals), -1))
    gaps, lowest = largest_gaps(hits, totals), worsts(hits, totals, better="higher")
    found = {metric: flat[at * num : (at + 1) * num] for at, metric in enumerate(METRICS)}
    return found, dict(zip(METRICS, zip(gaps, lowest, strict=True), strict=True))


def peer(columns: Columns, num_draws: int) -> Any:
    """The same five metrics by fairlearn, which resamples rows in a Python loop."""
    from fairlearn.metrics import MetricFrame, false_positive_rate, selection_rate, true_positive_rate
    from sklearn.metrics import accuracy_score, precision_score

    labels, groups, predictions = columns

    def precision(y_true: Array, y_pred: Array) -> float:
        return float(precision_score(y_true, y_pred, zero_division=np.nan))

    functions = (selection_rate, accuracy_score, true_positive_rate, false_positive_rate, precision)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MetricFrame(
            metrics=dict(zip(METRICS, functions, strict=True)), y_true=labels, y_pred=predictions,
            sensitive_features=groups, n_boot=num_draws, ci_quantiles=[0.025, 0.975], random_state=1,
        )  # fmt: skip


def limit(columns: Columns, num_draws: int, seed: int = 0) -> Array:
    """What nobody can avoid: look at each row once, draw each cell once."""
    codes = joint(columns).astype(np.int64)
    counts = np.bincount(codes, minlength=40)
    return np.random.default_rng(seed).multinomial(len(codes), counts / len(codes), size=num_draws)


def compare(columns: Columns, frame: Any) -> dict[str, float]:
    """Largest difference of point values; end points of percentile intervals in standard errors, median and largest."""
    rates, _ = ours(columns, 4000)
    points, ends = [], []
    for metric in METRICS:
        for group, found in enumerate(rates[metric]):
            if group not in frame.by_group.index or found.value is None:
                continue
            points.append(abs(found.value - float(frame.by_group[metric][group])))
            replicates = np.asarray(found.replicates)
            replicates = replicates[np.isfinite(replicates)]
            spread = replicates.std()
            if spread > 0 and found.value * columns[0].size > 0:
                theirs = [float(one[metric][group]) for one in frame.by_group_ci]
                mine = np.quantile(replicates, [0.025, 0.975])
                ends += [abs(a - b) / spread for a, b in zip(mine, theirs, strict=True) if np.isfinite(b)]
    return {
        "points": max(points),
        "ends_median": statistics.median(ends),
        "ends_largest": max(ends),
        "num": len(points),
    }


def cpu(call: Callable[[], Any], repeats: int = 1) -> float:
    """CPU seconds of one call, as the mean of `repeats`."""
    begin = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - begin) / repeats


def resident() -> int:
    """Bytes of this process in memory now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def peak_of(call: Callable[[], Any]) -> tuple[float, int]:
    """CPU seconds, and the largest resident size seen (sampled each 2 ms) above the size before."""
    before, largest, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal largest
        while not done.wait(0.002):
            largest = max(largest, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    seconds = cpu(call)
    done.set()
    watcher.join()
    return seconds, max(0, largest - before)


def small_case(rounds: int, peer_rounds: int) -> dict[str, Any]:
    """Adult: equality first, then interleaved CPU times."""
    columns = adult()
    table: dict[str, Any] = {"rows": len(columns[0]), "equal": compare(columns, peer(columns, 200))}
    kinds: dict[str, Callable[..., Any]] = {"ours": ours, "draws": drawn, "limit": limit}
    names = [f"{kind}_{num}{how}" for kind in kinds for num in (100, 1000) for how in ("", "_one_seed")]
    times: dict[str, list[float]] = {name: [] for name in [*names, "peer_100"]}
    for call in kinds.values():
        call(columns, 100)
    for turn in range(max(rounds, peer_rounds)):
        for num in (100, 1000):
            for kind, call in kinds.items():
                times[f"{kind}_{num}"].append(cpu(lambda c=call, b=num: c(columns, b, next(SEEDS)), 20))
                times[f"{kind}_{num}_one_seed"].append(cpu(lambda c=call, b=num: c(columns, b), 20))
        if turn < peer_rounds:
            times["peer_100"].append(cpu(lambda: peer(columns, 100)))
    table["seconds"] = {name: statistics.median(values) for name, values in times.items()}
    table["ratios"] = {}
    for end in ("100", "1000", "100_one_seed", "1000_one_seed"):
        for kind in ("ours", "draws"):
            pairs = zip(times[f"{kind}_{end}"], times[f"limit_{end}"], strict=True)
            table["ratios"][f"{kind}_to_limit_{end}"] = statistics.median(a / b for a, b in pairs)
    pairs = zip(times["peer_100"], times["ours_100"], strict=False)
    table["ratios"]["peer_to_ours_100"] = statistics.median(a / b for a, b in pairs)
    return table


def large_case(num_rows: int) -> dict[str, Any]:
    columns = synthetic(num_rows)
    seconds, above = peak_of(lambda: ours(columns, 1000))
    bare, _ = peak_of(lambda: limit(columns, 1000))
    values = np.random.default_rng(0).random(num_rows, dtype=np.float32)
    draws = make_draws(b"key", "large", [columns[0], columns[1]], num_draws=1000)
    sums, sums_above = peak_of(lambda: draws.sums(values))
    return {
        "rows": num_rows, "seconds": seconds, "bytes_above_data": above, "limit_seconds": bare,
        "times_limit": seconds / bare, "sums_seconds": sums, "sums_bytes_above_data": sums_above,
    }  # fmt: skip


def main() -> None:
    """Equality first, then costs in turns, then ten million rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peer-rounds", type=int, default=3)
    parser.add_argument("--large", type=int, default=10_000_000, help="rows of the large case; 0 leaves it out")
    chosen = parser.parse_args()
    result = {"adult": small_case(chosen.rounds, chosen.peer_rounds)}
    if chosen.large:
        result["large"] = large_case(chosen.large)
    if chosen.json:
        json.dump(result, sys.stdout, indent=2)
        return
    one = result["adult"]
    equal, ratios = one["equal"], one["ratios"]
    milli = {name: f"{value * 1e3:,.2f}" for name, value in one["seconds"].items()}
    print(f"equal: {equal['num']} point values within {equal['points']:.1e}; percentile end points differ by "
          f"{equal['ends_median']:.2f} standard errors (median), {equal['ends_largest']:.2f} (largest)")  # fmt: skip
    print("Adult, CPU ms                 ours     draws     limit          peer   ours/limit  draws/limit   peer/ours")
    for end in ("100", "1000", "100_one_seed", "1000_one_seed"):
        theirs, faster = (milli["peer_100"], f"{ratios['peer_to_ours_100']:,.0f}") if end == "100" else ("-", "-")
        told = end.replace("_", " draws, ", 1).replace("_", " ") if "_" in end else f"{end} draws"
        print(f"{told:22}{milli[f'ours_{end}']:>12}{milli[f'draws_{end}']:>10}{milli[f'limit_{end}']:>10}{theirs:>14}"
              f"{ratios[f'ours_to_limit_{end}']:>13.2f}{ratios[f'draws_to_limit_{end}']:>13.2f}"
              f"{faster:>12}")  # fmt: skip
    if chosen.large:
        big = result["large"]
        print(f"{big['rows']:,} rows, 1,000 draws: {big['seconds']:.2f} s, {big['bytes_above_data'] / 2**20:.0f} MiB "
              f"above the data; limit {big['limit_seconds']:.2f} s ({big['times_limit']:.2f}x); one continuous column "
              f"{big['sums_seconds']:.2f} s, {big['sums_bytes_above_data'] / 2**20:.0f} MiB")  # fmt: skip


if __name__ == "__main__":
    main()
