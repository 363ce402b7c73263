"""Seen from inside, one training of a broken private trainer gives each fault away, and of a correct one none."""

import math
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from torch import nn
from torch.nn import functional

import private_kit
from assay import engine
from assay.access import canaries
from assay.access.canaries import watched_training
from assay.data import load_adult
from assay.models import Architecture
from assay.observe import Workspace
from assay.probes.privacy._steps import even_p_value, follows_p_value, likelihood_ratio, noise_share
from assay.probes.privacy.one_run_audit_of_steps import METRICS, one_run_audit_of_steps
from assay.stats import make_draws
from assay.tasks import Argmax, task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments.train._clipped_sums import ClippedSums
from assay.treatments.train._planted import STEEP, Planted
from assay.treatments.train._row_gradients import RowGradients
from assay.treatments.train.dp_sgd import DpRecipe, DpSettings, dp_sgd
from assay.values import Column, Data, Groups, Split, System
from support import several

DRAWS = make_draws(b"key", "split", [np.arange(50) % 2])
GROUP = (Column("g", "categorical", ("a", "b")),)

# ------------------------------------------------------------------ the numbers


def test_p_value_of_counts_is_that_of_all_outcomes_and_never_too_small():
    num, share, many = 4, 0.3, 3
    chances, found = [], []
    for counts in product(range(num + 1), repeat=many):
        chances.append(math.prod(binom.pmf(one, num, share) for one in counts))
        found.append((max(abs(one - num * share) for one in counts), even_p_value(np.array(counts), num, share)))
    chances, away, found = np.array(chances), *np.array(found).T
    for distance, p_value in zip(away, found, strict=True):
        as_even, as_uneven = chances[away <= distance + 1e-9].sum(), chances[away >= distance - 1e-9].sum()
        assert p_value == pytest.approx(min(1, 2 * min(as_even, as_uneven)), abs=1e-12)
    for error in (0.01, 0.05, 0.2, 0.5):
        assert chances[found <= error].sum() <= error
    assert even_p_value(np.full(9, 40), 40, 1.0) == 1.0  # a batch is all rows: no coin decides anything
    assert even_p_value(np.array([100]), 100, 1e-9) == pytest.approx(0, abs=1e-300)


def test_score_is_the_ratio_of_the_two_densities():
    sums = np.random.default_rng(0).normal(size=(5, 7))
    for rate in (0.01, 0.4, 1.0):
        mixed = (1 - rate) * norm.pdf(sums, 0, 0.8) + rate * norm.pdf(sums, 1, 0.8)
        expected = np.log(mixed / norm.pdf(sums, 0, 0.8)).sum(axis=0)
        assert likelihood_ratio(sums, 0.8, rate) == pytest.approx(expected)
    assert np.isfinite(likelihood_ratio(np.full((3, 2), 500.0), 0.5, 0.1)).all()  # far above the bound: no overflow


def test_intervals_of_the_noise_hold_and_its_p_value_is_even_under_the_claim():
    rng = np.random.default_rng(0)
    sizes = rng.binomial(200, 0.2, size=(400, 30))
    noise = rng.normal(size=(400, 30, 40)) * 1.5
    covered, looks, broken = [], [], []
    for one, size in zip(noise, sizes, strict=True):
        _, low, high = noise_share(one, 1.5, level=0.95)
        covered.append(low <= 1 <= high)
        looks.append(follows_p_value(one, size, noise_multiplier=1.5, expected=40.0))
        broken.append(follows_p_value(one * (40 / size)[:, None], size, noise_multiplier=1.5, expected=40.0))
    assert 0.92 <= np.mean(covered) <= 0.98
    assert abs(np.mean(np.array(looks) <= 0.05) - 0.05) <= 0.03
    assert np.mean(np.array(broken) <= 0.001) > 0.99
    assert follows_p_value(noise[0], np.full(30, 40), noise_multiplier=1.5, expected=40.0) == 1.0


# ------------------------------------------------------------------ the canaries


@pytest.mark.parametrize("kind", [ClippedSums, pytest.param(RowGradients, marks=pytest.mark.slow)])
def test_a_canary_is_clipped_like_a_row_and_leaves_the_other_weights_alone(kind):
    torch.manual_seed(0)
    module, inputs, labels = nn.Linear(6, 3), torch.randn(8, 6), torch.randint(0, 3, (8,))
    included = np.array([True, False, True, True, False])
    planted = Planted(module, included, num_rows=5, max_grad_norm=0.5)

    def plain(outputs, rows):
        return functional.cross_entropy(outputs, labels[rows], reduction="none")

    drawn = torch.tensor([0, 4, 5, 7])  # two rows, and the first and the third that are in: canaries 0 and 3
    loss = planted.loss(plain)
    sums, norms = kind(planted, max_grad_norm=0.5)(inputs[drawn], lambda outputs, at: loss(outputs, drawn[at]))
    alone, _ = kind(module, max_grad_norm=0.5)(inputs[drawn[:2]], lambda outputs, at: plain(outputs, drawn[:2][at]))
    assert norms[2:].tolist() == pytest.approx([STEEP * 0.5] * 2)
    assert sums["own.weight"][:, 0].tolist() == pytest.approx([0.5, 0, 0, 0.5, 0])
    for name, one in alone.items():
        assert torch.allclose(sums[f"module.{name}"], one, atol=1e-6)


# ------------------------------------------------------------------ the trainer


