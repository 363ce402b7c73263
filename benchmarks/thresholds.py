"""Fitting group thresholds: ours, fairlearn's ThresholdOptimizer, and one sort per group, in turns on the same rows.

Equality first: at the peer's own error-rate gap ours must be at least as accurate, on the rows fitted on, where both
programmes are exact. Then CPU time, as the median of ratios over rounds. Second, fairlearn's ExponentiatedGradient,
which trains a logistic regression again and again: against thresholds of one such regression, and against our
reduction with the same base learner, on held-out rows, paired by row, at the gap that it reached on training rows.
Run: python benchmarks/thresholds.py
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import torch

from assay.data import load_adult
from assay.models import build
from assay.train import train_system
from assay.treatments.model.group_thresholds import fit_thresholds
from assay.treatments.train._reductions import constraints_of, solve

ROUNDS = 9


def rates_of(chance, labels, groups):
    return np.array([[chance[(groups == g) & (labels == y)].mean() for y in (0, 1)] for g in np.unique(groups)])


def accuracy_of(chance, labels):
    return float(np.where(labels == 1, chance, 1 - chance).mean())


def seconds_of(function):
    began = time.process_time()
    result = function()
    return time.process_time() - began, result


def main() -> None:
    """Post-processing in turns with the peer; then the reductions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fairlearn.postprocessing import ThresholdOptimizer
        from sklearn.base import BaseEstimator, ClassifierMixin
    warnings.simplefilter("ignore")

    class Given(ClassifierMixin, BaseEstimator):
        """An estimator whose scores are its only input column."""

        def fit(self, inputs, labels):
            self.classes_ = np.array([0, 1])
            return self

        def predict_proba(self, inputs):
            score = np.asarray(inputs, dtype=np.float64)[:, 0]
            return np.stack([1 - score, score], axis=1)

    system = train_system(load_adult(), seed=0)
    rows = system.data.splits["test"]
    probabilities = system.task.probabilities(system.model.outputs(rows.inputs))[:, 1].astype(np.float64)
    labels, groups = rows.labels, rows.groups.codes[:, 0]
    estimator = Given().fit(None, None)
    names = [("Female",), ("Male",)]
    unfair = accuracy_of((probabilities >= 0.5).astype(float), labels)

    def peer():
        optimizer = ThresholdOptimizer(
            estimator=estimator,
            constraints="equalized_odds",
            objective="accuracy_score",
            prefit=True,
            predict_method="predict_proba",
        )
        return optimizer.fit(probabilities[:, None], labels, sensitive_features=groups)

    def ours(tolerance):
        return fit_thresholds(probabilities, labels, (groups, names), tolerance=tolerance, costs=(1, 1), min_num=30)

    def limit():
        return [np.argsort(-probabilities[groups == g], kind="stable") for g in (0, 1)]

    fitted = peer()
    peer_chance = fitted._pmf_predict(probabilities[:, None], sensitive_features=groups)[:, 1]
    gap = float(np.ptp(rates_of(peer_chance, labels, groups), axis=0).max())

    def chance_of(fit):
        chance = np.zeros(len(labels))
        for code, mixture in enumerate(fit.mixtures):
            chance[groups == code] = mixture.chance(probabilities[groups == code])
        return chance

    print(f"{len(labels)} rows, two groups; without treatment: accuracy {unfair:.4f}")
    print(f"peer                     gap {gap:.5f}  accuracy {accuracy_of(peer_chance, labels):.5f}")
    for tolerance in (0.0, gap, 0.01, 0.02):
        chance = chance_of(ours(tolerance))
        found = float(np.ptp(rates_of(chance, labels, groups), axis=0).max())
        print(f"ours, tolerance {tolerance:.5f}  gap {found:.5f}  accuracy {accuracy_of(chance, labels):.5f}")
    assert accuracy_of(chance_of(ours(gap)), labels) >= accuracy_of(peer_chance, labels) - 1e-9

    times = np.array([[seconds_of(run)[0] for run in (lambda: ours(0.0), peer, limit)] for _ in range(ROUNDS)])
    draws = np.random.default_rng(0).integers(0, ROUNDS, (1000, ROUNDS))
    for name, ratio in (("peer / ours", times[:, 1] / times[:, 0]), ("ours / limit", times[:, 0] / times[:, 2])):
        low, high = np.quantile(np.median(ratio[draws], axis=1), [0.025, 0.975])
        print(f"{name}: {np.median(ratio):.1f} (95 % of medians {low:.1f} to {high:.1f})")
    ours_ms, peer_ms, limit_ms = np.median(times, axis=0) * 1000
    print(f"median CPU: ours {ours_ms:.1f} ms, fairlearn {peer_ms:.1f} ms, one sort per group {limit_ms:.2f} ms")
    reductions(system.data)


