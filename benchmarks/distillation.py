"""A tenth of the parameters: distilled, distilled with cells weighed, and the same small model without a teacher.

    python -m benchmarks.distillation adult --seeds 3
    python -m benchmarks.distillation fashion --rows 10000
    python -m benchmarks.distillation movie

One split; each seed trains a teacher by the usual recipe, then the small models by the same settings, all of them for
as long as the student; held-out test rows; mean and 95 % t-interval over the seeds. "behind" is how much lower the
accuracy of the teacher's worst group (a class, where no groups are declared) is, and of the worst cell of group and
class, in points. The goal: 97 % of the teacher's accuracy at a tenth of its parameters, and the worst group at most one
point behind.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from assay.data import load_adult
from assay.data.sources.fashion_mnist import load_fashion_mnist
from assay.data.sources.mnist import load_mnist
from assay.data.sources.sentiment import load_sentiment
from assay.models import describe
from assay.train import train_system
from assay.treatments.train.distill import distill

LOADERS = {
    "adult": load_adult,
    "mnist": lambda: load_mnist(fetch=True),
    "fashion": lambda: load_fashion_mnist(fetch=True),
    "movie": lambda: load_sentiment(domain="movie", fetch=True),
}
OPTIONS = {
    "distilled": {},
    "distilled, T=2": {"temperature": 2.0},
    "distilled, T=4": {"temperature": 4.0},
    "distilled, balance 0.25": {"balance": 0.25},
    "distilled, balance 0.5": {"balance": 0.5},
}


def worst(model, split):
    """Accuracy, that of the worst group (or class), and that of the worst cell of group and class."""
    right = model.outputs(split.inputs).argmax(axis=1) == split.labels
    groups = split.groups.codes[:, 0] if split.groups.columns else np.zeros(len(split), dtype=np.int64)
    of = groups if split.groups.columns else split.labels
    cells = [
        right[(groups == one) & (split.labels == label)]
        for one in np.unique(groups)
        for label in np.unique(split.labels)
    ]
    return (
        right.mean(),
        min(right[of == one].mean() for one in np.unique(of)),
        min(one.mean() for one in cells if len(one)),
    )


def spread(values):
    """Mean and half the width of the 95 % interval of Student's t."""
    values = np.asarray(values, dtype=float)
    half = (
        stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    )
    return f"{values.mean():7.4f} ± {half:.4f}"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", choices=LOADERS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=0, help="of the training split; 0 is all")
    parser.add_argument("--only", nargs="+", default=list(OPTIONS))
    asked = parser.parse_args()
    data = LOADERS[asked.data]()
    if asked.rows:
        few = data.splits["train"].take(np.arange(min(asked.rows, len(data.splits["train"]))))
        data = replace(data, splits={**data.splits, "train": few})
    options = {name: OPTIONS[name] for name in asked.only if data.group_columns or "balance" not in OPTIONS[name]}
    found: dict[str, list[list[float]]] = {name: [] for name in ("teacher", "small, no teacher", *options)}
    ratio, seconds = 1.0, []
    for seed in range(asked.seeds):
        began = time.process_time()
        system: Any = train_system(data, seed=seed)
        test = data.splits["test"]
        found["teacher"].append([*worst(system.model, test)])
        students: dict[str, Any] = {name: distill(system, **given) for name, given in options.items()}
        one = next(iter(students.values()))
        longer = replace(system.recipe.settings, epochs=one.recipe.passes * system.recipe.settings.epochs)
        alone = replace(system.recipe, architecture=one.recipe.student, settings=longer)
        plain = alone.fit(data.splits["train"], data, seed)
        found["small, no teacher"].append([*worst(plain.model, test)])
        for name, student in students.items():
            found[name].append([*worst(student.model, test)])
        ratio = describe(one.model.module)["num_parameters"] / describe(system.model.module)["num_parameters"]
        seconds.append(time.process_time() - began)
    sizes = {name: len(split) for name, split in data.splits.items()}
    print(f"{asked.data}: {sizes['train']} training rows, {sizes['test']} test rows, {asked.seeds} seeds")
    print(f"teacher {system.recipe.architecture.name}, student {one.recipe.student}: {ratio:.3f} of its parameters")
    print(f"{'':26s} accuracy           of the teacher's   worst group behind (points)   worst cell behind (points)")
    teacher = np.array(found["teacher"])
    for name, rows in found.items():
        told = np.array(rows)
        share, behind = told[:, 0] / teacher[:, 0], 100 * (teacher[:, 1:] - told[:, 1:])
        print(
            f"{name:26s} {spread(told[:, 0])}  {spread(share)}  {spread(behind[:, 0])}           {spread(behind[:, 1])}"
        )
    print(f"CPU seconds a seed: {np.mean(seconds):.0f}")


if __name__ == "__main__":
    main()
