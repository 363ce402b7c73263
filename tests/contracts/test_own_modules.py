"""Every treatment on networks of one's own: unregistered, registered, and with a recipe.

What needs the module and rows alone works in memory on a module that nothing says how to build, with the bits of its
registered twin. What trains says by which line a recipe is given, and the line works.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from assay import registry
from assay.digests import canonical
from assay.errors import ModelError, TreatmentError
from assay.models import BUILDERS, RESOLVERS, Architecture, architecture
from assay.models.adapters.module import ModuleModel
from assay.models.store import load_system, save_system
from assay.story import can_be_stored, system_of
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, fit
from assay.values import Data
from support import COLUMNS, GROUP_COLUMNS, make_split, small_images

registry.load()
TREATMENTS = {one.name: one for one in registry.TREATMENTS.values()}
TRAINS = {name for name, one in TREATMENTS.items() if one.stage in ("data", "train")}
# Of a network without a recipe: all that trains it again. Its answers are enough to teach a student.
NEEDS_RECIPE = TRAINS - {"distill"}
ONLY_STORES = {"encrypt_weights", "shard_weights"}  # nothing changes but files, and there can be none
# What refuses some networks even with a recipe, and the words that say why; everything else works.
REFUSED = {
    **{(kind, "redact_personal_data"): "Allowed: texts" for kind in ("sequence", "class", "picture", "ours")},
    **{(kind, "swap_identity_terms"): "Allowed: texts" for kind in ("sequence", "class", "picture", "ours")},
    **{("picture", name): "Allowed: tables" for name in ("fill_missing", "generalise_to_k", "remove_correlation")},
    **{(kind, "remove_correlation"): "encodes rows in a way of its own" for kind in ("sequence", "class")},
    **{(kind, "prune_channels"): "cannot be taken out" for kind in ("class", "picture")},
    **{(kind, "prune_and_retrain"): "cannot be taken out" for kind in ("class", "picture")},
    ("sequence", "dp_sgd"): "BatchNorm, which mixes rows",
}
# So that it takes no seconds, and that few rows are enough.
LESS = {
    "augment_by_gan": {"num_steps": 20},
    "exponentiated_gradient": {"num_refits": 3},
    "answer_by_vote": {"num_votes": 5},
    "group_thresholds": {"min_num": 10},
}
# Seconds each, for exporting or training a student: tried on one network, in the slow tier.
DEAR = {"quantize_static": "picture", "quantize_int4": "sequence", "run_by_onnxruntime": "class", "distill": "class"}
DEAR |= {"train_for_int8": "class", "augment_by_gan": "class", "adversarial_training": "picture"}
DEAR |= {"federated_averaging": "sequence"}


QUICK = {"prune_channels": "sequence", "prune_magnitude": "ours", "prune_by_activation": "picture"}
AS_ANEW = {("smooth_labels", "class"), ("drop_duplicates", "class")}  # compared with the one that is made by its class


class Net(nn.Module):
    """Scales rows itself; its layers run in another order than they are written in."""

    def __init__(self, num_columns: int) -> None:
        super().__init__()
        self.wide = nn.Linear(num_columns, 24)
        self.narrow = nn.Linear(24, 12)
        self.out = nn.Linear(12, 2)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.narrow(torch.relu(self.wide(rows / 50 - 1)))))


class Eyes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.near = nn.Conv2d(1, 4, 3)
        self.far = nn.Conv2d(4, 8, 3)
        self.norm = nn.GroupNorm(2, 8)
        self.mix = nn.Linear(128, 16)
        self.out = nn.Linear(16, 2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        seen = torch.max_pool2d(torch.relu(self.norm(self.far(torch.relu(self.near(pixels / 255))))), 2)
        return self.out(torch.relu(self.mix(seen.flatten(1))))


def sequence(num_columns: int) -> nn.Sequential:
    body = nn.Sequential(nn.Linear(num_columns, 24), nn.BatchNorm1d(24), nn.GELU(), nn.Linear(24, 12), nn.ReLU())
    return nn.Sequential(nn.BatchNorm1d(num_columns), body, nn.Dropout(0.1), nn.Linear(12, 2))


MADE = {
    "sequence": lambda columns, num_outputs: sequence(len(columns)),
    "class": lambda columns, num_outputs: Net(len(columns)),
    "picture": lambda columns, num_outputs: Eyes(),
}
KINDS = ("sequence", "class", "picture", "ours")
SETTINGS = TrainSettings(epochs=2, batch_size=128)


@pytest.fixture(autouse=True)
def registered():
    """The networks of this file are known by name within a test, and forgotten after it."""
    before = set(BUILDERS)
    for name, made in MADE.items():
        architecture(f"own {name}")(made)
    yield
    for name in set(BUILDERS) - before:
        del BUILDERS[name], RESOLVERS[name]


@cache
def data_of(kind: str) -> Data:
    if kind == "picture":
        return small_images(900, num_classes=2)
    splits = {"train": make_split(600, 1, 1), "validation": make_split(300, 2, 601), "test": make_split(200, 3, 901)}
    return Data("small", COLUMNS, "label", GROUP_COLUMNS, splits, ("no", "yes"), "yes")


def named(kind: str) -> Architecture:
    return Architecture("mlp", {"hidden": [16, 8]}) if kind == "ours" else Architecture(f"own {kind}")


@cache
def trained(kind: str) -> nn.Module:
    """Trained by its owner, in a loop of no interest here."""
    data, task = data_of(kind), task_of(data_of(kind))
    module = TrainRecipe(named(kind), task, SETTINGS).make_module(data.splits["train"], data, 3)
    fit(module, data.splits["train"], task=task, settings=SETTINGS, seed=3)
    return module.eval()


def own(kind: str, *, is_named: bool = False, has_recipe: bool = False):
    """The same weights in a system: bare, with a registered architecture, and with a recipe of it."""
    data = data_of(kind)
    recipe = TrainRecipe(named(kind), task_of(data), SETTINGS).resolved(data.columns) if has_recipe else None
    known = TrainRecipe(named(kind), task_of(data), SETTINGS).resolved(data.columns).architecture if is_named else None
    system = system_of(ModuleModel(trained(kind), architecture=known), data, name="own", recipe=recipe)
    return replace(system, seed=3)


def treat(name: str, system, **options):
    return TREATMENTS[name].function(system, **(LESS.get(name, {}) | options))


def cases(names, kinds, quick):
    """Every treatment on every network, the dear ones on one; slow unless `quick(name, kind)`."""
    chosen = [(kind, name) for name in sorted(names) for kind in kinds if DEAR.get(name, kind) == kind]
    return pytest.mark.parametrize(
        ("kind", "name"),
        [
            pytest.param(kind, name, id=f"{name}-{kind}", marks=() if quick(name, kind) else pytest.mark.slow)
            for kind, name in chosen
        ],
    )


def is_quick(name, kind):
    """Each that is not dear once; ours where units are taken out by another way than with a builder."""
    return name not in DEAR and kind == QUICK.get(name, "class")


@cases(set(TREATMENTS) - NEEDS_RECIPE - ONLY_STORES, KINDS, is_quick)
def test_what_needs_a_module_and_rows_works_on_any_with_the_bits_of_its_registered_twin(kind, name, tmp_path):
    bare, twin = own(kind), own(kind, is_named=True)
    if (kind, name) in REFUSED:
        for system in (bare, twin):
            with pytest.raises(TreatmentError, match=REFUSED[kind, name]):
                treat(name, system)
        return
    found, expected = treat(name, bare), treat(name, twin)
    inputs = bare.data.splits["test"].inputs
    np.testing.assert_array_equal(found.model.outputs(inputs), expected.model.outputs(inputs))
    assert canonical(found.lineage[-1].outcome) == canonical(expected.lineage[-1].outcome)
    assert found.lineage[-1].parameters == expected.lineage[-1].parameters
    assert found.model.num_bytes == expected.model.num_bytes
    if name not in DEAR:
        assert treat(name, bare, **found.lineage[-1].parameters).digest == found.digest
    assert can_be_stored(expected)
    loaded = load_system(save_system(expected, tmp_path / "twin"), twin.data)
    np.testing.assert_array_equal(loaded.model.outputs(inputs), expected.model.outputs(inputs))
    if name == "distill":  # the student is one of ours
        assert found.recipe is None
        assert can_be_stored(found)
        return
    assert not can_be_stored(found)
    with pytest.raises(ModelError, match=f"{type(trained(kind)).__name__} has no registered architecture"):
        save_system(found, tmp_path / "bare")
    assert not (tmp_path / "bare").exists()


@pytest.mark.parametrize("name", sorted(ONLY_STORES))
def test_what_changes_files_alone_needs_a_name_to_write(name):
    with pytest.raises(TreatmentError, match="cannot be stored, and this changes only how it is"):
        treat(name, own("class"))
    treat(name, own("class", is_named=True))


@pytest.mark.parametrize("is_named", [False, True])
@pytest.mark.parametrize("name", sorted(NEEDS_RECIPE))
def test_what_trains_says_the_line_that_gives_a_recipe(name, is_named):
    with pytest.raises(TreatmentError, match="no recipe, so it cannot be trained again") as caught:
        treat(name, own("class", is_named=is_named))
    told = next(one.next for one in caught.value.problems if "no recipe" in one.what)
    name = "own class" if is_named else "Net"
    assert told.endswith(f"from assay.train import with_recipe; system = with_recipe(system, {name!r})")


@cases(TRAINS, ("sequence", "class", "picture"), lambda name, kind: (name, kind) in AS_ANEW)
def test_after_the_line_was_run_everything_trains(kind, name):
    place = {"system": own(kind)}
    exec(f"from assay.train import with_recipe; system = with_recipe(system, {type(trained(kind)).__name__!r})", place)  # noqa: S102
    system = place["system"]
    system = replace(system, recipe=replace(system.recipe, settings=SETTINGS))  # the line's own are as those of ours
    if (kind, name) in REFUSED:
        with pytest.raises(TreatmentError, match=REFUSED[kind, name]):
            treat(name, system)
        return
    treated = treat(name, system)
    outputs = treated.model.outputs(system.data.splits["test"].inputs)
    assert outputs.shape == (len(system.data.splits["test"]), 2)
    assert np.isfinite(outputs).all()
    twin = treat(name, own(kind, is_named=True, has_recipe=True)) if (name, kind) in AS_ANEW else None
    if twin is not None:  # layers that draw anew draw as those that are made anew
        np.testing.assert_array_equal(outputs, twin.model.outputs(system.data.splits["test"].inputs))


def test_every_refusal_is_of_a_treatment_there_is():
    assert {name for _, name in REFUSED} | ONLY_STORES | set(DEAR) | set(LESS) <= set(TREATMENTS)
