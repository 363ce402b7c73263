from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as reference

from assay import engine
from assay.digests import digest_of
from assay.observe import Workspace
from assay.probes.fairness._swaps import Answers
from assay.probes.fairness.picture_swap import _of_families
from assay.stats import make_draws
from assay.tasks import Argmax, task_of
from assay.values import System
from support import small_images


class Looks:
    """Answers by how bright a picture is; with `blind`, by its place in a family only, which no tone changes."""

    offers, outputs_are, num_bytes = frozenset({"query"}), "logits", 1

    def __init__(self, slope):
        self.slope, self.digest = slope, digest_of(["looks", slope])

    def outputs(self, inputs):
        score = self.slope * (inputs.astype(np.float64).mean(axis=(1, 2, 3)) - 100) / 10
        return np.stack([score * 0, score, score * 0 - 50], axis=1).astype(np.float32)


def families_of(data, tones=3):
    """Test rows in families of three: the same picture, darker each time."""
    test = data.splits["test"]
    num = len(test) // tones
    inputs = test.inputs.copy()
    for at in range(num):
        for tone in range(1, tones):
            inputs[at * tones + tone] = np.maximum(inputs[at * tones].astype(int) - 15 * tone, 0)
    rows = test.rows[: num * tones].reshape(num, tones).tolist()
    told = {"counterfactuals": {"tone": [*rows, [1, 2]]}}  # one family of another split
    return replace(data, splits={**data.splits, "test": replace(test, inputs=inputs)}, source=told), num


def measured(model, data):
    system = System("looks", model, data, task_of(data), Argmax())
    audit = engine.audit(system, probes=["picture_swap"], workspace=Workspace(key=b"owner", num_draws=100))
    assert "picture_swap" not in audit.ledger
    return {(one.metric, one.slice): one for one in audit.measurements}


def test_flips_and_changes_are_those_counted_by_hand():
    data, num = families_of(small_images(200))
    found = measured(Looks(1.0), data)
    outputs = Looks(1.0).outputs(data.splits["test"].inputs)[: 3 * num].astype(np.float64)
    answers = outputs.argmax(axis=1).reshape(num, 3)
    flips = (answers != answers[:, :1]).any(axis=1)
    one = found["swap_flip_rate", "tone"]
    assert (one.value, one.attempted) == (pytest.approx(flips.mean()), num)
    assert one.low == pytest.approx(reference.binomtest(int(flips.sum()), num).proportion_ci(0.95).low)
    assert one.low > 0
    chance = (np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)).reshape(num, 3, 3)
    apart = np.mean([np.abs(chance[:, a] - chance[:, b]).sum(axis=1) / 2 for a, b in ((0, 1), (0, 2), (1, 2))])
    assert found["swap_mean_change", "tone"].value == pytest.approx(apart, rel=1e-4)


def test_a_picture_refused_in_every_version_has_not_flipped_and_one_that_fails_has():
    answers = np.array([-2, -2, -2, 0, -1, -1, 1, 1])
    told = [[0, 1], [2, 3], [4, 5], [6, 7]]
    draws = make_draws(b"key", "split", [answers], num_draws=20)
    flips, change = _of_families(told, "tone", Answers(answers, np.full((8, 2), 0.5)), draws)
    assert (flips.value, flips.errored) == (0.5, 3)
    assert change.value == 0.0


def test_a_model_that_does_not_see_the_tone_never_flips():
    data, num = families_of(small_images(200))
    found = measured(Looks(0.0), data)
    assert found["swap_flip_rate", "tone"].value == 0.0
    assert found["swap_flip_rate", "tone"].high == pytest.approx(reference.binomtest(0, num).proportion_ci(0.95).high)
    assert found["swap_mean_change", "tone"].value == 0.0


def test_data_that_do_not_say_which_pictures_belong_together_give_a_reason():
    found = measured(Looks(1.0), small_images(60))
    assert "which pictures differ in one thing alone" in found["swap_flip_rate", ""].reason
