"""Published group figures of Adult beside ours: ours | published.

    python -m benchmarks.published_fairness

Part 1: logistic regression on a random two thirds of the 32,561 training rows, measured on the other third: accuracy,
demographic parity difference, equalized odds difference by sex. The published row does not say how categories were
encoded. Here every column is one number (a category its place in the list), standardised: **chosen because it comes
near**, of five column sets tried and a sixth scaled and not (one-hot: accuracy 0.85, equalized odds gap 0.07 to 0.13).
So this shows that the published figures can be had, not that they were reproduced.
Part 2: AIF360's demo_reweighing_preproc: 48,842 rows in its 18 columns (decade of age, years of education, sex, race),
its order of rows, its splits (70/15/15, numpy seed 1), its threshold (best balanced accuracy on validation rows) and
scikit-learn's logistic regression; weights and metrics are ours.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from assay.data import load_adult
from assay.probes.fairness.equalized_odds_difference import equalized_odds_difference
from assay.probes.fairness.group_error_rates import group_error_rates
from assay.probes.fairness.selection_rate_gap import selection_rate_gap
from assay.probes.utility.accuracy import accuracy
from assay.probes.utility.balanced_accuracy import balanced_accuracy
from assay.stats import make_draws
from assay.tasks import Classification
from assay.treatments.data.reweigh_groups import balancing_factors
from assay.values import Array, Column, Data, Groups, Measurement

TASK = Classification(("<=50K", ">50K"), ">50K")
PLAIN = {"accuracy": 0.8257, "demographic_parity_difference": 0.186, "equalized_odds_difference": 0.294}
NAMES = ("balanced accuracy", "disparate impact", "average odds difference", "equal opportunity difference")
REWEIGHED = {  # AIF360 @3487791, examples/demo_reweighing_preproc.ipynb: before and after
    "sex": ((0.7417, 0.2774, -0.3281, -0.4001), (0.7128, 0.7625, -0.0266, -0.0518)),
    "race": ((0.7417, 0.4423, -0.1991, None), (0.7443, 0.7430, -0.0395, None)),
}


@dataclass(frozen=True)
class Row:
    """One figure: ours with what it may differ by, and what was published."""

    what: str
    ours: float
    low: float | None
    high: float | None
    published: float | None


def _rows_of(data: Data, *names: str) -> tuple[Array, Array, Array]:
    """Inputs, labels and group codes of some splits, in the order of the source."""
    splits = [data.splits[name] for name in names]
    order = np.argsort(np.concatenate([one.rows for one in splits]))
    parts = ([one.inputs for one in splits], [one.labels for one in splits], [one.groups.codes for one in splits])
    inputs, labels, codes = (np.concatenate(part)[order] for part in parts)
    return inputs, labels, codes


def _fitted(inputs: Array, labels: Array, weights: Array | None, asked: Array) -> Array:
    """Probability of the positive class `(M,)` by scikit-learn's logistic regression on standardised columns."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scaler = StandardScaler().fit(inputs)
        model = LogisticRegression(max_iter=1000).fit(scaler.transform(inputs), labels, sample_weight=weights)
        chance: Array = model.predict_proba(scaler.transform(asked))[:, 1]
    return chance


def _measured(labels: Array, predictions: Array, codes: Array, column: Column) -> dict[tuple[str, str], Measurement]:
    groups = Groups(codes[:, None], (column,))
    draws = make_draws(b"published", "adult", [labels, predictions, codes], num_draws=200)
    found = [*accuracy(labels, predictions, draws), *balanced_accuracy(labels, predictions, TASK, draws)]
    found += selection_rate_gap(predictions, groups, TASK, draws)
    found += equalized_odds_difference(labels, predictions, groups, TASK, draws)
    found += group_error_rates(labels, predictions, groups, TASK, draws)
    return {(one.metric, one.slice): one for one in found}


