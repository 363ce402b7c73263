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

FROZEN = TrainSettings(epochs=6, batch_size=64, learning_rate=2e-3, weight_decay=0.01, warmup=0.1)
TUNED = TrainSettings(
    epochs=2, batch_size=32, learning_rate=2e-4, weight_decay=0.01, warmup=0.1, curve="linear", precision="bfloat16"
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


def by_encoder(data: Data, params: dict[str, object], settings: TrainSettings, seeds: int) -> Array:
    """Right or wrong `(S, N)` on the test split, one row a seed."""
    task, train, test = task_of(data), data.splits["train"], data.splits["test"]
    recipe = TrainRecipe(Architecture("sentence_encoder", {"encoder": "minilm", **params}), task, settings)
    clock = Clock(time.process_time())
    first = recipe.make_module(train, data, 0).eval()
    encoded = {name: tensors(first, split.inputs) for name, split in (("train", train), ("test", test))}
    print(f"  encoded once: {clock.lap():.0f} CPU s", flush=True)
    found = []
    for seed in range(seeds):
        module = Encoded(recipe.make_module(train, data, seed))
        fit(module, replace(train, inputs=encoded["train"].numpy()), task=task, settings=settings, seed=seed)
        with torch.inference_mode():
            outputs = torch.cat([module(rows) for rows in torch.split(encoded["test"], 256)])
        found.append(outputs.argmax(dim=1).numpy() == test.labels)
        print(f"  seed {seed}: {found[-1].mean():.4f} ({clock.lap():.0f} CPU s)", flush=True)
    return np.stack(found)


def show(name: str, found: Array, baseline: Array) -> None:
    """Mean over seeds with its t interval, and the gain over the baseline with the interval of the test rows."""
    accuracy = found.mean(axis=1)
    reach = stats.t.ppf(0.975, len(accuracy) - 1) * accuracy.std(ddof=1) / np.sqrt(len(accuracy))
    gain = found.mean(axis=0) - baseline
    row = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain))
    print(f"{name}: {accuracy.mean():.4f} ± {reach:.4f} over seeds; gain {gain.mean():+.4f} ± {row:.4f} over rows")


def main(seeds: int = 5) -> None:
    torch.set_num_threads(1)
    fetch_minilm()
    data = load_sentiment(domain="movie", fetch=True)
    print(f"rows: { ({name: len(split) for name, split in data.splits.items()}) }")
    baseline = by_tfidf(data)
    print(f"TF-IDF and logistic regression: {baseline.mean():.4f}", flush=True)
    show("MiniLM frozen", by_encoder(data, {}, FROZEN, seeds), baseline)
    show(f"MiniLM, top {TUNED_LAYERS} of 6 layers tuned",
         by_encoder(data, {"tuned_layers": TUNED_LAYERS}, TUNED, seeds), baseline)  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
