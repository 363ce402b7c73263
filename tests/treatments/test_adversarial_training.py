"""Adversarial training: the inner attack stays where it may, finds the worst of a line, and its overfitting is seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from assay import engine
from assay.errors import TreatmentError
from assay.models import Architecture
from assay.observe import Workspace
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, task_loss, train_system
from assay.train.streams import stream_seed
from assay.treatments.train._inner import Around, Collapse
from assay.treatments.train.adversarial_training import adversarial_training
from assay.values import Column, Data, Groups, Split
from support import small_images

NUM_THIN = 30
COLUMNS = (
    Column("solid", "numeric", low=0, high=1),
    *(Column(f"thin {place}", "numeric", low=0, high=1) for place in range(NUM_THIN)),
    Column("count", "numeric", low=0, high=10),
    Column("kind", "categorical", ("a", "b")),
    Column("free", "numeric"),
)
RADIUS = 0.05


def tempting(num: int = 1800, seed: int = 0) -> Data:
    """One solid column that is right nine times in ten, and many thin ones that are right together, by 0.02 each."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, num)
    side = 2.0 * labels - 1
    solid = 0.5 + 0.3 * side * np.where(rng.random(num) < 0.1, -1, 1)
    thin = 0.5 + 0.02 * side[:, None] + rng.normal(0, 0.02, (num, NUM_THIN))
    rest = [rng.integers(0, 11, num), rng.integers(0, 2, num), rng.normal(size=num)]
    inputs = np.column_stack([solid, thin, *rest]).astype(np.float32)
    group = Column("g", "categorical", ("x", "y"))
    whole = Split(inputs, labels, Groups(rng.integers(0, 2, (num, 1)).astype(np.int16), (group,)), np.arange(num))
    ends = {"train": slice(0, num // 2), "validation": slice(num // 2, num * 2 // 3), "test": slice(num * 2 // 3, num)}
    splits = {name: whole.take(np.arange(num)[part]) for name, part in ends.items()}
    return Data("tempting", COLUMNS, "label", (group,), splits, ("no", "yes"), "yes")


@pytest.fixture(scope="module")
def trained():
    data = tempting()
    settings = TrainSettings(epochs=16, batch_size=64)
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [16]}), task_of(data), settings)
    return train_system(data, name="tempted", recipe=recipe, seed=1)


@pytest.fixture(scope="module")
def light():
    data = tempting()
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [16]}), task_of(data), TrainSettings(epochs=1, batch_size=256))
    return train_system(data, name="light", recipe=recipe, seed=1)


class Line(torch.nn.Module):
    def __init__(self, weights) -> None:
        super().__init__()
        self.weights = torch.tensor(weights, dtype=torch.float32)

    def forward(self, inputs):
        margin = torch.nan_to_num(inputs) @ self.weights
        return torch.stack([-margin, margin], dim=1)


