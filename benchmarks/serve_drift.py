"""Drift of what is served: how often a service alarms on windows of Adult's training rows, as they are and changed.

Run: python benchmarks/serve_drift.py [--windows 60] [--nulls 700] [--window 1000]. The reference is what a dossier of
Adult holds: at most 10,000 of its test rows and the system's answers to them. Windows are drawn with replacement from
the training rows and given to the monitor of a service, answers included. It alarms where it names any column.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable

import numpy as np

import assay
from assay.data.quality.reference import reference_of
from assay.serve.monitor import Monitor
from assay.units.told import columns_told
from assay.values import Array, System

AGE, WORKCLASS = "age", "workclass"
Change = Callable[[Array, np.random.Generator], None]


def older(column: int, years: float) -> Change:
    """Ages of a window raised by so many years."""

    def change(rows: Array, rng: np.random.Generator) -> None:
        rows[:, column] += years

    return change


def missing(column: int, share: float) -> Change:
    """A column missing in so many more rows of a window."""

    def change(rows: Array, rng: np.random.Generator) -> None:
        rows[rng.random(len(rows)) < share, column] = -1

    return change


def alarmed(system: System, change: Change | None, num: int, window: int) -> int:
    """Of so many windows, those that alarmed."""
    train, rng, found = system.data.splits["train"].inputs, np.random.default_rng(0), 0
    reference = reference_of(system.data, answers_of(system, system.data.splits["test"].inputs))
    for _ in range(num):
        rows = train[rng.integers(0, len(train), window)].copy()
        if change is not None:
            change(rows, rng)
        monitor = Monitor(columns_told(system.data), reference, system.task.classes, window)
        monitor.seen(rows, answers_of(system, rows))
        found += bool(monitor.alarms)
    return found


def answers_of(system: System, inputs: Array) -> Array:
    """The class that each row is given."""
    found: Array = system.model.outputs(inputs).argmax(axis=1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=60, help="windows of each change")
    parser.add_argument("--nulls", type=int, default=700, help="windows of rows as they are")
    parser.add_argument("--window", type=int, default=1000, help="rows")
    chosen = parser.parse_args()
    logging.getLogger("assay.serve").setLevel(logging.ERROR)  # a line a window would bury the table
    system = assay.train_system(assay.load_adult())
    place = {column.name: index for index, column in enumerate(system.data.columns)}
    cases: list[tuple[str, Change | None]] = [("nothing", None)]
    cases += [(f"age + {years}", older(place[AGE], years)) for years in (2, 4, 6)]
    cases += [
        (f"workclass missing in {share:.0%} more", missing(place[WORKCLASS], share)) for share in (0.05, 0.1, 0.15)
    ]
    for name, change in cases:
        num = chosen.windows if change else chosen.nulls
        print(f"{name:32s} {alarmed(system, change, num, chosen.window):4d} of {num}", flush=True)


if __name__ == "__main__":
    main()
