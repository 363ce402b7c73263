"""Accuracy of text models trained from scratch, beside TF-IDF and logistic regression on the same split.

    python -m benchmarks.accuracy_text movie --seeds 5
    python -m benchmarks.accuracy_text chinese --seeds 5 --models lstm

One split, fixed by the loader; five seeds of training; held-out test rows; 95 % t-interval over the seeds. The linear
model's n-grams and C are chosen on the validation rows, as the settings here were; validation rows train nothing.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
from scipy import stats

from assay.data.sources.chinese_reviews import load_chinese_reviews
from assay.data.sources.sentiment import load_sentiment
from assay.models import Architecture
from assay.tasks import task_of
from assay.train.recipe import TrainRecipe
from assay.train.settings import TrainSettings

MODELS = ("linear", "ngrams", "lstm", "gru", "transformer")
SETTINGS = {
    "movie": {"learning_rate": 4e-3},
    "chinese": {"learning_rate": 4e-3, "epochs": 3},
}
SHARED: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 128,
    "weight_decay": 0.1,
    "average": 0.98,
    "augment": ("token_dropout:0.1",),
    "max_grad_norm": 1.0,
}
OWN_SETTINGS = {"ngrams": {"epochs": 3}}
GRAMS = {
    "movie": [{}, {"ngram_range": (1, 2), "sublinear_tf": True}],
    "chinese": [{"analyzer": "char", "ngram_range": (1, n), "sublinear_tf": True} for n in (2, 3)],
}


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", choices=SETTINGS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    asked = parser.parse_args()
    data = load_sentiment(domain="movie", fetch=True) if asked.data == "movie" else load_chinese_reviews(fetch=True)
    test = data.splits["test"]
    print({name: len(split) for name, split in data.splits.items()}, flush=True)
    if "linear" in asked.models:
        print(f"{asked.data}, TF-IDF and logistic regression: {linear(data, GRAMS[asked.data])}", flush=True)
    for name in [name for name in asked.models if name != "linear"]:
        found, seconds = [], []
        settings = TrainSettings(**{**SHARED, **SETTINGS[asked.data], **OWN_SETTINGS.get(name, {})})
        for seed in range(asked.seeds):
            began = time.process_time()
            recipe = TrainRecipe(Architecture(name), task_of(data), settings)
            model = recipe.fit(data.splits["train"], data, seed).model
            seconds.append(time.process_time() - began)
            right = model.outputs(data.splits["validation"].inputs).argmax(axis=1) == data.splits["validation"].labels
            found.append((model.outputs(test.inputs).argmax(axis=1) == test.labels).mean())
            print(f"  {name} seed {seed}: validation {right.mean():.4f}, test {found[-1]:.4f}", flush=True)
        mean, error = np.mean(found), stats.sem(found) if len(found) > 1 else np.nan
        half = stats.t.ppf(0.975, len(found) - 1) * error if len(found) > 1 else np.nan
        print(f"{asked.data}, {name}: {mean:.4f} ± {half:.4f} ({np.mean(seconds):.0f} CPU seconds a run)", flush=True)


def linear(data, choices) -> str:
    """Test accuracy of the n-grams and C that were best on the validation rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

    train, validation, test = (data.splits[name] for name in ("train", "validation", "test"))
    tried = []
    for choice in choices:
        grams = TfidfVectorizer(**choice)
        inputs = grams.fit_transform(train.inputs.tolist())
        for strength in (1, 3, 10):
            model = LogisticRegression(C=strength, max_iter=1000).fit(inputs, train.labels)
            parts = [(grams.transform(part.inputs.tolist()), part.labels) for part in (validation, test)]
            tried.append((*(model.score(*part) for part in parts), f"{choice}, C {strength}"))
    best, low, high = max(tried), min(one[1] for one in tried), max(one[1] for one in tried)
    return f"{best[1]:.4f} with {best[2]} (validation {best[0]:.4f}; all tried: {low:.4f} to {high:.4f})"


if __name__ == "__main__":
    main()
