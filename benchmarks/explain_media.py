"""Shapley explanations of texts and pictures: ours, shap's Partition, lime and captum, by deletion, insertion and CPU.

Run: python benchmarks/explain_media.py [--what gru,transformer,grey,colour] [--first 0] [--num 30] [--methods NAMES].
Needs the peer extra, and the sentences and Fashion-MNIST on this machine. Texts: three sentences of film reviews in
one, scored by word; pictures: Fashion-MNIST, grey and coloured, a small convolutional network, scored by pixel.
Quality is the area under the curves of the answered class's probability while words (28ths of the pixels) go, or come,
in the order of the scores: deletion, lower is better; insertion, higher is better. Words that are gone are left out and
pixels are those of the mean picture, in every method and in the curves. All methods take every input in turn, in one
process; differences are paired by input, with 95 % intervals. The limit is the time that our rows spend in the model.
"ours, ends" asks for single words (of pictures 49 superpixels) and all but one, and for no halves.
Peers: defaults (shap 500 evaluations, lime 5,000 texts and 1,000 pictures), except that of pictures lime and captum get
our superpixels (lime's own make one piece of such small pictures) and captum 64 rows a call and 500 of KernelShap.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import shap
import torch
from captum.attr import FeatureAblation, KernelShap, Occlusion
from lime.lime_image import LimeImageExplainer
from lime.lime_text import LimeTextExplainer
from scipy.stats import t as student

from assay.data import load_coloured_fashion_mnist, load_fashion_mnist, load_sentiment
from assay.explain.finer import Segments, by_superpixel, by_word
from assay.explain.multilinear import multilinear
from assay.models import Architecture
from assay.probes.transparency._curves import mean_row
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.units import Words
from assay.units.superpixels import superpixels
from assay.units.text import words
from assay.values import Array, System, texts

Scores = Callable[[object, int], Array]  # an input and the class, to a score for each of its words or pixels
OURS, ENDS, STEPS = "ours", "ours, ends", 28


@dataclass
class Model:
    """Probabilities, with rows and the seconds inside the model counted."""

    system: System
    rows: int = 0
    seconds: float = 0.0

    def __call__(self, inputs: object) -> Array:  # noqa: D102
        given = inputs if isinstance(inputs, np.ndarray) and inputs.ndim == 4 else texts(map(str, list(inputs)))  # type: ignore[call-overload]
        started = time.process_time()
        found = self.system.task.probabilities(
            self.system.task.logits(self.system.model.outputs(given), self.system.model.outputs_are)
        )
        self.rows, self.seconds = self.rows + len(given), self.seconds + time.process_time() - started
        return np.asarray(found)


@dataclass
class Tally:
    """What one method cost, and its areas, deletion and insertion, of every input."""

    rows: int = 0
    seconds: float = 0.0
    inside: float = 0.0
    areas: list[tuple[float, float]] = field(default_factory=list)


def our_words(model: Model, *, ends: bool = False) -> Scores:
    def score(text: object, target: int) -> Array:
        rng, chosen = None if ends else np.random.default_rng(0), np.array([target])
        (parts,) = by_word(model, texts([str(text)]), Words(), target=chosen, rng=rng)
        return np.array([part.value for part in parts])

    return score


def partition_words(model: Model) -> Scores:
    explainer = shap.Explainer(model, shap.maskers.Text(r"\s+"), algorithm="partition")

    def score(text: object, target: int) -> Array:
        found = explainer([str(text)], silent=True)
        return by_place(str(text), [str(one) for one in found.data[0]], found.values[0][:, target])

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


def lime_words(model: Model) -> Scores:
    explainer = LimeTextExplainer(random_state=0, bow=False, split_expression=r"\s+", mask_string="")

    def score(text: object, target: int) -> Array:
        own = words(str(text))
        found = explainer.explain_instance(str(text).strip(), model, labels=(target,), num_features=len(own))
        result = np.zeros(len(own))
        for place, value in found.as_map()[target]:
            result[place] = value
        return result

    return score


def our_pixels(model: Model, start: Array) -> Scores:
    def score(picture: object, target: int) -> Array:
        rng, inputs = np.random.default_rng(0), np.asarray(picture)[None]
        return by_superpixel(model, inputs, start, target=np.array([target]), rng=rng)[0].pixels

    return score


def our_ends(model: Model, start: Array) -> Scores:
    def score(picture: object, target: int) -> Array:
        given = np.asarray(picture)
        labels = superpixels(given, num=49)

        def kept(masks: Array) -> Array:
            return model(np.where(masks[:, labels][:, None], given, start))[:, target]

        return Segments(given, labels, multilinear(kept, int(labels.max()) + 1, rng=None)).pixels

    return score


def partition_pixels(model: Model, start: Array) -> Scores:
    masker = shap.maskers.Image(start.transpose(1, 2, 0).astype(np.float64), start.transpose(1, 2, 0).shape)
    explainer = shap.Explainer(lambda given: model(channels_first(given)), masker, algorithm="partition")

    def score(picture: object, target: int) -> Array:
        given = np.asarray(picture).transpose(1, 2, 0)[None].astype(np.float64)
        found = explainer(given, max_evals=500, batch_size=50, outputs=[target], silent=True)
        return found.values[0, ..., 0].sum(axis=2)

    return score


def channels_first(given: object) -> Array:
    """`(N, H, W, C)` to `(N, C, H, W)`."""
    return np.ascontiguousarray(np.asarray(given).transpose(0, 3, 1, 2)).astype(np.float32)


def lime_pixels(model: Model, start: Array) -> Scores:
    """Coefficients by lime of our superpixels, shared among their pixels."""
    explainer, num = LimeImageExplainer(random_state=0), len(start)

    def coloured(given: Array) -> Array:  # lime takes three channels only
        return np.repeat(given, 3, axis=2) if num == 1 else given

    def score(picture: object, target: int) -> Array:
        given = np.asarray(picture)
        labels = superpixels(given)
        found = explainer.explain_instance(
            coloured(given.transpose(1, 2, 0)),
            lambda inputs: model(channels_first(inputs)[:, :num]),
            labels=(target,), top_labels=None, num_features=labels.size, num_samples=1000,
            hide_color=coloured(start.transpose(1, 2, 0)), segmentation_fn=lambda _: labels,
        )  # fmt: skip
        values = np.zeros(labels.max() + 1)
        for place, value in found.local_exp[target]:
            values[place] = value
        return (values / np.bincount(labels.ravel()))[labels]

    return score


def captum_pixels(model: Model, start: Array, kind: str) -> Scores:
    """Attributions by captum of our superpixels, or of sliding squares."""
    method = {"KernelShap": KernelShap, "FeatureAblation": FeatureAblation, "Occlusion": Occlusion}[kind]
    explainer = method(lambda given: torch.from_numpy(model(given.numpy().astype(np.float32))))
    baseline = torch.from_numpy(start[None].astype(np.float32))

    def score(picture: object, target: int) -> Array:
        torch.manual_seed(0)
        given, num = torch.from_numpy(np.asarray(picture)[None].astype(np.float32)), len(start)
        common = {"baselines": baseline, "target": target, "perturbations_per_eval": 64}
        if kind == "Occlusion":
            found = explainer.attribute(given, sliding_window_shapes=(num, 4, 4), strides=(num, 2, 2), **common)
            return found[0].sum(dim=0).numpy()
        labels = superpixels(np.asarray(picture))
        more = {"n_samples": 500} if kind == "KernelShap" else {}
        found = explainer.attribute(
            given, feature_mask=torch.from_numpy(labels.astype(int))[None, None], **common, **more
        )
        return (found[0, 0].numpy() / np.bincount(labels.ravel())[labels]).astype(np.float64)

    return score


def word_areas(model: Model, text: object, target: int, score: Array) -> tuple[float, float]:
    """Deletion and insertion, a word a step."""
    own, num = np.array(words(str(text)), dtype=object), len(score)
    rank = np.argsort(np.argsort(-score, kind="stable"))
    lost = ["".join(own[rank >= gone]).strip() for gone in range(num + 1)]
    kept = ["".join(own[rank < come]).strip() for come in range(num + 1)]
    lower, upper = np.split(model(lost + kept)[:, target], 2)
    return float(np.trapezoid(lower, dx=1 / num)), float(np.trapezoid(upper, dx=1 / num))


def pixel_areas(model: Model, picture: object, target: int, score: Array, start: Array) -> tuple[float, float]:
    """Deletion and insertion, a 28th of the pixels a step; equal scores in one random order."""
    order = np.lexsort((np.random.default_rng(1).random(score.size), -score.ravel()))
    rank = np.argsort(order).reshape(score.shape)
    steps = (np.arange(STEPS + 1) * score.size // STEPS)[:, None, None]
    own = np.concatenate([rank >= steps, rank < steps])[:, None]
    lower, upper = np.split(model(np.where(own, np.asarray(picture), start))[:, target], 2)
    return float(np.trapezoid(lower, dx=1 / STEPS)), float(np.trapezoid(upper, dx=1 / STEPS))


def text_case(
    name: str, rows: tuple[int, int]
) -> tuple[Model, list[object], dict[str, Scores], Callable[..., tuple[float, float]]]:
    """The model, its texts, the methods and the curves."""
    data = load_sentiment(domain="movie")
    recipe = TrainRecipe(Architecture(name), task_of(data), TrainSettings(epochs=3))
    model = Model(train_system(data, recipe=recipe))
    test = data.splits["test"].inputs.tolist()
    told: list[object] = [" ".join(test[3 * place : 3 * place + 3]) for place in range(*rows)]
    methods = {OURS: our_words(model), ENDS: our_words(model, ends=True)}
    methods |= {"shap Partition": partition_words(model), "lime": lime_words(model)}

    def areas(inputs: object, target: int, score: Array) -> tuple[float, float]:
        return word_areas(model, inputs, target, score)

    return model, told, methods, areas


def picture_case(
    name: str, rows: tuple[int, int]
) -> tuple[Model, list[object], dict[str, Scores], Callable[..., tuple[float, float]]]:
    """The same of pictures; trained on 10,000."""
    data = load_fashion_mnist() if name == "grey" else load_coloured_fashion_mnist()
    train = data.splits["train"]
    data = replace(data, splits={**data.splits, "train": train.take(np.arange(10_000))})
    recipe = TrainRecipe(Architecture("cnn_lenet"), task_of(data), TrainSettings(epochs=2, batch_size=64))
    model, start = Model(train_system(data, recipe=recipe)), mean_row(train.inputs[:200], data.columns)
    methods = {
        OURS: our_pixels(model, start),
        ENDS: our_ends(model, start),
        "shap Partition": partition_pixels(model, start),
        "lime": lime_pixels(model, start),
        **{f"captum {one}": captum_pixels(model, start, one) for one in ("KernelShap", "FeatureAblation", "Occlusion")},
    }

    def areas(inputs: object, target: int, score: Array) -> tuple[float, float]:
        return pixel_areas(model, inputs, target, score, start)

    return model, list(data.splits["test"].inputs[slice(*rows)]), methods, areas


def measure(name: str, rows: tuple[int, int], chosen: list[str]) -> dict[str, Tally]:
    """Every method on every input in turn, and a random order."""
    model, inputs, methods, areas = (text_case if name in ("gru", "transformer") else picture_case)(name, rows)
    methods = {one: method for one, method in methods.items() if one in chosen or one == OURS or not chosen}
    tallies = {one: Tally() for one in [*methods, "random order"]}
    for method in methods.values():
        method(inputs[0], 0)  # first calls compile and import
    for place, one in enumerate(inputs):
        target = int(model(np.asarray(one)[None] if isinstance(one, np.ndarray) else [one])[0].argmax())
        for key, method in methods.items():
            tally, ran, inside, started = tallies[key], model.rows, model.seconds, time.process_time()
            score = method(one, target)
            tally.seconds += time.process_time() - started
            tally.rows, tally.inside = tally.rows + model.rows - ran, tally.inside + model.seconds - inside
            tally.areas.append(areas(one, target, score))
        chance = np.random.default_rng(place)
        several = [areas(one, target, chance.random(score.shape)) for _ in range(4)]
        tallies["random order"].areas.append(tuple(np.mean(several, axis=0).tolist()))
    return tallies


def told(name: str, tallies: dict[str, Tally]) -> None:
    """One line a method: costs an input, areas, and how ours differ, paired."""
    mine, num = tallies[OURS], len(tallies[OURS].areas)
    print(f"\n{name}, {num} inputs; ours less the peer's, 95 %: deletion below 0 and insertion above 0 are for us")
    print(f"{'method':<24}{'rows':>7}{'CPU s':>9}{'/ ours':>8}{'deletion':>10}{'insertion':>11}")
    for key, tally in tallies.items():
        found, gaps = np.array(tally.areas), apart(mine, tally)
        cost = (
            f"{tally.rows / num:>7,.0f}{tally.seconds / num:>9.4f}{tally.seconds / mine.seconds:>8.1f}"
            if tally.rows
            else " " * 24
        )
        print(f"{key:<24}{cost}{found[:, 0].mean():>10.4f}{found[:, 1].mean():>11.4f}   {gaps}")
    print(
        f"limit: our rows inside the model {mine.inside / num:.4f} CPU s; ours / limit {mine.seconds / mine.inside:.2f}"
    )

    if ENDS not in tallies:
        return
    for key, tally in tallies.items():
        if tally.rows and key not in (OURS, ENDS):
            times = tally.seconds / tallies[ENDS].seconds
            print(f"{ENDS}, beside {key}: {times:.1f} times less CPU   {apart(tallies[ENDS], tally)}")


def apart(mine: Tally, other: Tally) -> str:
    """Mean difference of both areas, paired by input, with 95 % intervals."""
    gaps = np.array(mine.areas) - np.array(other.areas)
    halves = float(student.ppf(0.975, len(gaps) - 1)) * gaps.std(0, ddof=1) / len(gaps) ** 0.5
    return "   ".join(f"{mean:+.4f} ± {half:.4f}" for mean, half in zip(gaps.mean(0), halves, strict=True))


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", default="gru,transformer,grey,colour")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--num", type=int, default=30)
    parser.add_argument("--methods", default="", help="some of them, separated by semicolons; ours always")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    report = {}
    for name in chosen.what.split(","):
        found = measure(name, (chosen.first, chosen.first + chosen.num), list(filter(None, chosen.methods.split(";"))))
        report[name] = {key: vars(one) for key, one in found.items()}
        told(name, found)
    if chosen.json:
        chosen.json.write_text(json.dumps(report, indent=1), "utf-8")


if __name__ == "__main__":
    main()