def encoded(data):
    """Columns as a linear model reads them: numbers scaled, categories as 0 and 1, by training rows."""
    module: Any = build("mlp", columns=data.columns, num_outputs=2, params={"hidden": []})
    module.fit_encoding(data.splits["train"])
    with torch.no_grad():
        return [module.encoder(torch.from_numpy(data.splits[name].inputs)).numpy() for name in ("train", "test")]


def reductions(data) -> None:
    """Fairlearn's ExponentiatedGradient beside ours and beside thresholds, all over the same logistic regression."""
    from fairlearn.reductions import EqualizedOdds, ExponentiatedGradient
    from sklearn.linear_model import LogisticRegression

    (inputs, tested), (train, test) = encoded(data), (data.splits["train"], data.splits["test"])
    sex, seen, names = train.groups.codes[:, 0], test.groups.codes[:, 0], [("Female",), ("Male",)]

    def base():
        return LogisticRegression(max_iter=200)

    def peer():
        moments = EqualizedOdds(difference_bound=0.01)
        found = ExponentiatedGradient(base(), moments).fit(inputs, train.labels, sensitive_features=sex)
        return found, [found._pmf_predict(rows)[:, 1] for rows in (inputs, tested)]

    def ours():
        models = [base().fit(inputs, train.labels)]

        def respond(labels, weights):
            models.append(base().fit(inputs, labels, sample_weight=weights))
            return models[-1].predict(inputs) == 1

        constraints = constraints_of(train.labels, sex, tolerance=0.02, min_num=30)
        start = models[0].predict(inputs) == 1
        found = solve(train.labels, np.ones(len(sex)), constraints, respond=respond, first=start, num=40)
        drawn = [(weight, model) for weight, model in zip(found.weights, models, strict=True) if weight > 0]
        chances = [sum(weight * model.predict(rows) for weight, model in drawn) for rows in (inputs, tested)]
        return models, chances

    def thresholds(tolerance):
        model = base().fit(inputs, train.labels)
        scores = [model.predict_proba(rows)[:, 1] for rows in (inputs, tested)]
        fit = fit_thresholds(scores[0], train.labels, (sex, names), tolerance=tolerance, costs=(1, 1), min_num=30)
        chances = [np.zeros(len(rows)) for rows in (inputs, tested)]
        for code, mixture in enumerate(fit.mixtures):
            for chance, score, groups in zip(chances, scores, (sex, seen), strict=True):
                chance[groups == code] = mixture.chance(score[groups == code])
        return fit, chances

    peer_seconds, (found, theirs) = seconds_of(peer)
    gap = float(np.ptp(rates_of(theirs[0], train.labels, sex), axis=0).max())
    own_seconds, (models, own) = seconds_of(ours)
    seconds, (_, cut) = seconds_of(lambda: thresholds(gap))
    told = (
        (f"fairlearn, {found.n_oracle_calls_} fits", peer_seconds, theirs),
        (f"our reduction, {len(models)} fits", own_seconds, own),
        ("our thresholds, 1 fit", seconds, cut),
    )
    right = [np.where(test.labels == 1, chances[1], 1 - chances[1]) for _, _, chances in told]
    print(f"reductions, equalized odds: {len(sex)} training rows, {len(seen)} test rows, logistic regression")
    for (name, taken, chances), mine in zip(told, right, strict=True):
        gaps = [
            float(np.ptp(rates_of(chance, split.labels, groups), axis=0).max())
            for chance, split, groups in zip(chances, (train, test), (sex, seen), strict=True)
        ]
        more = mine - right[0]
        half = 1.96 * more.std() / np.sqrt(len(more))
        print(
            f"{name:24s} CPU {taken:6.2f} s  gap {gaps[0]:.4f} (test {gaps[1]:.4f})  test accuracy {mine.mean():.4f}, "
            f"more than the peer's by {more.mean():+.4f} ± {half:.4f}"
        )
    assert all((mine - right[0]).mean() > -1.96 * (mine - right[0]).std() / np.sqrt(len(mine)) for mine in right[1:])


if __name__ == "__main__":
    main()
