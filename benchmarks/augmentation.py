"""Scarce cells filled by a GAN, by copies and by SMOTE, on the same rows: does anything beat doing nothing?

Run: python benchmarks/augmentation.py [--data adult mnist fashion_mnist] [--seeds 5] [--kept 50] [--steps 2000]
[--width 32]. Needs the peer extra (imbalanced-learn). Adult: label and sex crossed, filled up to the median cell, the
default recipe. Pictures: 600 training rows of every class, `--kept` of one, LeNet, eight epochs; each seed draws its
own rows. Filled by each method to the same number of rows. Recall of the scarce cell's test rows; over the test rows of
its group (pictures: all of them) the area under the ROC curve of its class, which moving a threshold cannot change;
accuracy of all test rows. Means over seeds, and paired differences to doing nothing and to copies with 95 % Student
limits over seeds (rows drawn and training; not over test rows).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from imblearn.over_sampling import SMOTE, SMOTENC
from scipy import stats
from sklearn.metrics import roc_auc_score

from assay.data import load_adult
from assay.data.quality.generated import Sample, compare
from assay.data.sources.fashion_mnist import load_fashion_mnist
from assay.data.sources.mnist import load_mnist
from assay.models import Architecture
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings
from assay.train.generated import AugmentRecipe, Cells, settled
from assay.train.system import default_recipe
from assay.values import Array, Data, Split

SCARCE = {"mnist": 5, "fashion_mnist": 6}  # which class is cut
PER_CLASS = 600
METHODS = ("none", "copies", "SMOTE", "GAN (ours)")
MEASURES = ("recall", "area under ROC", "accuracy")


@dataclass(frozen=True)
class Case:
    """Data, how to train, and the scarce cell: its class, and its code in each crossed group column."""

    data: Data
    base: TrainRecipe
    columns: tuple[str, ...]
    label: int
    codes: tuple[int, ...]


def case_of(name: str, kept: int, seed: int) -> Case:
    """The rows of one seed."""
    if name == "adult":
        data = load_adult()
        return Case(data, default_recipe(data), ("sex",), 1, (0,))
    data, label = (load_mnist if name == "mnist" else load_fashion_mnist)(), SCARCE[name]
    rng, train = np.random.default_rng(seed), data.splits["train"]
    rows = [
        rng.permutation(np.flatnonzero(train.labels == one))[: kept if one == label else PER_CLASS]
        for one in range(len(data.classes))
    ]
    data = replace(data, splits={**data.splits, "train": train.take(np.concatenate(rows))})
    recipe = TrainRecipe(Architecture("cnn_lenet", {}), task_of(data), TrainSettings(epochs=8, batch_size=64))
    return Case(data, recipe, (), label, ())


def copies(case: Case, cells: Cells, wanted: Array, seed: int) -> Split:
    """Rows of each cell again, at random."""
    rng = np.random.default_rng(seed)
    picked = [rng.choice(np.flatnonzero(cells.codes == cell), num) for cell, num in enumerate(wanted)]
    return case.data.splits["train"].take(np.concatenate(picked).astype(np.int64))


def smote(case: Case, cells: Cells, wanted: Array, seed: int) -> Split:
    """The peer's interpolated rows: SMOTE of pixels, SMOTE-NC where there are categories."""
    train, columns = case.data.splits["train"], case.data.columns
    flat = train.inputs.reshape(len(train), -1).astype(np.float64)
    goal = dict(enumerate((cells.counts + wanted).tolist()))
    kinds = [at for at, column in enumerate(columns) if column.kind == "categorical"]
    peer = SMOTENC(kinds, sampling_strategy=goal, random_state=seed) if kinds else SMOTE(
        sampling_strategy=goal, random_state=seed
    )  # fmt: skip
    rows, codes = peer.fit_resample(flat, cells.codes)
    made = rows[len(train) :].reshape(-1, *train.inputs.shape[1:])
    made = np.rint(made).clip(0, 255) if not kinds else settled(made, train.inputs, columns)
    return cells.rows(train, codes[len(train) :], made.astype(train.inputs.dtype), columns=columns)


