"""Units of an `nn.Sequential` of one's own: taken out where each layer is known, and left alone where it is not."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from assay.models.adapters.module import ModuleModel
from assay.models.channels import groups_of, keep
from assay.story import system_of
from assay.treatments.model.prune_channels import prune_channels
from assay.values import Data
from pruning_kit import draw_numbers, silence
from support import COLUMNS, GROUP_COLUMNS, make_split, small_images


def rows_in_turn():
    inner = nn.Sequential(nn.Linear(12, 12), nn.GroupNorm(2, 12), nn.Tanh(), nn.Identity(), nn.Linear(12, 8), nn.SiLU())
    first = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 12), nn.BatchNorm1d(12), nn.Sigmoid(), nn.Dropout(0.1))
    return nn.Sequential(first, inner, nn.Linear(8, 2))


def pictures_in_turn():
    eyes = [nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)]
    more = [nn.Conv2d(6, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.GELU(), nn.AvgPool2d(2), nn.Flatten()]
    return nn.Sequential(nn.BatchNorm2d(1), *eyes, *more, nn.Linear(8, 10), nn.LeakyReLU(), nn.Linear(10, 2))


MADE = {
    "rows": (rows_in_turn, {"0.1": 12, "1.0": 12, "1.4": 8}),
    "pictures": (pictures_in_turn, {"1": 6, "5": 8, "10": 10}),
}
each = pytest.mark.parametrize("name", MADE)


@cache
def data_of(name):
    if name == "pictures":
        return small_images(200, num_classes=2)
    splits = {"train": make_split(90, 1, 1), "validation": make_split(200, 2, 301), "test": make_split(60, 3, 501)}
    return Data("small", COLUMNS, "label", GROUP_COLUMNS, splits, ("no", "yes"), "yes")


def planted(name):
    """Untrained, its weights drawn anew, norms included: nothing is 0 or 1 by chance."""
    return draw_numbers(MADE[name][0]())


@each
def test_taking_units_out_is_the_same_as_reading_them_with_weight_zero(name):
    whole, random, kept = planted(name), np.random.default_rng(0), {}
    smaller = copy.deepcopy(whole)
    assert {group.name: group.size for group in groups_of(whole)} == MADE[name][1]
    for group in groups_of(whole):
        run = group.size // group.parts
        units = np.concatenate(
            [part * run + np.sort(random.permutation(run)[: run // 2]) for part in range(group.parts)]
        )
        kept[group.name] = torch.from_numpy(units)
        if group.parts == 1:  # a norm over groups of channels hears of those that are gone
            silence(whole, group, np.setdiff1d(np.arange(group.size), units))
    keep(smaller, {group: units for group, units in kept.items() if groups_by_name(whole)[group].parts == 1})
    rows = torch.from_numpy(data_of(name).splits["test"].inputs[:20].astype(np.float32))
    with torch.no_grad():
        torch.testing.assert_close(smaller(rows), whole(rows), atol=2e-5, rtol=1e-4)
        keep(smaller, {group: units for group, units in kept.items() if groups_by_name(whole)[group].parts > 1})
        assert smaller(rows).shape == (20, 2)
    assert [group.size for group in groups_of(smaller)] == [len(units) for units in kept.values()]


def groups_by_name(module):
    return {group.name: group for group in groups_of(module)}


@each
@pytest.mark.parametrize("importance", ["taylor", "magnitude"])
def test_units_that_nobody_reads_go_first_and_for_free(name, importance):
    module, gone = planted(name), {}
    for group in groups_of(module):
        if group.parts == 1:
            gone[group.name] = list(range(0, group.size, 2))
            silence(module, group, gone[group.name])
    system = system_of(ModuleModel(module), data_of(name), name="own")
    treated = prune_channels(system, importance=importance)
    outcome = treated.lineage[-1].outcome
    assert outcome["kept"] == {key: size // 2 for key, size in MADE[name][1].items()}
    for key, units in gone.items():
        stays = [place for place in range(MADE[name][1][key]) if place not in units]
        if key in ("0.1", "1"):  # the first: nothing that was taken out reaches it
            expected = module.get_submodule(key).weight[stays]
            assert torch.equal(treated.model.module.get_submodule(key).weight, expected)
    assert outcome["parameters_after"] < 0.6 * outcome["parameters_before"]


class Doubled(nn.Linear):
    def forward(self, rows):
        return 2 * super().forward(rows)


def hooked():
    layers = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    layers[0].register_forward_hook(lambda layer, given, told: told.flip(1))
    return layers


def tied():
    layers = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
    layers[2].weight = layers[0].weight
    return layers


def twice():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(4, 2))


def made_of_others():
    layers = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    torch.nn.utils.parametrizations.weight_norm(layers[0])
    return layers


ODD = {
    "a class made from one": lambda: nn.Sequential(Doubled(4, 6), nn.Linear(6, 2)),
    "a sequence of one's own": lambda: type("Mine", (nn.Sequential,), {})(nn.Linear(4, 6), nn.Linear(6, 2)),
    "a hook": hooked,
    "a weight shared": tied,
    "a layer used twice": twice,
    "a softmax": lambda: nn.Sequential(nn.Linear(4, 6), nn.Softmax(dim=1), nn.Linear(6, 2)),
    "a norm over features": lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)),
    "the end is not linear": lambda: nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2), nn.Tanh()),
    "filters in groups": lambda: nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(400, 2)),
    "filters with gaps": lambda: nn.Sequential(nn.Conv2d(1, 4, 3, dilation=2), nn.Flatten(), nn.Linear(256, 2)),
    "filters that read the edge again": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(576, 2)
    ),
    "linear along a side": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Linear(10, 3), nn.Flatten(), nn.Linear(120, 2)),
    "flattened in part": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(2), nn.Linear(100, 2)),
    "weights made of others": made_of_others,
    "nothing hidden": lambda: nn.Sequential(nn.Linear(4, 2)),
    "nothing": nn.Sequential,
}


@pytest.mark.parametrize("what", ODD)
def test_what_is_not_known_is_left_alone(what):
    assert groups_of(ODD[what]()) == []


@pytest.mark.peer
@each
def test_another_library_finds_the_same_groups(name):
    """Torch-Pruning traces the network instead of knowing it: the same share leaves tensors of the same shapes."""
    import torch_pruning

    module = planted(name)
    ours = copy.deepcopy(module)
    keep(
        ours, {group.name: torch.arange(group.size)[: group.size // 2] for group in groups_of(ours) if group.parts == 1}
    )
    kept = {group.name: group.size for group in groups_of(ours)}
    theirs = copy.deepcopy(module).requires_grad_(True)
    example = torch.from_numpy(data_of(name).splits["test"].inputs[:2].astype(np.float32))
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    normed = [theirs.get_submodule(group.name) for group in groups_of(module) if group.parts > 1]
    pruner = torch_pruning.pruner.BasePruner(
        theirs, example, importance=importance, pruning_ratio=0.5, ignored_layers=[theirs[-1], *normed]
    )
    pruner.step()
    assert kept
    shapes = [{key: tensor.shape for key, tensor in one.state_dict().items()} for one in (ours, theirs)]
    assert shapes[0] == shapes[1]
