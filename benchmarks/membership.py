"""Membership inference with 4 reference models, beside LiRA with 4 to 32 (goal: no worse than LiRA-32 at 1 % FPR).

    python benchmarks/membership.py --data adult --targets 8
    python benchmarks/membership.py --data fashion_mnist --targets 4

Adult: a pool of 8,000 rows, MLP 256-256, 30 epochs. Fashion-MNIST: a pool of 8,000 pictures, LeNet, 20 epochs at a
rate of 3e-3. Each target trains on a random half. Ours: 4 references on halves of the target's own members, as an
audit makes them; the ratio score, and a score from Bayesian predictives (Student-t; see `_predictive.py`). LiRA
(Carlini et al. 2022): references on halves of the whole pool, so of the target's size and with members and
non-members alike IN and OUT, which is more than an audit can give it; online (IN and OUT, shared or own variance, or
BaVarIA's predictive) and offline.
References of LiRA are shared by all targets; `trainings` counts what one audit would need. Null: the same attack on a
target that saw neither. Zero trainings: Spearman of the interquartile range of a member's loss over the epochs
(LT-IQR, Pollock et al. 2024) with what 32 models say of it, and, as the limit of any such agreement, Spearman of LiRA
from 16 of them with LiRA from the other 16.
Measured (Adult, 8 targets; mean ± standard error): found at 1 % and at 0.1 %, AUC.
    ours: ratio                         4 trainings   7.22 ± 0.11 %   2.67 ± 0.13 %   0.634
    LiRA online, own variance          32             5.46 ± 0.22 %   1.45 ± 0.22 %   0.627
    LiRA online, shared variance       32             4.14 ± 0.13 %   1.09 ± 0.08 %   0.614
    loss threshold                      0             1.00 ± 0.10 %   0.13 ± 0.02 %   0.540
Two targets of Adult: ratio 7.4 and 7.2 %, BaVarIA-t offline from the same four references 2.6 and 2.1 %.
Fashion-MNIST, one target, a pool of 5,000 (errors of about 0.5 points): found at 1 %, at 0.1 %, AUC.
    ours: ratio                         4 trainings   2.56 %   0.80 %   0.573
    ours: BaVarIA-t offline             4             1.24 %   0.16 %   0.559
    LiRA online, shared variance       32             2.68 %   0.84 %   0.573
    BaVarIA-t online, LiRA's models    32             2.28 %   0.48 %   0.568
    LiRA online, own variance          32             1.88 %   0.08 %   0.565
So the ratio stays the audit's score; on Fashion-MNIST one target does not tell it from the best LiRA.
Limits: one kind of model on each set, no augmented queries; LiRA with 256 references was not run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm, spearmanr

from assay.access.handles import keyed_rng
from assay.access.references import halves
from assay.data import load_adult, load_fashion_mnist
from assay.models import Architecture
from assay.probes.privacy._predictive import logit_confidence, predictive
from assay.probes.privacy._ratio import out_masks, ratio_score, true_probability
from assay.probes.privacy._roc import area, found_at, ranked
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings
from assay.train.traces import FACT
from assay.values import Array, Data, Fitted, Split

COUNTS = (4, 8, 16, 32)
SETTINGS = TrainSettings(batch_size=128, weight_decay=0.0)
SETS = {  # loader, rows in the pool, architecture, epochs, learning rate
    "adult": (load_adult, 8000, Architecture("mlp", {"hidden": [256, 256]}), 30, 1e-3),
    "fashion_mnist": (load_fashion_mnist, 8000, Architecture("cnn_lenet", {}), 20, 3e-3),
}


@dataclass(frozen=True)
class Trainer:
    """Trains on some rows of the pool and answers all of them."""

    data: Data
    recipe: TrainRecipe
    pool: Split

    def fit(self, rows: Array, seed: int) -> Fitted:
        """A model trained on `rows (N,)` bool, its loss traces kept."""
        return replace(self.recipe, is_traced=True).fit(self.pool.take(np.flatnonzero(rows)), self.data, seed)

    def answers(self, fitted: Fitted) -> Array:
        """Logits of every row of the pool `(N, K)`."""
        parts = [fitted.model.outputs(self.pool.inputs[at : at + 500]) for at in range(0, len(self.pool), 500)]
        return np.concatenate(parts).astype(np.float64)

    def logits(self, rows: Array, seed: int) -> Array:
        """Of every row of the pool, from a model trained on some."""
        return self.answers(self.fit(rows, seed))


def lira(target: Array, references: Array, members: Array) -> dict[str, Array]:
    """LiRA's variants and BaVarIA's, from phi: `target (N,)`, `references (R, N)`, `members (R, N)` bool."""
    middle, spread, pooled = {}, {}, {}
    for side, mask in (("in", members), ("out", ~members)):
        counts = mask.sum(axis=0)
        middle[side] = (references * mask).sum(axis=0) / counts
        squares = ((references - middle[side]) ** 2 * mask).sum(axis=0)
        spread[side] = np.sqrt(squares / counts) + 1e-3
        pooled[side] = np.sqrt(squares.sum() / counts.sum())
    inside, outside = predictive(references, members), predictive(references, ~members)
    return {
        "LiRA online, shared variance": norm.logpdf(target, middle["in"], pooled["in"])
        - norm.logpdf(target, middle["out"], pooled["out"]),
        "LiRA online, own variance": norm.logpdf(target, middle["in"], spread["in"])
        - norm.logpdf(target, middle["out"], spread["out"]),
        "LiRA offline, shared variance": (target - middle["out"]) / pooled["out"],
        "BaVarIA-t online, LiRA's models": inside.log_density(target) - outside.log_density(target),
        "BaVarIA-t offline, LiRA's models": outside.surprise(target),
    }


def ours(trainer: Trainer, target: Array, members: Array, seed: int) -> dict[str, Array]:
    """Scores of every row of the pool from 4 references on halves of the members: what an audit has."""
    labels = trainer.pool.labels
    inside, outside = np.flatnonzero(members), np.flatnonzero(~members)
    masks = halves(inside, 4, f"target {seed}")
    logits = []
    for index, mask in enumerate(masks):
        rows = np.zeros(len(members), dtype=bool)
        rows[inside[mask]] = True
        logits.append(trainer.logits(rows, 10_000 + 10 * seed + index))
    mine, theirs = out_masks(masks, len(outside), keyed_rng("benchmark", str(seed)))
    out = np.zeros((4, len(members)), dtype=bool)
    out[:, inside], out[:, outside] = mine, theirs
    probabilities = np.stack([true_probability(one, labels) for one in logits])
    confidences, own = np.stack([logit_confidence(one, labels) for one in logits]), logit_confidence(target, labels)
    return {
        "ours: ratio": ratio_score(true_probability(target, labels), probabilities, out),
        "ours: BaVarIA-t offline": predictive(confidences, out).surprise(own),
    }


def judge(scores: Array, members: Array, seed: int) -> tuple[float, float, float]:
    """AUC, and the share of members found at 1 % and at 0.1 % false claims."""
    scored = ranked(scores[members], scores[~members], keyed_rng("ties", str(seed)))
    found = [float(found_at(scored, fpr, 0.95).value or 0.0) for fpr in (0.01, 0.001)]
    return area(scored), found[0], found[1]


def trace_ranks(trace: Array, members: Array, scores: Mapping[str, Array], models: tuple[Array, Array]) -> list[float]:
    """Spearman over members of LT-IQR with: LiRA-32's score, ours, and how far IN and OUT models differ on the row."""
    low, high = np.nanquantile(trace, (0.25, 0.75), axis=0)
    confidences, masks = models
    apart = np.abs(
        np.where(masks, confidences, 0).sum(axis=0) / masks.sum(axis=0)
        - np.where(masks, 0, confidences).sum(axis=0) / (~masks).sum(axis=0)
    )
    other = [scores["LiRA online, own variance"], scores["ours: ratio"], apart]
    return [float(spearmanr(high - low, one[members]).statistic) for one in other]


