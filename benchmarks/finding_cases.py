"""The claims and the planted cases of findings.py: data, model, treatment, and what is measured of both twins."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from assay import engine, registry
from assay.models import Architecture
from assay.observe import Workspace, run_model
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments.train.distill import DistillRecipe
from assay.values import Array, Data, System
from benchmarks.packed import fewer, load

NUM_DRAWS = 400
RARE_SHARE = 0.09  # 500 of 5,851, as the first paper left of the digit 8


@dataclass(frozen=True)
class Effect:
    """A number of the untreated and of the treated twin, and `(B,)` their difference over resamples of test rows."""

    before: float
    after: float
    draws: Array
    floor: float = 0.0  # standard error of two rows on which the twins are taken to differ although none was seen to


Effects = dict[str, Effect]
Measures = Mapping[str, Callable[[Array, System], Array]]  # of weights (B, N) and a system


@dataclass(frozen=True)
class Claim:
    """What was published. `sign` is the side of the effect; with a margin the claim is that it lies within."""

    title: str
    says: str
    source: str
    sign: int = 1
    margin: float | None = None
    any_counts: bool = False
    family: int = 1


@dataclass(frozen=True)
class Case:
    """One planted test of a claim. `judged` names the effects the verdict is about ("*": all of them)."""

    claim: str
    protocol: str
    judged: tuple[str, ...]
    run: Callable[[int, Path | None], Effects]
    weight: int = 1  # roughly, CPU minutes


CLAIMS = {
    "dp": Claim(
        "Private training widens the gap between groups",
        "Accuracy falls most for groups and classes with few rows.",
        "Bagdasaryan, Poursaeed, Shmatikov 2019, Differential Privacy Has Disparate Impact on Model Accuracy "
        "(MNIST with the digit 8 cut to 500 pictures); Farrand et al. 2020, arXiv:2009.06389.",
    ),
    "adversarial": Claim(
        "Adversarial training raises the risk of membership inference",
        "A robust model fits its training rows more closely, so that they are easier to tell.",
        "Song, Shokri, Mittal 2019, Privacy Risks of Securing Machine Learning Models against Adversarial Examples "
        "(Fashion-MNIST among others).",
    ),
    "int8": Claim(
        "Eight-bit weights are about neutral",
        "Post-training 8-bit quantisation keeps accuracy and trust; here: within one point (0.01).",
        "Hong et al. 2024, Decoding Compressed Trust (moderate bit widths), and the usual finding on accuracy.",
        margin=0.01,
    ),
    "pruning": Claim(
        "Pruning hurts the tail",
        "At nearly equal accuracy, rare classes and small groups lose more than others.",
        "Hooker et al. 2019, What Do Compressed Deep Neural Networks Forget?; Hooker et al. 2020, Characterising Bias "
        "in Compressed Models.",
    ),
    "distillation": Claim(
        "Distillation shifts the accuracy of single classes",
        "Compared with the same student trained on labels, up to 41 % of classes change significantly.",
        "Mohammadshahi, Ioannou 2024, What is Left After Distillation?, arXiv:2410.08407.",
        any_counts=True,
        family=10,
    ),
    "sparsity": Claim(
        "Sparsity lowers membership inference",
        "A pruned model tells less of its training rows; published for the average row, here at 1 % false alarms.",
        "Wang et al. 2020, arXiv:2008.13578; 2023, arXiv:2304.10553.",
        sign=-1,
    ),
}


# ------------------------------------------------------------------ measuring


def resampled(num_rows: int) -> Array:
    """Weights `(1 + B, N)` of the test rows: row 0 is what was observed; the same for every seed and system."""
    rng = np.random.default_rng(7)
    drawn = np.stack([np.bincount(rng.integers(0, num_rows, num_rows), minlength=num_rows) for _ in range(NUM_DRAWS)])
    return np.concatenate([np.ones((1, num_rows)), drawn])


def mean_of(weights: Array, values: Array, rows: Array) -> Array:
    """Weighted means `(1 + B,)` of values over some rows."""
    chosen = weights[:, rows]
    found: Array = chosen @ values[rows] / np.maximum(chosen.sum(axis=1), 1)
    return found


def right(system: System) -> Array:
    """Whether each test row was answered correctly, `(N,)` of 0 and 1."""
    test = system.data.splits["test"]
    decided = system.decision.decide(answers(system), test.inputs, test.groups)
    found: Array = (np.asarray(decided) == test.labels).astype(np.float64)
    return found


def answers(system: System) -> Array:
    """Probabilities of the test rows."""
    return np.asarray(system.task.probabilities(run_model(system, system.data.splits["test"].inputs)))


def twins(before: System, after: System, measures: Measures) -> Effects:
    """Each measure, of weights and a system, on both."""
    weights = resampled(len(before.data.splits["test"]))
    found: Effects = {}
    for name, measure in measures.items():
        first, second = measure(weights, before), measure(weights, after)
        num = measure.num if isinstance(measure, Share) else weights.shape[1]
        found[name] = Effect(float(first[0]), float(second[0]), (second - first)[1:], math.sqrt(2) / max(1, num))
    return found


def accuracy(weights: Array, system: System) -> Array:
    """Share of right answers."""
    return mean_of(weights, right(system), np.arange(weights.shape[1]))


@dataclass(frozen=True, eq=False)
class Share:
    """Accuracy on some rows; less that on others, where there are some."""

    rows: Array
    less: Array | None = None

    def __call__(self, weights: Array, system: System) -> Array:
        """Under weights of the test rows."""
        hits = right(system)
        found = mean_of(weights, hits, self.rows)
        return found if self.less is None else found - mean_of(weights, hits, self.less)

    @property
    def num(self) -> int:
        """Rows of the smaller of both."""
        return min(int(one.sum()) for one in (self.rows, self.less) if one is not None)


def true_probability(weights: Array, system: System) -> Array:
    """Mean probability of the true class: finer than a share of right answers."""
    test = system.data.splits["test"]
    return mean_of(weights, answers(system)[np.arange(len(test)), test.labels], np.arange(len(test)))


def by_group(data: Data, column: int = 0) -> dict[str, Array]:
    """Rows of the test split by category of a group column."""
    codes = data.splits["test"].groups.codes[:, column]
    return {name: codes == code for code, name in enumerate(data.group_columns[column].categories)}


def probed(before: System, after: System, probe: str, metrics: Mapping[tuple[str, str], str]) -> Effects:
    """Measurements of one probe on both, paired by their replicates."""
    workspace = Workspace(key=b"findings", num_draws=NUM_DRAWS)
    audits = [engine.audit(one, probes=[probe], workspace=workspace) for one in (before, after)]
    found: Effects = {}
    for (metric, where), name in metrics.items():
        first, second = (one.find(metric, where) for one in audits)
        if first.value is None or second.value is None or first.replicates is None or second.replicates is None:
            raise RuntimeError(f"{metric} {where}: {first.reason or second.reason}")
        gaps = np.nan_to_num(np.asarray(second.replicates) - np.asarray(first.replicates))
        floor = math.sqrt(2) / max(1, min(first.scored, second.scored))
        found[name] = Effect(first.value, second.value, gaps[-NUM_DRAWS:], floor)
    return found


MEMBERS = {
    ("members_found_at_1_percent", ""): "members found at 1 % false alarms",
    ("membership_auc", ""): "AUC of membership",
    ("membership_auc", "attack=loss"): "AUC by the loss alone",
}


# ------------------------------------------------------------------ systems


def treated(system: System, name: str, **options: Any) -> System:
    """One treatment by name."""
    made: System = registry.TREATMENTS[name].function(system, **options)
    return made


def trained(data: Data, seed: int, name: str, params: Mapping[str, Any], **settings: Any) -> System:
    """A system with this seed."""
    recipe = TrainRecipe(Architecture(name, dict(params)), task_of(data), TrainSettings(**settings))
    return train_system(data, recipe=recipe, seed=seed)


def lenet(data: Data, seed: int, **settings: Any) -> System:
    """A LeNet of 8 and 16 maps and 64 units."""
    chosen = {"epochs": 6, "batch_size": 64, "learning_rate": 3e-3, **settings}
    return trained(data, seed, "cnn_lenet", {"widths": [8, 16], "hidden": [64]}, **chosen)


def rarer(data: Data, classes: Sequence[int], share: float) -> Data:
    """The same data with only a share of the training rows of some classes; test as it was."""
    train, rng = data.splits["train"], np.random.default_rng(1)
    kept = ~np.isin(train.labels, classes) | (rng.random(len(train)) < share)
    return replace(data, splits={**data.splits, "train": train.take(np.flatnonzero(kept))})


# ------------------------------------------------------------------ cases


def dp_digits(seed: int, folder: Path | None) -> Effects:
    """Private training where one digit is rare."""
    data = rarer(load("mnist", folder), [8], RARE_SHARE)
    system, is_small = lenet(data, seed), data.splits["test"].labels == 8
    measures: Measures = {
        "gap, other digits - 8": Share(~is_small, is_small),
        "accuracy on 8": Share(is_small),
        "accuracy": accuracy,
    }
    return twins(system, treated(system, "dp_sgd", epsilon=3.0), measures)


def dp_adult(seed: int, folder: Path | None) -> Effects:
    """Private training on Adult, by sex and race."""
    data = load("adult", folder)
    system = trained(data, seed, "mlp", {"hidden": [64, 64], "num_bins": 32}, epochs=10, batch_size=256)
    test = data.splits["test"]
    poor = test.labels == 1
    women, white = by_group(data)["Female"], by_group(data, 1)["White"]
    measures: Measures = {
        "true positive rate, men - women": Share(poor & ~women, poor & women),
        "true positive rate, White - others": Share(poor & white, poor & ~white),
        "accuracy, women - men": Share(women, ~women),
        "accuracy": accuracy,
    }
    return twins(system, treated(system, "dp_sgd", epsilon=1.0), measures)


def adversarial_pictures(seed: int, folder: Path | None) -> Effects:
    """Membership inference before and after adversarial training."""
    data = fewer(load("fashion_mnist", folder), 2000, 10_000)
    system = lenet(data, seed, epochs=20)
    robust = treated(system, "adversarial_training", radius=0.1)
    found = probed(system, robust, "membership_inference", MEMBERS) | twins(system, robust, {"accuracy": accuracy})
    train = data.splits["train"]
    fits = [float((run_model(one, train.inputs).argmax(axis=1) == train.labels).mean()) for one in (system, robust)]
    return found | {"accuracy on training rows": Effect(fits[0], fits[1], np.zeros(NUM_DRAWS))}  # no test row is in it


def int8_of(name: str) -> Callable[[int, Path | None], Effects]:
    """Accuracy, the worst group and the mean true probability, on one architecture."""

    def run(seed: int, folder: Path | None) -> Effects:
        data = load({"mlp": "adult", "cnn_lenet": "fashion_mnist"}.get(name, "sentiment"), folder)
        if name == "mlp":
            system = trained(data, seed, name, {"hidden": [64, 64], "num_bins": 32}, epochs=6, batch_size=512)
        elif name == "cnn_lenet":
            system = lenet(fewer(data, 6000, 10_000), seed, epochs=4)
            data = system.data
        else:
            params = {"dim": 32, "vocab_size": 4000} | ({"num_hidden": 32} if name == "lstm" else {})
            system = trained(data, seed, name, params, epochs=2, batch_size=128)
        groups = {f"accuracy, {group}": Share(rows) for group, rows in by_group(data).items()}
        measures: Measures = {"accuracy": accuracy, "probability of the true class": true_probability, **groups}
        return twins(system, treated(system, "quantize_int8"), measures)

    return run


def pruned_pictures(seed: int, folder: Path | None) -> Effects:
    """Small weights taken out where two classes are rare."""
    data = rarer(load("fashion_mnist", folder), [2, 7], RARE_SHARE)
    system = lenet(data, seed)
    is_small = np.isin(data.splits["test"].labels, [2, 7])
    found: Effects = {}
    for sparsity in (0.3, 0.5, 0.7):
        measures: Measures = {
            f"{sparsity:.0%}: gap, other classes - rare": Share(~is_small, is_small),
            f"{sparsity:.0%}: accuracy": accuracy,
        }
        found |= twins(system, treated(system, "prune_magnitude", sparsity=sparsity, structured=False), measures)
    return found


def pruned_adult(seed: int, folder: Path | None) -> Effects:
    """Small weights taken out on Adult."""
    data = load("adult", folder)
    system = trained(data, seed, "mlp", {"hidden": [64, 64], "num_bins": 32}, epochs=6, batch_size=512)
    test = data.splits["test"]
    white, rich = by_group(data, 1)["White"], test.labels == 1
    after = treated(system, "prune_magnitude", sparsity=0.7, structured=False)
    measures: Measures = {
        "accuracy, more frequent - rarer label": Share(~rich, rich),
        "true positive rate, White - others": Share(rich & white, rich & ~white),
        "accuracy": accuracy,
    }
    return twins(system, after, measures)


def distilled(seed: int, folder: Path | None) -> Effects:
    """A student taught by a larger network, and the same student taught by labels."""
    data = load("fashion_mnist", folder)
    student = trained(data, seed, "cnn_lenet", {"hidden": [16]}, epochs=6, batch_size=64, learning_rate=3e-3)
    teacher = lenet(data, seed)
    taught = DistillRecipe(cast(TrainRecipe, teacher.recipe), cast(TrainRecipe, student.recipe).architecture, 2.0, 0.1)
    fitted = taught.fit_student(teacher.model, data.splits["train"], data=data, seed=seed)  # as many epochs as alone
    after = replace(teacher, model=fitted.model, recipe=taught)
    labels = data.splits["test"].labels
    classes = {f"class {name}": Share(labels == code) for code, name in enumerate(data.classes)}
    return twins(student, after, {**classes, "accuracy": accuracy})


def sparse_members(seed: int, folder: Path | None) -> Effects:
    """Membership inference before and after small weights are taken out."""
    data = fewer(load("adult", folder), 4000, 20_000)
    system = trained(
        data, seed, "mlp", {"hidden": [256, 256]}, epochs=30, batch_size=128, learning_rate=1e-3, weight_decay=0.0
    )
    found: Effects = {}
    for sparsity in (0.5, 0.8):
        after = treated(system, "prune_magnitude", sparsity=sparsity, structured=False)
        both = probed(system, after, "membership_inference", MEMBERS) | twins(system, after, {"accuracy": accuracy})
        found |= {f"{sparsity:.0%}: {name}": one for name, one in both.items()}
    return found


_INT8 = "{} {} on {}; `quantize_int8`: layers that are linear go to 8 bits, whatever else there is stays."
CASES: dict[str, Case] = {
    "dp_digits": Case(
        "dp",
        "14,000 training pictures of MNIST, the digit 8 cut to 9 %; LeNet, against `dp_sgd` at ε = 3 (δ = 1e-5).",
        ("gap, other digits - 8",),
        dp_digits,
        2,
    ),
    "dp_adult": Case(
        "dp",
        "Adult, MLP 64-64, against `dp_sgd` at ε = 1. Judged: who of those above 50,000 is found.",
        ("true positive rate, men - women", "true positive rate, White - others"),
        dp_adult,
        1,
    ),
    "adversarial": Case(
        "adversarial",
        "2,000 training pictures of Fashion-MNIST, LeNet, 20 epochs, against `adversarial_training` at radius 0.1 "
        "(one step a batch, a small network; the paper takes several steps, with networks that fit nearly all their "
        "training rows); four reference models each, 2,000 members against 10,000 test pictures.",
        ("members found at 1 % false alarms", "AUC of membership"),
        adversarial_pictures,
        4,
    ),
    "int8_mlp": Case("int8", _INT8.format("MLP", "64-64", "Adult"), ("*",), int8_of("mlp")),
    "int8_cnn": Case("int8", _INT8.format("LeNet", "(6,000 pictures)", "Fashion-MNIST"), ("*",), int8_of("cnn_lenet")),
    "int8_lstm": Case("int8", _INT8.format("LSTM", "of width 32", "reviews"), ("*",), int8_of("lstm"), 2),
    "int8_transformer": Case(
        "int8", _INT8.format("Transformer encoder", "of width 32", "reviews"), ("*",), int8_of("transformer"), 2
    ),
    "pruned_pictures": Case(
        "pruning",
        "14,000 training pictures of Fashion-MNIST, pullovers and sneakers cut to 9 %; LeNet, the smallest weights set "
        "to 0 (`prune_magnitude`, unstructured, nothing trained afterwards).",
        tuple(f"{share}: gap, other classes - rare" for share in ("30%", "50%", "70%")),
        pruned_pictures,
    ),
    "pruned_adult": Case(
        "pruning",
        "Adult, MLP 64-64, 70 % of the weights set to 0.",
        ("accuracy, more frequent - rarer label", "true positive rate, White - others"),
        pruned_adult,
    ),
    "distilled": Case(
        "distillation",
        "14,000 training pictures of Fashion-MNIST; a LeNet with 16 units taught by one with 64 (`distill`, "
        "temperature 2, no more epochs than its teacher), against the same student trained on labels. Classes at 95 % "
        "together (Bonferroni).",
        ("class *",),
        distilled,
        2,
    ),
    "sparse_members": Case(
        "sparsity",
        "4,000 training rows of Adult, MLP 256-256, 30 epochs, against half and 80 % of the weights set to 0; four "
        "reference models, pruned likewise; 4,000 members against 16,281 test rows.",
        tuple(f"{share}: members found at 1 % false alarms" for share in ("50%", "80%")),
        sparse_members,
        2,
    ),
}
