"""Fitting group thresholds: ours, fairlearn's ThresholdOptimizer, and one sort per group, in turns on the same rows.

Equality first: at the peer's own error-rate gap ours must be at least as accurate, on the rows fitted on, where both
programmes are exact. Then CPU time, as the median of ratios over rounds. Run: python benchmarks/thresholds.py
"""

from __future__ import annotations

import time
import warnings

import numpy as np

from assay.data import load_adult
from assay.train import train_system
from assay.treatments.model.group_thresholds import fit_thresholds

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


if __name__ == "__main__":
    main()