def filled(case: Case, method: str, size: tuple[int, int], seed: int) -> Split | None:
    """The rows that a method adds."""
    train = case.data.splits["train"]
    cells = Cells.of(train, case.columns)
    if method == "none":
        return None
    if method.startswith("GAN"):
        return AugmentRecipe(case.base, case.columns, 1.0, *size).generated(train, case.data, seed)
    make: Callable[[Case, Cells, Array, int], Split] = copies if method == "copies" else smote
    return make(case, cells, cells.missing(1.0), seed)


def measured(case: Case, more: Split | None, seed: int) -> list[float]:
    """Recall, area and accuracy on the test rows after training on real rows and these."""
    train, test = case.data.splits["train"], case.data.splits["test"]
    model = case.base.fit(train if more is None else train.joined(more), case.data, seed).model
    logits = model.outputs(test.inputs)
    right = logits.argmax(axis=1) == test.labels
    places = [[one.name for one in test.groups.columns].index(name) for name in case.columns]
    inside = (test.groups.codes[:, places] == case.codes).all(axis=1)
    scores = logits[:, case.label] - np.delete(logits, case.label, axis=1).max(axis=1)
    own = inside & (test.labels == case.label)
    area = roc_auc_score(own[inside], scores[inside])
    return [float(right[own].mean()), float(area), float(right.mean())]


def checks(case: Case, more: Split, seed: int) -> Mapping[str, float | None]:
    """The rows of a method against test rows, as the probe compares them."""
    splits = case.data.splits
    cells = Cells.of(splits["train"], case.columns)
    samples = [Sample(part.inputs, cells.among(part)) for part in (splits["train"], splits["test"], more)]
    found = compare(*samples, columns=case.data.columns, rng=np.random.default_rng(seed), level=0.95)
    shares = ("fidelity_gap", "diversity_gap", "nearest_train_share", "copied_rows")
    p_values = {"p of memory": found.memorisation_p_value, "p of difference": found.difference_p_value}
    return {name: getattr(found, name).value for name in shares} | p_values


def limits(differences: Array) -> str:
    """Mean and 95 % Student limits."""
    mean, num = differences.mean(), len(differences)
    if num < 2:
        return f"{mean:+.3f}"
    half = stats.t.ppf(0.975, num - 1) * differences.std(ddof=1) / num**0.5
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


def report(name: str, seeds: int, kept: int, size: tuple[int, int]) -> None:
    """One data set, printed."""
    found, seconds = np.zeros((len(METHODS), seeds, len(MEASURES))), np.zeros((len(METHODS), seeds))
    told = {}
    for seed in range(seeds):
        case = case_of(name, kept, seed)
        for row, method in enumerate(METHODS):
            start = time.process_time()
            more = filled(case, method, size, seed)
            seconds[row, seed] = time.process_time() - start
            found[row, seed] = measured(case, more, seed)
            print(f"  seed {seed} {method}: {found[row, seed].round(4).tolist()}", file=sys.stderr, flush=True)
            if more is not None and not seed:
                told[method] = {**checks(case, more, seed), "rows": len(more)}
    print(f"\n{name}: {seeds} seeds")
    for row, method in enumerate(METHODS):
        print(f"  {method}: {seconds[row].mean():.1f} CPU s to make the rows")
        for at, measure in enumerate(MEASURES):
            line = f"    {measure:15} {found[row, :, at].mean():.3f}"
            if row:
                line += f"   to none {limits(found[row, :, at] - found[0, :, at])}"
            if row > 1:
                line += f"   to copies {limits(found[row, :, at] - found[1, :, at])}"
            print(line)
        if method in told:
            shown = (f"{key} {value:.3g}" for key, value in told[method].items() if value is not None)
            print(f"    rows, first seed: {', '.join(shown)}", flush=True)


def main() -> None:
    """Read the options and print every data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="*", default=["adult", "mnist", "fashion_mnist"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--kept", type=int, default=50)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--width", type=int, default=32)
    given = parser.parse_args()
    for name in given.data:
        report(name, given.seeds, given.kept, (given.steps, given.width))


if __name__ == "__main__":
    main()