def table(num_rows=600, num_columns=8):
    rng = np.random.default_rng(0)
    columns = tuple(Column(f"c{place}", "numeric", low=-3, high=3) for place in range(num_columns))

    def split(num, first):
        inputs = rng.normal(size=(num, num_columns)).astype(np.float32)
        groups = Groups(np.zeros((num, 1), dtype=np.int16), GROUP)
        return Split(inputs, (inputs[:, 0] > 0).astype(np.int64), groups, np.arange(first, first + num))

    splits = {"train": split(num_rows, 1), "validation": split(8, 9001), "test": split(50, 9101)}
    return Data("table", columns, "label", GROUP, splits, ("no", "yes"), "yes")


def private(data, **settings):
    task = task_of(data)
    base = TrainRecipe(Architecture("mlp", {"hidden": [8]}), task)
    return System("private", None, data, task, Argmax(), DpRecipe(base, DpSettings(**settings)))


SMALL = {"epsilon": 0.8, "batch_size": 60, "epochs": 5, "learning_rate": 1e-2}


def audited(system, monkeypatch, seed=0):
    monkeypatch.setattr(canaries, "SEED", 3000 + seed)
    released = watched_training(system, Workspace())
    monkeypatch.undo()
    return {one.metric: one for one in one_run_audit_of_steps(SimpleNamespace(released=released), DRAWS)}


def test_a_correct_training_shows_what_it_claims(monkeypatch):
    found = audited(private(table(), **SMALL), monkeypatch)
    assert set(found) == set(METRICS)
    assert found["steps_epsilon_excess"].value == 0.0
    assert found["noise_against_claim"].low < 1 < found["noise_against_claim"].high
    assert found["batches_p_value"].value > 0.05


@pytest.mark.parametrize("bug", ["no_noise", "clipped_by_batch"])
def test_a_training_without_noise_or_with_batches_clipped_is_refuted(bug, monkeypatch):
    getattr(private_kit, bug)(monkeypatch)
    found = audited(private(table(), **SMALL), monkeypatch)
    assert found["steps_epsilon_excess"].low > 0.5
    assert found["noise_against_claim"].value == pytest.approx(0 if bug == "no_noise" else 1, abs=0.05)


@pytest.mark.parametrize("bug", ["shuffled", "realised_size"])
def test_rows_dealt_out_and_realised_sizes_show_in_the_batches_though_not_in_epsilon(bug, monkeypatch):
    getattr(private_kit, bug)(monkeypatch)
    found = audited(private(table(), **SMALL), monkeypatch)
    assert found["batches_p_value"].high < 1e-6
    assert found["steps_epsilon_excess"].value == 0.0  # nothing that one run can prove


def test_a_tenth_too_little_noise_is_seen(monkeypatch):
    private_kit.too_little_noise(monkeypatch, share=0.9)
    assert audited(private(table(), **SMALL), monkeypatch)["noise_against_claim"].high < 0.95


@pytest.mark.slow
def test_correct_trainings_are_hardly_ever_refuted(monkeypatch):
    found = [audited(private(table(), **SMALL), monkeypatch, seed) for seed in range(30)]
    assert sum(one["steps_epsilon_excess"].value > 0 for one in found) <= 1
    assert sum(one["batches_p_value"].value <= 0.05 for one in found) <= 4
    assert sum(not one["noise_against_claim"].low <= 1 <= one["noise_against_claim"].high for one in found) <= 5


@pytest.mark.slow
def test_no_noise_on_adult_is_refuted_by_a_short_training(monkeypatch):
    private_kit.no_noise(monkeypatch)
    found = audited(private(load_adult(), epsilon=3.0, epochs=3), monkeypatch)
    assert found["steps_epsilon_excess"].low > 0.5
    assert found["noise_against_claim"].high == 0.0


ASKED = ["one_run_audit_of_steps"]


@pytest.fixture
def plain():
    data = table(160)
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [4]}), task_of(data), TrainSettings(epochs=1, batch_size=32))
    return train_system(data, name="plain", recipe=recipe)


def test_an_ordinary_training_has_no_steps_to_show(plain):
    workspace = Workspace(key=b"k", num_draws=20)
    assert engine.plan(plain, probes=ASKED, workspace=workspace).trainings == 0
    for one in engine.audit(plain, probes=ASKED, workspace=workspace).measurements:
        assert one.value is None
        assert "private steps" in one.reason
    small = replace(plain, data=table(12), recipe=private(plain.data).recipe)
    for one in engine.audit(small, probes=ASKED, workspace=workspace).measurements:
        assert "too few" in one.reason


@pytest.mark.slow
@pytest.mark.parametrize("change", [lambda data: data, several], ids=["one label", "several labels"])
def test_an_audit_trains_once_more_and_remembers_it(change, plain, tmp_path):
    data = change(plain.data)
    plain = train_system(data, name="plain", recipe=replace(plain.recipe, task=task_of(data)))
    workspace = Workspace(folder=tmp_path, key=b"k", num_draws=20)
    system = dp_sgd(plain, epsilon=3.0, training={"epochs": 2, "batch_size": 16, "clipping": "per_layer"})
    assert engine.plan(system, probes=ASKED, workspace=workspace).trainings == 1
    first = engine.audit(system, probes=ASKED, workspace=workspace).measurements
    assert all(one.value is not None for one in first)
    again = watched_training(system, workspace)
    found = one_run_audit_of_steps(SimpleNamespace(released=again), DRAWS)
    assert [one.value for one in found] == [one.value for one in first]
