"""Accuracy of the default recipe on tables, beside gradient boosting of scikit-learn on the same rows.

    python -m benchmarks.accuracy_tables [seeds on Adult]

One split a table, fixed by its loader; test rows are held out. Adult: mean over seeds of training, with a 95 %
t interval; the rest: one seed, with a 95 % interval of the test rows. Over 40,000 training rows, as many are drawn.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import accuracy_score, roc_auc_score

from assay.data import load_adult, load_census_kdd, load_compas, load_credit_default
from assay.train import train_system
from assay.values import Array, Data, Split

MOST = 40_000  # training rows
HEADER = f"{'table':15} {'train':>6} {'test':>6}  {'model':18} {'test AUC':>16} {'test accuracy':>16} {'CPU s':>6}"
TABLES: dict[str, Callable[[], Data]] = {
    "adult": load_adult,
    "compas": lambda: load_compas(fetch=True),
    "credit_default": lambda: load_credit_default(fetch=True),
    "census_kdd": lambda: load_census_kdd(fetch=True),
}


def ours(data: Data, seed: int) -> Array:
    """Probability `(N,)` of class 1 on the test split, by the default recipe."""
    system = train_system(data, seed=seed)
    outputs = system.model.outputs(data.splits["test"].inputs)
    found: Array = system.task.probabilities(outputs)[:, 1]
    return found


def boosted(data: Data, seed: int) -> Array:
    """The same by gradient boosting with its defaults, told which columns are categories."""
    train = data.splits["train"]
    is_category = [column.kind == "categorical" for column in data.columns]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = HistGradientBoostingClassifier(categorical_features=is_category, random_state=seed)
        model.fit(train.inputs, train.labels)
        found: Array = model.predict_proba(data.splits["test"].inputs)[:, 1]
    return found


def fewer(data: Data) -> Data:
    """At most `MOST` training rows, drawn without replacement."""
    train = data.splits["train"]
    if len(train) <= MOST:
        return data
    rows = np.sort(np.random.default_rng(0).choice(len(train), MOST, replace=False))
    return replace(data, splits={**data.splits, "train": train.take(rows)})


def by_seeds(values: list[float]) -> str:
    """Mean and half of the t interval over seeds."""
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 and np.ptp(values) else 0.0
    return f"{np.mean(values):.4f} ± {half:.4f}"


def by_rows(test: Split, scores: Array) -> tuple[str, str]:
    """AUC and accuracy, each with half of the 95 % interval of the test rows (DeLong's; the normal one)."""
    is_one = test.labels == 1
    right = np.mean((scores > 0.5) == is_one)
    ranks = stats.rankdata(scores)
    above, below = scores[is_one], scores[~is_one]
    ones = (ranks[is_one] - stats.rankdata(above)) / len(below)
    zeros = 1 - (ranks[~is_one] - stats.rankdata(below)) / len(above)
    auc = 1.96 * np.sqrt(ones.var(ddof=1) / len(above) + zeros.var(ddof=1) / len(below))
    accuracy = 1.96 * np.sqrt(right * (1 - right) / len(scores))
    return f"{roc_auc_score(is_one, scores):.4f} ± {auc:.4f}", f"{right:.4f} ± {accuracy:.4f}"


def main(seeds: int = 5) -> None:
    """Measure, and print the table."""
    print(HEADER)
    for name, load in TABLES.items():
        data = fewer(load())
        test, train = data.splits["test"], data.splits["train"]
        for model, run in (("ours", ours), ("gradient boosting", boosted)):
            began, count = time.process_time(), seeds if name == "adult" else 1
            found = [run(data, seed) for seed in range(count)]
            seconds = (time.process_time() - began) / count
            if count > 1:
                auc = by_seeds([float(roc_auc_score(test.labels, one)) for one in found])
                accuracy = by_seeds([float(accuracy_score(test.labels, one > 0.5)) for one in found])
            else:
                auc, accuracy = by_rows(test, found[0])
            sizes = f"{name:15} {len(train):6} {len(test):6}"
            print(f"{sizes}  {model:18} {auc:>16} {accuracy:>16} {seconds:6.1f}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
