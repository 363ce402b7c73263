"""Rows that can only be learnt by heart stand out in the losses that training met, and clean ones do not."""

from dataclasses import replace

import numpy as np

from assay.models import Architecture
from assay.probes.privacy.loss_trace import loss_trace, most_exposed, spreads
from assay.stats import make_draws
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings
from assay.train.traces import FACT
from assay.values import Column, Data, Groups, Split

DRAWS = make_draws(b"key", "split", [np.arange(50) % 2])


def test_spread_is_numpy_s_interquartile_range_of_probabilities():
    trace = np.random.default_rng(0).gamma(1.0, 1.0, (9, 40))
    trace[3, 5] = np.nan
    trace[1:, 7] = np.nan
    found = spreads(trace)
    assert np.isnan(found[7])
    for row in (0, 5, 39):
        seen = np.exp(-trace[np.isfinite(trace[:, row]), row])
        assert found[row] == np.subtract(*np.percentile(seen, [75, 25]))


def test_planted_rows_with_wrong_labels_stand_out():
    rng = np.random.default_rng(0)
    columns = tuple(Column(f"c{place}", "numeric", low=-3, high=3) for place in range(30))
    inputs = rng.normal(size=(300, 30)).astype(np.float32)
    labels = (inputs[:, 0] > 0).astype(np.int64)
    wrong = rng.permutation(300)[:30]
    planted = labels.copy()
    planted[wrong] = 1 - planted[wrong]
    split = Split(inputs, labels, Groups(np.zeros((300, 0), dtype=np.int16), ()), np.arange(1, 301))
    data = Data("planted", columns, "label", (), dict.fromkeys(("train", "test"), split), ("no", "yes"), "yes")
    settings = TrainSettings(
        epochs=16, batch_size=32, learning_rate=1e-2, weight_decay=0.0, curve="constant", warmup=0.0
    )
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [64]}), task_of(data), settings, is_traced=True)
    facts, clean = (recipe.fit(replace(split, labels=one), data, 0).facts for one in (planted, labels))
    assert np.isin(most_exposed(facts[FACT], 0.1), wrong).mean() > 0.3  # a tenth of the rows
    late, early = loss_trace(facts, DRAWS)[0], loss_trace(clean, DRAWS)[0]
    assert late.attempted == 300
    assert late.low > 0.04
    assert early.value < 0.03


def test_what_was_not_kept_is_undefined_and_errored_rows_stay():
    for facts in ({}, {FACT: "array:1234"}):
        (found,) = loss_trace(facts, DRAWS)
        assert found.value is None
        assert "is_traced" in found.reason
    trace = np.tile([[5.0], [5.0], [0.0], [0.0]], (1, 10))
    trace[:, :3] = np.nan
    (found,) = loss_trace({FACT: trace}, DRAWS)
    assert (found.attempted, found.errored, found.value) == (10, 3, 0.7)