def own_agreement(target: Array, confidences: Array, masks: Array, members: Array) -> float:
    """Spearman over members of LiRA's score from one half of the references with that from the other half.

    References come in pairs that share out the rows; a pair stays together, so each half has a row in half its models.
    """
    first = np.arange(len(masks)) // 2 % 2 == 0
    name = "LiRA online, own variance"
    one, other = (lira(target, confidences[half], masks[half])[name][members] for half in (first, ~first))
    return float(spearmanr(one, other).statistic)


Results = dict[tuple[str, int], list[tuple[float, float, float]]]


def run(trainer: Trainer, num_targets: int) -> tuple[Results, list[list[float]]]:
    """Every attack on every target: results by (attack, trainings), and what loss traces agree with."""
    labels = trainer.pool.labels
    masks = np.stack(halves(np.arange(len(labels)), max(COUNTS), "lira"))
    logits = [trainer.logits(mask, 1000 + index) for index, mask in enumerate(masks)]
    confidences = np.stack([logit_confidence(one, labels) for one in logits])
    probabilities = np.stack([true_probability(one, labels) for one in logits])
    results: Results = {}
    agreement = []
    for seed in range(num_targets):
        members = halves(np.arange(len(labels)), 2, f"members {seed}")[0]
        fitted = trainer.fit(members, seed)
        target = trainer.answers(fitted)
        audit = ours(trainer, target, members, seed)
        scores = {("loss threshold", 0): true_probability(target, labels)}
        scores |= {(name, 4): found for name, found in audit.items()}
        for count in COUNTS:
            each = lira(logit_confidence(target, labels), confidences[:count], masks[:count])
            scores |= {(name, count): found for name, found in each.items()}
            scores["ratio, LiRA's models", count] = ratio_score(
                true_probability(target, labels), probabilities[:count], ~masks[:count]
            )
        ranks = trace_ranks(fitted.facts[FACT], members, each | audit, (confidences, masks))
        agreement.append([*ranks, own_agreement(logit_confidence(target, labels), confidences, masks, members)])
        for key, found in scores.items():
            results.setdefault(key, []).append(judge(found, members, seed))
    return results, agreement


