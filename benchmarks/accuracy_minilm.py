"""What a sentence encoder made elsewhere adds: movie sentiment by TF-IDF, by MiniLM frozen, and with its top tuned.

    python -m benchmarks.accuracy_minilm [seeds]

Fetches 86 MB once. What is frozen is run once and shared by all seeds: a training loop sees what `encode` gives.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from assay.data.sources.sentiment import load_sentiment
from assay.models import Architecture, tensors
from assay.models.adapters.minilm import fetch_minilm
from assay.tasks import task_of
from assay.train.loop import fit
from assay.train.recipe import TrainRecipe
from assay.train.settings import TrainSettings
from assay.values import Array, Data

MAX_LENGTH = 48  # tokens; 4 % of the texts are longer
FROZEN = TrainSettings(epochs=6, batch_size=64, learning_rate=2e-3, weight_decay=0.01, warmup=0.1)
TUNED = TrainSettings(
    epochs=1,
    batch_size=32,
    learning_rate=1e-4,
    weight_decay=0.01,
    warmup=0.1,
    curve="linear",
    max_grad_norm=1.0,
    precision="bfloat16",
    average=0.95,
)
TUNED_LAYERS = 2


class Encoded(nn.Module):
    """A module on what its `encode` gave before."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, encoded: Tensor) -> Tensor:
        """`(N, ...)` to `(N, K)`."""
        outputs: Tensor = self.module(encoded)
        return outputs


@dataclass
class Clock:
    """CPU seconds since it was made or last read."""

    began: float = 0.0

    def lap(self) -> float:
        """Since the last reading."""
        now, last = time.process_time(), self.began
        self.began = now
        return now - last


def by_tfidf(data: Data) -> Array:
    """Right or wrong `(N,)` on the test split: logistic regression on words and pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    model = make_pipeline(words, LogisticRegression(C=3, max_iter=1000))
    train, test = data.splits["train"], data.splits["test"]
    model.fit(train.inputs.tolist(), train.labels)
    return np.asarray(model.predict(test.inputs.tolist()) == test.labels)


def recipe_of(data: Data, settings: TrainSettings, tuned_layers: int) -> TrainRecipe:
    params = {"encoder": "minilm", "max_length": MAX_LENGTH, "tuned_layers": tuned_layers}
    return TrainRecipe(Architecture("sentence_encoder", params), task_of(data), settings)


def encoded(data: Data, recipe: TrainRecipe) -> dict[str, Tensor]:
    """What the frozen layers make of each split."""
    clock, module = Clock(time.process_time()), recipe.make_module(data.splits["train"], data, 0).eval()
    found = {name: tensors(module, data.splits[name].inputs) for name in ("train", "test")}
    print(f"  encoded once: {clock.lap():.0f} CPU s", flush=True)
    return found


def by_encoder(data: Data, means: dict[str, Tensor], states: dict[str, Tensor] | None, seed: int) -> Array:
    """Right or wrong `(N,)` on the test split: a head on the means; with `states`, then the layers above them too.

    The head first, then all: Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features".
    """
    clock, train = Clock(time.process_time()), data.splits["train"]
    recipe = recipe_of(data, TUNED if states else FROZEN, TUNED_LAYERS if states else 0)
    module = recipe.make_module(train, data, seed)
    width = module.state_dict()["head.weight"].shape[1]  # the tuned head reads fewer layers, the top ones
    wrapped, heads = Encoded(module), means["train"][:, -width:].numpy()
    fit(wrapped, replace(train, inputs=heads), task=recipe.task, settings=FROZEN, seed=seed)
    if states:
        fit(wrapped, replace(train, inputs=states["train"].numpy()), task=recipe.task, settings=TUNED, seed=seed)
    with torch.inference_mode():
        outputs = torch.cat([wrapped(rows) for rows in torch.split((states or means)["test"], 256)])
    found: Array = outputs.argmax(dim=1).numpy() == data.splits["test"].labels
    print(f"  seed {seed}: {found.mean():.4f} ({clock.lap():.0f} CPU s)", flush=True)
    return found


def show(name: str, found: Array, others: dict[str, Array]) -> None:
    """Mean over seeds with its t interval, and the gain over others `(S, N)` with the interval of the test rows."""
    accuracy = found.mean(axis=1)
    reach = stats.t.ppf(0.975, len(accuracy) - 1) * accuracy.std(ddof=1) / np.sqrt(len(accuracy))
    print(f"{name}: {accuracy.mean():.4f} ± {reach:.4f} over {len(accuracy)} seeds")
    for other, theirs in others.items():
        gain = found.mean(axis=0) - theirs.mean(axis=0)
        row = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain))
        print(f"  over {other}: {gain.mean():+.4f} ± {row:.4f} over {len(gain)} rows", flush=True)


def main(seeds: int = 5) -> None:
    """Measure, and print the table."""
    torch.set_num_threads(1)
    fetch_minilm()
    data = load_sentiment(domain="movie", fetch=True)
    print(f"rows: { ({name: len(split) for name, split in data.splits.items()}) }")
    by_words = by_tfidf(data)[None]
    print(f"TF-IDF and logistic regression: {by_words.mean():.4f}", flush=True)
    means = encoded(data, recipe_of(data, FROZEN, 0))
    frozen = np.stack([by_encoder(data, means, None, seed) for seed in range(seeds)])
    show("MiniLM frozen", frozen, {"TF-IDF": by_words})
    states = encoded(data, recipe_of(data, TUNED, TUNED_LAYERS))
    tuned = np.stack([by_encoder(data, means, states, seed) for seed in range(seeds)])
    show(f"MiniLM, top {TUNED_LAYERS} of 6 layers tuned", tuned, {"TF-IDF": by_words, "MiniLM frozen": frozen})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
