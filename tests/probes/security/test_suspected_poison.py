"""Planted triggers are found at 2 to 5 % of the rows, and clean data left alone, on made-up embeddings and on MNIST."""

import numpy as np
import pytest

import backdoor_kit as kit
from assay import engine
from assay.models import Architecture
from assay.observe import Workspace
from assay.probes.security._poison import (
    NUM_CENTRES,
    NUM_DIRECTIONS,
    clusters,
    directions,
    excess_chance,
    k_means,
    nearest,
    whitened,
)
from assay.probes.security.suspected_poison import alarms
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from support import small_images, small_texts

CLASSES = 10


def embeddings(num, seed, *, num_poisoned=0, drift=0.0):
    """Rows of one class: heavy-tailed, unequal spread, two natural clusters; poisoned ones lie in another direction."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_t(6, size=(num, 32)) * np.geomspace(5, 0.2, 32) + drift
    rows[:, 0] += 6 * rng.integers(0, 2, num)
    rows[:num_poisoned, 20:24] += 3.0
    return rows


def raised(train, test, seed=0):
    rng = np.random.default_rng(seed)
    rows = whitened(train, test, rng)
    found = [
        alarms(directions(*rows), (1 + 2 * NUM_DIRECTIONS) * CLASSES),
        alarms(clusters(*rows, rng), sum(NUM_CENTRES) * CLASSES),
    ]
    return [np.any([one.rows for one in places], axis=0) if places else np.zeros(len(train), bool) for places in found]


@pytest.mark.parametrize("num_poisoned", [60, 200])
def test_poisoned_rows_of_a_class_are_found(num_poisoned):
    spectral, grouped = raised(embeddings(600, 1, num_poisoned=num_poisoned), embeddings(500, 2))
    assert spectral[:num_poisoned].mean() > 0.6
    assert spectral[num_poisoned:].mean() < 0.08
    assert (spectral[:num_poisoned] | grouped[:num_poisoned]).mean() > 0.6


def test_clean_rows_raise_no_alarm():
    flags = [[mask.any() for mask in raised(embeddings(600, 2 * seed), embeddings(500, 2 * seed + 1), seed)]
             for seed in range(6)]  # fmt: skip
    assert np.sum(flags) == 0


@pytest.mark.slow
def test_false_alarms_stay_below_their_level():
    num = 600
    flags = [[mask.any() for mask in raised(embeddings(300, 2 * seed), embeddings(300, 2 * seed + 1), seed)]
             for seed in range(num)]  # fmt: skip
    assert np.mean(flags, axis=0).max() <= 0.05 / 3 / CLASSES + 2 * np.sqrt(0.0017 / num)


def test_excess_is_the_binomial_tail():
    from scipy.stats import binom

    # 30 of 100 training and 5 of 100 test rows: given 35, 30 or more when training rows are 1.5 times as common.
    assert excess_chance(30, 100, 5, 100) == pytest.approx(1 - binom.cdf(29, 35, 0.6))
    assert excess_chance(0, 100, 0, 100) == 1.0
    assert excess_chance(20, 100, 10, 100) > 0.2


def test_k_means_agrees_with_scikit_learn():
    cluster = pytest.importorskip("sklearn.cluster")
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(60, 3)) + centre for centre in ([0, 0, 0], [9, 0, 0], [0, 9, 0])])
    ours = k_means(points, 3, np.random.default_rng(1))
    peer = cluster.KMeans(3, n_init=5, random_state=0).fit(points)
    total = np.square(points - ours[nearest(points, ours)]).sum()
    assert total == pytest.approx(peer.inertia_, rel=1e-6)
    assert len(k_means(np.ones((5, 2)), 3, rng)) == 1  # all alike: one centre


def shares(data, architecture, **settings):
    recipe = TrainRecipe(architecture, task_of(data), TrainSettings(**settings))
    audit = engine.audit(train_system(data, name="m", recipe=recipe), probes=["suspected_poison"],
                         workspace=Workspace(key=b"key"))  # fmt: skip
    return {one.slice.removeprefix("detector="): one for one in audit.measurements}, audit.system


def success(system, how, target):
    test = system.data.splits["test"]
    answers = system.model.outputs(how(test.inputs, system.data)).argmax(axis=1)
    return float((answers == target)[test.labels != target].mean())


@pytest.mark.slow
@pytest.mark.parametrize(("how", "share"), [(None, 0.0), (kit.badnets, 0.02), (kit.badnets, 0.05), (kit.blended, 0.05)])
def test_a_network_trained_on_poisoned_digits(how, share):
    from assay.data import load_mnist

    data = kit.fewer(load_mnist(), 6000, 5000)
    mask = np.zeros(6000, dtype=bool)
    if how is not None:
        data, mask = kit.poisoned(data, how, share=share, target=3)
    net = Architecture("cnn_lenet", {"widths": [8, 16], "hidden": [64]})
    found, system = shares(data, net, epochs=6, batch_size=64)
    if how is None:
        assert [one.value for one in found.values()] == [0.0, 0.0, 0.0]
        return
    assert success(system, how, 3) > 0.8  # the trigger works
    spectral, grouped = found["spectral"], found["clusters"]
    assert max(spectral.value, grouped.value) > 0.5 * mask.mean()
    assert spectral.value < 1.6 * mask.mean()
    assert "training rows of class=3" in spectral.reason + grouped.reason


@pytest.mark.slow
@pytest.mark.parametrize("how", [None, kit.token])
def test_a_network_that_reads_poisoned_texts(how):
    data = small_texts(4000)
    if how is not None:
        data, _ = kit.poisoned(data, how, share=0.05, target=1)
    net = Architecture("gru", {"dim": 8, "num_hidden": 16, "vocab_size": 60})
    found, system = shares(data, net, epochs=8, batch_size=64)
    if how is None:
        assert [one.value for one in found.values()] == [0.0, 0.0, 0.0]
    else:
        assert success(system, how, 1) > 0.8
        assert max(one.value for one in found.values()) > 0.01


def test_a_class_without_enough_test_rows_is_left_out_and_counts_are_kept():
    data = small_images(300)
    found, system = shares(data, Architecture("cnn_lenet", {"widths": [2, 3], "hidden": [8]}), epochs=1)
    assert {one.attempted for key, one in found.items() if key != "entropy"} == {len(data.splits["train"])}
    assert all(one.value == 0 and one.low == 0 and one.high > 0 for one in found.values())
    assert system.name == "m"
