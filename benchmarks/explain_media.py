"""Shapley explanations of texts: ours in two levels, shap's Partition and lime, by rows of the model and by deletion.

Run: python benchmarks/explain_media.py [--texts 6]. Needs the peer extra, and the sentiment sentences on this machine.
Each method scores every word of long texts (three sentences in one). Quality is the area under the deletion curve of
words in the order of their scores for the class that was answered (lower is better), beside that of a random order; the
cost is rows of the model and CPU seconds. Peers run at their defaults (500 evaluations; 5,000 samples).
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import shap
import torch
from lime.lime_text import LimeTextExplainer

from assay.data import load_sentiment
from assay.explain import masked_passes, shapley
from assay.explain.finer import finer
from assay.models import Architecture
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.units import Ground, Words
from assay.units.text import words
from assay.values import Array, texts

Scores = Callable[[str, int], Array]  # a text and the class, to a score for each of its words


class Model:
    """Probabilities of texts, with rows counted."""

    def __init__(self, system: object) -> None:
        self.system, self.rows = system, 0

    def __call__(self, told: object) -> Array:  # noqa: D102
        inputs = texts(str(one) for one in list(told))  # type: ignore[call-overload]
        self.rows += len(inputs)
        model, task = self.system.model, self.system.task  # type: ignore[attr-defined]
        return np.asarray(task.probabilities(task.logits(model.outputs(inputs), model.outputs_are)))


def ours(model: Model) -> Scores:
    def score(text: str, target: int) -> Array:
        units, rng, row, chosen = Words(), np.random.default_rng(0), texts([text]), np.array([target])
        ground = Ground(texts([""]), units)
        values = shapley(masked_passes(model, row, ground, num_coalitions=240, rng=rng, target=chosen)).values
        parts = finer(model, row, values, ground, target=chosen, rng=rng)[0]
        found: list[float] = []
        for unit, run in enumerate(units.runs(text)):
            own = [part.value for part in parts if part.unit == unit]
            size = max(len(words(run)), 1)
            found += own or [values[0, unit] / size] * len(words(run))
        return np.array(found)

    return score


def by_partition(model: Model) -> Scores:
    explainer = shap.Explainer(model, shap.maskers.Text(r"\s+"), algorithm="partition")

    def score(text: str, target: int) -> Array:
        found = explainer([text], silent=True)
        return by_place(text, [str(one) for one in found.data[0]], found.values[0][:, target])

    return score


def by_place(text: str, tokens: list[str], values: Array) -> Array:
    """Scores of the words that tokens stand in, which are told in order and together are the text."""
    ends = np.cumsum([len(word) for word in words(text)])
    found, at = np.zeros(len(ends)), 0
    for token, value in zip(tokens, values.tolist(), strict=True):
        start = text.find(token.strip(), at) if token.strip() else at
        at = start if start >= 0 else at
        found[min(int(np.searchsorted(ends, at, side="right")), len(ends) - 1)] += value
        at += len(token.strip())
    return found


def by_lime(model: Model) -> Scores:
    explainer = LimeTextExplainer(random_state=0, bow=False, split_expression=r"\s+", mask_string="")

    def score(text: str, target: int) -> Array:
        own = words(text)
        found = explainer.explain_instance(text.strip(), model, labels=(target,), num_features=len(own))
        result = np.zeros(len(own))
        for place, value in found.as_map()[target]:
            result[place] = value
        return result

    return score


def area(model: Model, text: str, target: int, order: Array) -> float:
    """Under the curve of the answer while words go, the first of the order first."""
    own = np.array(words(text), dtype=object)
    rank = np.argsort(order)
    left = ["".join(own[rank >= gone]).strip() for gone in range(len(own) + 1)]
    return float(np.trapezoid(model(left)[:, target], dx=1 / len(own)))


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=6)
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    data = load_sentiment()
    recipe = TrainRecipe(Architecture("gru", {"num_hidden": 16}), task_of(data), TrainSettings(epochs=3))
    model = Model(train_system(data, recipe=recipe))
    test = data.splits["test"].inputs.tolist()
    told = [" ".join(test[3 * place : 3 * place + 3]) for place in range(chosen.texts)]
    targets = model(told).argmax(axis=1).tolist()
    methods = {"ours, two levels": ours(model), "shap Partition": by_partition(model), "lime": by_lime(model)}
    print(f"{len(told)} texts of {np.mean([len(words(one)) for one in told]):.0f} words on average")
    print(f"{'method':<20}{'model rows':>12}{'CPU s':>9}{'deletion area':>15}")
    rng = np.random.default_rng(0)
    pairs = list(zip(told, targets, strict=True))
    chance = np.mean([area(model, one, at, rng.permutation(len(words(one)))) for one, at in pairs for _ in range(8)])
    for name, method in methods.items():
        rows, started = model.rows, time.process_time()
        scores = [method(one, at) for one, at in pairs]
        spent, used = time.process_time() - started, model.rows - rows
        areas = [area(model, one, at, np.argsort(-score)) for one, at, score in zip(told, targets, scores, strict=True)]
        print(f"{name:<20}{used / len(told):>12,.0f}{spent / len(told):>9.3f}{np.mean(areas):>15.3f}")
    print(f"{'random order':<20}{'':>12}{'':>9}{chance:>15.3f}")


if __name__ == "__main__":
    main()