@pytest.mark.parametrize("num_steps", [1, 5])
def test_the_inner_attack_stays_in_the_box_and_many_steps_reach_the_worst_of_a_line(num_steps):
    data = tempting(300)
    train = data.splits["train"]
    inputs = train.inputs.copy()
    inputs[0, 1], inputs[1, 0] = np.nan, 1.3  # missing, and outside the plausible range
    around = Around.of(COLUMNS, inputs, 2 * RADIUS)
    weights = np.linspace(-1, 1, inputs.shape[1]) + 0.05
    loss = task_loss(train, task_of(data))
    draw, rows = torch.Generator().manual_seed(0), torch.arange(len(inputs))
    first = torch.from_numpy(inputs.copy())
    moved = around.worst(Line(weights), first, rows, loss=loss, num_steps=num_steps, draw=draw).numpy()
    assert np.array_equal(first.numpy(), inputs, equal_nan=True)
    assert np.isnan(moved[0, 1])
    step = np.array([2 * RADIUS] * (1 + NUM_THIN) + [1.0, 0.0, 0.0])
    gone = np.abs(np.nan_to_num(moved) - np.nan_to_num(inputs))
    assert (gone <= step + 1e-6).all()
    assert (moved[2:] >= -1e-6).all() or (inputs[:, -1] < 0).any()
    assert moved[1, 0] <= 1.3 + 1e-6  # back, never further out
    if num_steps > 1:
        side = np.where(train.labels == 1, -1, 1)[:, None] * np.sign(weights)
        low = np.minimum(inputs, np.maximum([0] * (2 + NUM_THIN) + [-9, -9], inputs - step))
        high = np.maximum(inputs, np.minimum([1] * (1 + NUM_THIN) + [10, 9, 9], inputs + step))
        worst = np.where(side > 0, high, low)
        movable = ~np.isnan(inputs) & (step > 0)
        assert moved[movable] == pytest.approx(worst[movable], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", [1, 3])
def test_a_system_that_leans_on_thin_columns_learns_not_to(trained, num_steps):
    treated = adversarial_training(trained, radius=RADIUS, num_steps=num_steps)
    found = {}
    for system in (trained, treated):
        audit = engine.audit(system, probes=["accuracy", "gradient_attack"], workspace=Workspace(num_draws=50))
        found[system.name] = [audit.find(name).value for name in ("accuracy", "robust_accuracy")]
    (clean, brittle), (kept, robust) = found.values()
    assert clean > 0.95
    assert brittle < 0.4
    assert robust > (0.65 if num_steps == 1 else 0.75)  # the solid column alone gives 0.9
    assert kept > 0.85
    outcome = treated.lineage[-1].outcome
    assert outcome["catastrophic_overfitting"] == ""
    assert [point["epoch"] for point in outcome["robust_curve"]] == list(range(1, 17))
    assert outcome["robust_curve"][-1]["pgd"] > 0.65


class Answers(torch.nn.Module):
    """Holds one weight that says which epoch this is."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = torch.nn.Parameter(torch.zeros(()))


def watched(points, num: int = 400):
    data = tempting(3 * num)
    collapse = Collapse.on(data.splits["train"], task=task_of(data), around=None, seed=0)
    module, told = Answers(), []
    for epoch, (fgsm, pgd) in enumerate(points, 1):
        with torch.no_grad():
            module.epoch.fill_(epoch)
        collapse._right = lambda _, steps, fgsm=fgsm, pgd=pgd: fgsm if steps == 1 else pgd
        told.append(collapse.look(module))
    return collapse, module, told


def test_catastrophic_overfitting_stops_and_puts_the_best_epoch_back():
    collapse, module, told = watched([(0.5, 0.4), (0.7, 0.6), (0.72, 0.59), (0.9, 0.05)])
    assert told == [False, False, False, True]
    assert module.epoch.item() == 2
    assert "epoch 4" in collapse.told
    assert "epoch 2 kept" in collapse.told


def test_a_bad_epoch_under_both_attacks_or_a_small_dip_is_not_overfitting():
    collapse, module, told = watched([(0.7, 0.6), (0.4, 0.3), (0.72, 0.55), (0.75, 0.58)])
    assert not any(told)
    assert collapse.told == ""
    assert module.epoch.item() == 4


def test_reference_models_are_trained_the_same_way_and_without_validation_too(light):
    treated = adversarial_training(light, radius=RADIUS, epochs=2)
    data = light.data
    without = replace(data, splits={name: split for name, split in data.splits.items() if name != "validation"})
    half = data.splits["train"].take(np.arange(0, 900, 2))
    fitted = treated.recipe.fit(half, without, 7)
    assert len(fitted.facts["robust_curve"]) == 2
    again = treated.recipe.fit(half, without, 7)
    assert again.model.digest == fitted.model.digest


def test_random_starts_share_no_stream_with_order_augmentation_or_the_watch(light, monkeypatch):
    seen = {}
    worst = Around.worst

    def record(self, module, inputs, rows, *, loss, num_steps, draw):
        seen.setdefault(module.training, draw.get_state().clone())  # the watch asks a module that is not training
        return worst(self, module, inputs, rows, loss=loss, num_steps=num_steps, draw=draw)

    monkeypatch.setattr(Around, "worst", record)
    monkeypatch.setattr(Collapse, "look", lambda self, module: self._right(module.eval(), 1) < 0)
    adversarial_training(light, radius=RADIUS)
    uses = [1, stream_seed(1, "augmentation 0")]
    states = [*seen.values(), *(torch.Generator().manual_seed(one).get_state() for one in uses)]
    assert len({state.numpy().tobytes() for state in states}) == 4


def test_pictures_move_by_grey_levels():
    data = small_images(60)
    around = Around.of(data.columns, data.splits["train"].inputs, 0.1)
    assert around.step.unique().tolist() == pytest.approx([25.5])
    recipe = TrainRecipe(
        Architecture("cnn_lenet", {"widths": [2, 2], "hidden": [4]}), task_of(data), TrainSettings(epochs=1)
    )
    system = train_system(data, recipe=recipe, name="small")
    assert adversarial_training(system).lineage[-1].parameters["radius"] == 0.1


def test_what_does_not_fit_is_said_at_once(light):
    with pytest.raises(TreatmentError) as caught:
        adversarial_training(light, radius=1.5, num_steps=0, epochs=0)
    assert len(caught.value.problems) == 3
    bare = replace(light.data, columns=tuple(replace(one, low=None, high=None) for one in COLUMNS))
    with pytest.raises(TreatmentError, match="no column can move"):
        adversarial_training(replace(light, data=bare), radius=0.1)
