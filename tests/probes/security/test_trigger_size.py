"""The pattern of a planted trigger is small where it was planted, and no class of a clean network stands out."""

import numpy as np
import pytest

import backdoor_kit as kit
from assay import engine
from assay.models import Architecture
from assay.observe import Workspace
from assay.probes.security.trigger_size import NUM_STEPS, anomaly, smallest
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system


class Linear:
    """Logits of class 0 rise with the brightness of one pixel, steeply; those of class 1 with all pixels, a little."""

    low, high = np.float32(0), np.float32(255)

    def __init__(self):
        self.weights = np.zeros((2, 1, 8, 8))
        self.weights[0, 0, 2, 3] = 40.0
        self.weights[1] += 0.3
        self.num_rows = 0

    def logits_and_gradients(self, inputs, cotangent):
        self.num_rows += len(inputs)
        logits = np.einsum("nchw,kchw->nk", inputs / 255, self.weights)
        pulled = cotangent(logits, np.arange(len(inputs)))
        return logits, np.einsum("nk,kchw->nchw", pulled, self.weights / 255).astype(np.float32)


def test_the_search_finds_the_pixel_that_decides():
    query = Linear()
    pictures = np.random.default_rng(0).integers(0, 60, (32, 1, 8, 8)).astype(np.float32)
    pictures[:, :, 2, 3] = 0
    found = smallest(query, pictures, np.ones(32, dtype=np.int64), 0)
    assert query.num_rows == NUM_STEPS * 32
    assert found.hits == found.total == 32
    assert found.mask[2, 3] == found.mask.max()
    assert found.mask.sum() < 1


def test_the_index_is_in_deviations_of_the_median():
    sizes = np.array([10.0, 12.0, 14.0, 11.0, 2.0])
    median, deviation = 11.0, 1.4826 * 1.0
    index, place = anomaly(sizes)
    assert index == pytest.approx((median - 2.0) / deviation)
    assert place == 4


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.05])
def test_a_network_with_a_planted_trigger(share):
    from assay.data import load_mnist

    data = kit.fewer(load_mnist(), 6000, 1000)
    if share:
        data, _ = kit.poisoned(data, kit.badnets, share=share, target=3)
    recipe = TrainRecipe(
        Architecture("cnn_lenet", {"widths": [8, 16], "hidden": [64]}), task_of(data), TrainSettings(6, 64)
    )
    system = train_system(data, name="m", recipe=recipe)
    found = engine.audit(system, probes=["trigger_size"], workspace=Workspace(key=b"key")).measurements
    sizes = {one.slice: one.value for one in found if one.metric == "trigger_pixels"}
    if share:
        assert found[0].value > 2
        assert found[0].reason == "suspected: class=3"
        assert min(sizes, key=sizes.get) == "class=3"
    else:
        assert found[0].value < 2
        assert "no outlier" in found[0].reason  # which class is smallest is chance
