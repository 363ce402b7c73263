"""Units taken out: exactly those that carry least, everything that makes and reads them, and time falls with them."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from assay.errors import ModelError, TreatmentError
from assay.models import Architecture, build, describe, tensors
from assay.models.adapters.module import ModuleModel
from assay.models.channels import groups_of, keep
from assay.tasks import Argmax, task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.train.objectives import task_loss
from assay.treatments._pruning import first_order, magnitudes, strongest
from assay.treatments.model._refit import refitted
from assay.treatments.model.prune_by_activation import prune_by_activation
from assay.treatments.model.prune_channels import prune_channels
from assay.treatments.model.prune_magnitude import prune_magnitude
from assay.treatments.model.quantize_int8 import quantize_int8
from assay.values import System
from pruning_kit import draw_numbers, silence
from support import small_images, small_texts

STEP = 1e-6
SIZES = (16, 17, 40, 48, 64, 100, 128)
SMALL = {"dim": 8, "num_hidden": 6, "vocab_size": 60}
ARCHITECTURES = {
    "mlp": {"hidden": [12, 8], "dropout": 0.1},
    "cnn_lenet": {"widths": [4, 6], "hidden": [12, 8]},
    "cnn_vgg": {"widths": [4, 6], "hidden": 8},
    "cnn_residual": {"width": 6, "depths": [2, 2]},
    "cnn_mirrored": {"width": 6, "depths": [1, 2], "norm": "none"},
    "rnn": {**SMALL, "pool": "last"},
    "lstm": {**SMALL, "num_layers": 2},
    "gru": {**SMALL, "bidirectional": False},
    "lstm_attention": SMALL,
    "transformer": {"dim": 16, "vocab_size": 60, "num_layers": 2},
}
QUICK = ("mlp", "cnn_lenet", "gru")
named = pytest.mark.parametrize("name", ARCHITECTURES)


@cache
def data_of(name):
    from assay.values import Data
    from support import COLUMNS, GROUP_COLUMNS, make_split

    if name == "mlp":
        splits = {"train": make_split(300, 1, 1), "validation": make_split(200, 2, 301), "test": make_split(90, 3, 501)}
        return Data("small", COLUMNS, "label", GROUP_COLUMNS, splits, ("no", "yes"), "yes")
    return small_images(240, num_classes=2) if name.startswith("cnn") else small_texts(240)


def planted(name, *, params=None):
    """An untrained system whose weights are all drawn anew, norms included: nothing is 0 or 1 by chance."""
    data, params = data_of(name), params or ARCHITECTURES[name]
    module = build(name, columns=data.columns, num_outputs=2, params=params)
    module.fit_encoding(data.splits["train"])
    module = draw_numbers(module, spared=("encoder", "embedding", "rotary"))
    model = ModuleModel(module, architecture=Architecture(name, params))
    return System(name, model, data, task_of(data), Argmax())


@named
def test_taking_units_out_is_the_same_as_reading_them_with_weight_zero(name):
    system = planted(name)
    inputs = system.data.splits["test"].inputs[:20]
    whole, smaller = copy.deepcopy(system.model.module), copy.deepcopy(system.model.module)
    random = np.random.default_rng(0)
    kept = {}
    tied = {}
    for group in groups_of(whole):
        num = tied.setdefault(group.tied or group.name, max(1, int(random.integers(1, group.size))))
        units = np.sort(random.permutation(group.size)[:num])
        kept[group.name] = torch.from_numpy(units)
        silence(whole, group, np.setdiff1d(np.arange(group.size), units))
    assert kept
    keep(smaller, kept)
    with torch.no_grad():
        expected, found = (module(tensors(module, inputs)) for module in (whole, smaller))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert describe(smaller)["num_parameters"] < describe(whole)["num_parameters"]
    assert [group.size for group in groups_of(smaller)] == [len(units) for units in kept.values()]
    again = copy.deepcopy(smaller)  # what is left can be pruned again
    keep(again, {group.name: torch.arange(1) for group in groups_of(again)})
    with torch.no_grad():
        assert again(tensors(again, inputs)).shape == (20, 2)


@named
@pytest.mark.parametrize("importance", ["taylor", "magnitude"])
def test_units_that_nobody_reads_go_first_and_for_free(name, importance):
    system = planted(name)
    gone = {}
    with torch.no_grad():
        for group in groups_of(system.model.module):
            gone[group.name] = list(range(0, group.size, 2))
            silence(system.model.module, group, gone[group.name])
    system = replace(system, model=ModuleModel(system.model.module, architecture=system.model.architecture))
    treated = prune_channels(system, importance=importance)
    inputs = system.data.splits["test"].inputs
    np.testing.assert_allclose(treated.model.outputs(inputs), system.model.outputs(inputs), atol=1e-3)
    outcome = treated.lineage[-1].outcome
    assert outcome["kept"] == {key: outcome["of"][key] - len(units) for key, units in gone.items()}
    assert outcome["parameters_after"] == sum(one.numel() for one in treated.model.module.parameters())


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES],
)
def test_first_order_is_the_derivative_to_a_gate(name):
    """Brute force: the loss of each batch with what a unit says read a little more and a little less."""
    system = planted(name)
    module, split = copy.deepcopy(system.model.module).double(), system.data.splits["test"].take(np.arange(40))
    loss, groups = task_loss(split, system.task), groups_of(module)
    found = first_order(copy.deepcopy(module), groups, split, system.task)

    def loss_at(group, unit, gate, at):
        changed = copy.deepcopy(module)
        with torch.no_grad():
            for cut in group.read:
                weight = getattr(changed.get_submodule(cut.layer), cut.tensor)
                places = cut.places[unit]
                weight.index_copy_(cut.dim, places, weight.index_select(cut.dim, places) * gate)
            inputs = tensors(changed, split.inputs)[at]
            return loss(changed(inputs.double() if inputs.is_floating_point() else inputs), at).mean().item()

    for group in (groups[0], groups[-1]):
        for unit in (0, group.size - 1):
            batches = [torch.arange(32), torch.arange(32, 40)]
            sides = [[loss_at(group, unit, 1 + step, at) for step in (STEP, -STEP)] for at in batches]
            slopes = [(more - less) / (2 * STEP) for more, less in sides]
            assert float(found[group.name][unit]) == pytest.approx(sum(one**2 for one in slopes), rel=1e-2, abs=1e-10)


def test_magnitude_is_the_norm_of_what_comes_in_times_the_norm_of_what_goes_out():
    system = planted("cnn_lenet")
    module = system.model.module
    found = magnitudes(module, groups_of(module))
    first, second, linear = module.body[0].weight, module.body[3].weight, module.body[7].weight
    expected = [first[unit].norm() * second[:, unit].norm() for unit in range(4)]
    torch.testing.assert_close(found["body.0"], torch.stack(expected))
    pixels = linear.shape[1] // 6
    expected = [second[unit].norm() * linear[:, unit * pixels : (unit + 1) * pixels].norm() for unit in range(6)]
    torch.testing.assert_close(found["body.3"], torch.stack(expected))


def test_under_a_group_norm_each_of_its_groups_keeps_as_many():
    system = planted("cnn_residual", params={"width": 16, "depths": [1, 1], "norm": "group"})
    treated = prune_channels(system, sparsity=0.5)
    norms = [part for part in treated.model.module.modules() if isinstance(part, nn.GroupNorm)]
    assert [(part.num_groups, part.num_channels) for part in norms] == [(8, 8)] * 3 + [(8, 16)] * 3
    assert strongest(torch.arange(8.0), 0.99, parts=4).tolist() == [1, 3, 5, 7]
    assert strongest(torch.ones(4), 0.0).tolist() == [0, 1, 2, 3]


def test_as_many_stay_as_kernels_compute_at_once():
    """The nearest multiple, in all groups of a norm together; never all of a group that should lose some by chance."""
    stay = {size: len(strongest(torch.arange(float(size)), 0.4, multiple=16)) for size in SIZES}
    assert stay == {16: 10, 17: 16, 40: 32, 48: 32, 64: 32, 100: 64, 128: 80}
    for multiple, parts, size in ((16, 8, 64), (16, 6, 96), (8, 4, 24), (3, 2, 12)):
        found = strongest(torch.rand(size), 0.45, parts=parts, multiple=multiple)
        assert len(found) % multiple == 0
        assert len(found) % parts == 0
        assert len(found) < size
    assert len(strongest(torch.ones(20), 0.0, multiple=16)) == 20  # none were to go
    assert len(strongest(torch.ones(12), 0.5, parts=6, multiple=16)) == 6  # fewer units than the multiple
    system = planted("mlp", params={"hidden": [40, 20]})
    treated = prune_channels(system, sparsity=0.4, importance="magnitude", multiple=16)
    assert list(treated.lineage[-1].outcome["kept"].values()) == treated.model.architecture.params["hidden"] == [32, 16]
    assert treated.lineage[-1].parameters["multiple"] == 16


def test_the_refit_is_ridge_regression_on_what_is_left():
    """Against the normal equations by another solver, stacked with the penalty as rows of their own."""
    random = np.random.default_rng(0)
    inputs, wanted = random.normal(size=(60, 5)), random.normal(size=(60, 3))
    weight, bias = random.normal(size=(3, 5)), random.normal(size=3)
    given = [torch.from_numpy(one.astype(np.float32)) for one in (inputs, wanted, weight, bias)]
    found, shift = refitted(*given)
    design = np.hstack([inputs, np.ones((60, 1))])
    ridge = 1e-3 * np.diag(design.T @ design).mean()
    rows = np.vstack([design, np.sqrt(ridge) * np.eye(6)[:5]])
    missing = np.vstack([wanted - inputs @ weight.T - bias, np.zeros((5, 3))])
    change = np.linalg.lstsq(rows, missing, rcond=None)[0]
    np.testing.assert_allclose(found, weight + change[:-1].T, atol=1e-5)
    np.testing.assert_allclose(shift, bias + change[-1], atol=1e-5)
    alone, none = refitted(given[0], given[1], given[2], None)
    assert none is None
    assert torch.isfinite(alone).all()
    assert torch.equal(refitted(given[0][:0], given[1][:0], given[2], given[3])[0], given[2])
    nothing, _ = refitted(torch.zeros(9, 5), given[1][:9], given[2], None)
    assert torch.equal(nothing, given[2])


@pytest.mark.slow
def test_the_refit_brings_a_trained_network_nearer_to_what_it_was():
    data = small_images(600, num_classes=3)
    recipe = TrainRecipe(
        Architecture("cnn_lenet", {"widths": [8, 8], "hidden": [16]}),
        task_of(data),
        TrainSettings(epochs=3, batch_size=32),
    )
    system = train_system(data, name="bars", recipe=recipe)
    treated = prune_channels(system, sparsity=0.5)
    bare = copy.deepcopy(system.model.module)
    groups = groups_of(bare)
    scores = first_order(copy.deepcopy(bare), groups, data.splits["validation"], system.task)
    keep(bare, {group.name: strongest(scores[group.name], 0.5) for group in groups})
    test = data.splits["test"]
    before = system.model.outputs(test.inputs)
    with_refit, without = (
        np.abs(model.outputs(test.inputs) - before).mean() for model in (treated.model, ModuleModel(bare.eval()))
    )
    assert with_refit < 0.5 * without
    assert (treated.model.outputs(test.inputs).argmax(1) == test.labels).mean() > 0.95
    chain = quantize_int8(treated)
    assert chain.model.num_bytes < treated.model.num_bytes < 0.4 * system.model.num_bytes


def test_time_falls_with_the_operations():
    """784-1024-1024-10 at half the units: a quarter of the largest product, measured in CPU time."""
    data = data_of("mlp")
    wide = {"hidden": [1024, 1024]}
    module = build("mlp", columns=data.columns, num_outputs=2, params=wide)
    module.fit_encoding(data.splits["train"])
    system = System("wide", ModuleModel(module, architecture=Architecture("mlp", wide)), data, task_of(data), Argmax())
    treated = prune_channels(system, importance="magnitude", calibration_num=200)
    assert treated.model.architecture.params["hidden"] == [512, 512]
    rows = torch.from_numpy(np.tile(data.splits["test"].inputs, (3, 1))[:256])
    best = {"before": np.inf, "after": np.inf}
    with torch.inference_mode():
        for _ in range(7):
            for key, one in (("before", system), ("after", treated)):
                began = time.process_time()
                one.model.module(rows)
                best[key] = min(best[key], time.process_time() - began)
    assert best["after"] < 0.5 * best["before"]
    assert treated.model.num_bytes < 0.3 * system.model.num_bytes
    assert prune_magnitude(treated).lineage[-1].outcome["by_units"]  # an mlp stays one


def test_what_it_refuses():
    system = planted("mlp")
    with pytest.raises(TreatmentError) as caught:
        prune_channels(system, sparsity=1.0, importance="luck", multiple=0, calibration_num=0)
    assert len(caught.value.problems) == 4
    other = ModuleModel(nn.Sequential(nn.Linear(4, 2)), architecture=Architecture("other"))
    with pytest.raises(TreatmentError, match="cannot be taken out safely"):
        prune_channels(replace(system, model=other))
    with pytest.raises(TreatmentError, match="Prune first"):
        prune_channels(quantize_int8(system))
    for name in ("mlp", "cnn_residual", "transformer"):
        with pytest.raises(TreatmentError, match="changed by a treatment"):
            prune_channels(prune_by_activation(planted(name)))
    with pytest.raises(ModelError, match=r"has no units body\.9"):
        keep(copy.deepcopy(system.model.module), {"body.9": torch.arange(1)})


@pytest.mark.peer
@pytest.mark.parametrize("name", ["mlp", "cnn_lenet", "cnn_vgg", "cnn_residual"])
def test_another_library_finds_the_same_groups(name):
    """Torch-Pruning traces the network instead of knowing it: the same share leaves tensors of the same shapes."""
    import torch_pruning

    even = {"cnn_residual": {"width": 8, "depths": [2, 2]}, "cnn_vgg": {"widths": [4, 6], "hidden": 8}}
    system = planted(name, params=even.get(name))
    ours = prune_channels(system, sparsity=0.5, importance="magnitude").model.module
    theirs = copy.deepcopy(system.model.module).requires_grad_(True)
    example = tensors(theirs, system.data.splits["test"].inputs[:2]).float()
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    torch_pruning.pruner.BasePruner(
        theirs, example, importance=importance, pruning_ratio=0.5, ignored_layers=[theirs.head]
    ).step()
    shapes = [{key: tensor.shape for key, tensor in one.state_dict().items()} for one in (ours, theirs)]
    assert shapes[0] == shapes[1]
