"""Rows that can only be learnt by heart stand out in the losses that training met, and clean ones do not."""

from dataclasses import replace

import numpy as np
import pytest

from assay.models import Architecture
from assay.probes.privacy.loss_trace import loss_trace, most_exposed, spreads
from assay.stats import make_draws
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings
from assay.train.traces import FACT

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


@pytest.mark.slow
def test_planted_rows_with_wrong_labels_stand_out(small_data):
    # Age and hours alone decide the label; forty rows have the wrong one, and a wide network learns them by heart.
    train = small_data.splits["train"].take(np.arange(240))
    inputs = np.array(train.inputs)
    labels = (inputs[:, 0] > 53).astype(np.int64)
    wrong = np.flatnonzero(np.abs(inputs[:, 0] - 53) > 12)[:24]
    labels[wrong] = 1 - labels[wrong]
    settings = TrainSettings(epochs=150, batch_size=32, learning_rate=1e-2, weight_decay=0.0)
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [256]}), task_of(small_data), settings)
    facts = replace(recipe, is_traced=True).fit(replace(train, labels=labels), small_data, 0).facts
    top = most_exposed(facts[FACT], len(wrong) / len(labels))
    assert np.isin(top, wrong).mean() > 0.4  # a tenth of the rows
    (found,) = loss_trace(facts, DRAWS)
    assert found.attempted == 240
    assert 0.01 < found.value < 0.3
    clean = np.full((20, 100), 0.05)
    assert loss_trace({FACT: clean}, DRAWS)[0].value == 0.0


def test_what_was_not_kept_is_undefined_and_errored_rows_stay():
    for facts in ({}, {FACT: "array:1234"}):
        (found,) = loss_trace(facts, DRAWS)
        assert found.value is None
        assert "is_traced" in found.reason
    trace = np.tile([[5.0], [5.0], [0.0], [0.0]], (1, 10))
    trace[:, :3] = np.nan
    (found,) = loss_trace({FACT: trace}, DRAWS)
    assert (found.attempted, found.errored, found.value) == (10, 3, 0.7)