def null(trainer: Trainer, unseen: Split, num_targets: int) -> Results:
    """Ours on targets trained on rows outside the pool: nothing may be found."""
    results: Results = {}
    half = len(trainer.pool) // 2
    for seed in range(num_targets):
        members = halves(np.arange(len(trainer.pool)), 2, f"members {seed}")[0]
        rows = unseen.take(keyed_rng("null", str(seed)).permutation(len(unseen))[:half])
        target = trainer.answers(trainer.recipe.fit(rows, trainer.data, seed))
        for name, scores in ours(trainer, target, members, seed).items():
            results.setdefault((f"{name}, target saw neither", 4), []).append(judge(scores, members, seed))
    return results


def show(results: Results) -> None:
    """One line for each attack, in order of its name."""
    for (name, trainings), found in sorted(results.items()):
        values = np.array(found)
        error = values.std(axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.full(3, np.nan)
        print(
            f"{name:46s} {trainings:4d}   {values[:, 0].mean():.3f} ± {error[0]:.3f}   "
            f"{100 * values[:, 1].mean():5.2f} ± {100 * error[1]:.2f} %   "
            f"{100 * values[:, 2].mean():5.2f} ± {100 * error[2]:.2f} %"
        )


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(SETS), default="adult")
    parser.add_argument("--targets", type=int, default=8)
    parser.add_argument("--nulls", type=int, default=8, help="targets that saw neither side")
    chosen = parser.parse_args()
    loader, num_rows, architecture, epochs, rate = SETS[chosen.data]
    data = loader()
    train = data.splits["train"]
    order = keyed_rng("pool").permutation(len(train))
    recipe = TrainRecipe(architecture, task_of(data), replace(SETTINGS, epochs=epochs, learning_rate=rate))
    trainer = Trainer(data, recipe, train.take(order[:num_rows]))
    started = time.process_time()
    results, agreement = run(trainer, chosen.targets)
    spent = time.process_time() - started
    print(f"{chosen.data}: {chosen.targets} targets, {epochs} epochs, {spent:.0f} CPU s; mean ± standard error")
    print(f"{'attack':46s} {'trainings':>6s}  {'AUC':14s} {'found at 1 %':17s} found at 0.1 %")
    show(results)
    if chosen.nulls:
        show(null(trainer, train.take(order[num_rows:]), chosen.nulls))
    names = ("LiRA-32's score", "our ratio score", "|IN - OUT| of 32 models")
    *traces, itself = np.array(agreement).T
    print(f"LiRA-16 with LiRA-16 from other references: Spearman {itself.mean():.3f} ({itself.min():.3f} the least)")
    for name, values in zip(names, traces, strict=True):
        print(f"loss traces (0 trainings): Spearman with {name}: {values.mean():.3f} ({values.min():.3f} the least)")


if __name__ == "__main__":
    main()