def plain(*, seed: int = 0) -> list[Row]:
    """Part 1."""
    data = load_adult()
    inputs, labels, codes = _rows_of(data, "train", "validation")
    order = np.random.default_rng(seed).permutation(len(labels))
    test, train = np.split(order, [len(labels) // 3])
    chance = _fitted(inputs[train], labels[train], None, inputs[test])
    found = _measured(labels[test], (chance > 0.5).astype(np.int64), codes[test, 0], data.group_columns[0])
    slices = {"accuracy": ""}
    shown = [found[metric, slices.get(metric, "sex")] for metric in PLAIN]
    return [Row(one.metric, one.value or 0.0, one.low, one.high, PLAIN[one.metric]) for one in shown]


def eighteen_columns() -> tuple[Array, Array, Array, Array]:
    """AIF360's features `(48842, 18)`, labels, sex (1 = male) and race (1 = white), the training file's rows first."""
    data = load_adult()
    inputs, labels, codes = _rows_of(data, "train", "validation", "test")
    names = [column.name for column in data.columns]
    decade = np.minimum(inputs[:, names.index("age")] // 10, 7)
    years = np.clip(inputs[:, names.index("education-num")], 5, 13)
    sex = codes[:, 0] == data.group_columns[0].categories.index("Male")
    race = codes[:, 1] == data.group_columns[1].categories.index("White")
    columns = [race, sex, *(decade == one for one in range(1, 8)), *(years == one for one in range(5, 14))]
    return np.stack(columns, axis=1).astype(np.float64), labels, sex.astype(np.int64), race.astype(np.int64)


def _figures(labels: Array, predictions: Array, group: Array) -> tuple[float, float, float, float]:
    """Balanced accuracy, disparate impact, average odds and equal opportunity difference, the disadvantaged first."""
    found = _measured(labels, predictions, group, Column("group", "categorical", ("0", "1")))

    def of(metric: str, name: int) -> float:
        return found[metric, f"group={name}"].value or 0.0

    odds = [of(f"{one}_positive_rate", 0) - of(f"{one}_positive_rate", 1) for one in ("true", "false")]
    ratio = of("selection_rate", 0) / of("selection_rate", 1)
    return found["balanced_accuracy", ""].value or 0.0, ratio, sum(odds) / 2, odds[0]


def reweighed(column: str, *, seed: int = 1) -> list[Row]:
    """Part 2, for sex or race."""
    features, labels, sex, race = eighteen_columns()
    group, num = {"sex": sex, "race": race}[column], len(labels)
    np.random.seed(seed)
    train, rest = np.split(np.random.permutation(num), [int(0.7 * num)])
    valid, test = np.split(rest[np.random.permutation(len(rest))], [int(0.5 * len(rest))])
    weights = balancing_factors(group[train], labels[train])
    cuts, found, cut = np.linspace(0.01, 0.99, 100), [], None
    for own, published in zip((None, weights), REWEIGHED[column], strict=True):
        chance = _fitted(features[train], labels[train], own, features)
        if cut is None:  # the demo keeps the threshold of the plain model
            told = chance[valid][:, None] > cuts
            right = [(told == one)[labels[valid] == one].mean(axis=0) for one in (0, 1)]
            cut = cuts[int(np.argmax(right[0] + right[1]))]
        ours = _figures(labels[test], (chance[test] > cut).astype(np.int64), group[test])
        when = "before" if own is None else "reweighed"
        for name, value, theirs in zip(NAMES, ours, published, strict=True):
            found.append(Row(f"{column}, {when}: {name}", value, None, None, theirs))
    return found


def main() -> None:
    print(f"{'logistic regression, by sex':<52}{'ours':>9}  {'95 % interval':<18}{'published':>10}")
    for row in plain():
        interval = f"[{row.low:.4f}, {row.high:.4f}]"
        inside = "in it" if (row.low or 0) <= (row.published or 0) <= (row.high or 0) else "outside"
        print(f"{row.what:<52}{row.ours:>9.4f}  {interval:<18}{row.published:>10.4f}  {inside}")
    print(f"\n{'reweighing, 18 columns':<52}{'ours':>9}  {'published':<10}")
    for row in [*reweighed("sex"), *reweighed("race")]:
        print(f"{row.what:<52}{row.ours:>9.4f}  {'-' if row.published is None else f'{row.published:.4f}'}")


if __name__ == "__main__":
    main()
