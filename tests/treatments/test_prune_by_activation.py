"""Weights by what goes through them: the right ones stay, and they are stored without the zeros."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from assay.errors import ModelError, TreatmentError
from assay.models import Architecture, build, tensors
from assay.models.adapters.module import ModuleModel
from assay.models.sparse import Sparse, can_be_sparse, from_layer, packed, unpacked
from assay.treatments.model.factor_low_rank import factor_low_rank
from assay.treatments.model.prune_by_activation import (
    chosen,
    input_norms,
    of_each_row,
    prune_by_activation,
    two_of_four,
)
from assay.treatments.model.quantize_int8 import quantize_int8
from support import small_images, untrained


@pytest.fixture(scope="module")
def small(small_data):
    return untrained(small_data, "mlp", {"hidden": [18, 13]})


def given_to(module, inputs):
    """What each layer takes, written down by hand."""
    seen = {}
    handles = [
        layer.register_forward_pre_hook(lambda _, one, name=name: seen.setdefault(name, one[0].detach()))
        for name, layer in can_be_sparse(module).items()
    ]
    with torch.no_grad():
        module(tensors(module, inputs))
    for handle in handles:
        handle.remove()
    return seen


def test_norms_are_those_of_what_comes_in(small):
    rows = small.data.splits["validation"].inputs[:70]
    found = input_norms(small.model.module, rows)
    given = given_to(small.model.module, rows)
    assert set(found) == {"body.0", "body.2"}
    for name, norm in found.items():
        expected = np.sqrt((given[name].double().numpy() ** 2).sum(axis=0))
        np.testing.assert_allclose(norm, expected, rtol=1e-5)


def test_norms_of_a_convolution_are_those_of_its_windows():
    """Against sums over every place of the picture, padding written out."""
    data = small_images(60, num_classes=2, channels=2)
    system = untrained(data, "cnn_residual", {"width": 3, "depths": [1, 1], "norm": "none"})
    rows = data.splits["test"].inputs[:5]
    found, given = input_norms(system.model.module, rows), given_to(system.model.module, rows)
    layers = can_be_sparse(system.model.module)
    assert {layers[name].stride for name in found} == {(1, 1), (2, 2)}
    for name, norm in found.items():
        layer, (down, right) = layers[name], layers[name].stride
        (high, wide), (above, left) = layer.kernel_size, layer.padding
        pixels = np.pad(given[name].double().numpy(), ((0, 0), (0, 0), (above, above), (left, left))) ** 2
        places = list(
            itertools.product(range(0, pixels.shape[2] - high + 1, down), range(0, pixels.shape[3] - wide + 1, right))
        )
        windows = [pixels[:, :, y : y + high, x : x + wide].sum(axis=0) for y, x in places]
        np.testing.assert_allclose(norm, np.sqrt(sum(windows)).ravel(), rtol=1e-5)


def test_each_row_keeps_its_largest_products(small):
    """Brute force, row by row."""
    rows = small.data.splits["validation"].inputs
    treated = prune_by_activation(small, sparsity=0.4, calibration_num=300)
    norms = input_norms(small.model.module, rows)
    for name, norm in norms.items():
        weight, after = small.model.module.get_submodule(name).weight, treated.model.module.get_submodule(name).weight()
        num = weight.shape[1] - round(0.4 * weight.shape[1])
        for row, thinned in zip(weight.detach().numpy(), after.numpy(), strict=True):
            kept = sorted(range(len(row)), key=lambda place: -abs(row[place]) * float(norm[place]))[:num]
            np.testing.assert_array_equal(thinned, np.where(np.isin(np.arange(len(row)), kept), row, 0))
        assert treated.lineage[-1].outcome["kept_a_row"][name] == num
    assert torch.equal(treated.model.module.head.weight, small.model.module.head.weight)


def test_two_of_every_four():
    scores = torch.rand(6, 15, generator=torch.Generator().manual_seed(0))
    stays = two_of_four(scores)
    for row, kept in zip(scores.tolist(), stays.tolist(), strict=True):
        for start in range(0, 12, 4):
            best = max(itertools.combinations(range(start, start + 4), 2), key=lambda two: sum(row[one] for one in two))
            assert [place for place in range(start, start + 4) if kept[place]] == list(best)
        assert sum(kept[12:]) == 2
        assert not kept[12 + min(range(3), key=lambda place: row[12 + place])]
    assert two_of_four(torch.ones(1, 1)).tolist() == [[True]]
    assert two_of_four(torch.ones(1, 6)).sum() == 3
    assert of_each_row(torch.ones(2, 3), 0.99).sum(dim=1).tolist() == [1, 1]


def test_activations_beat_magnitudes_where_some_inputs_are_loud(small_data):
    """Planted, as in section 3 of the paper: small weights on inputs a hundred times the others carry the answer."""
    torch.manual_seed(1)
    layer = nn.Linear(32, 16).requires_grad_(False)
    inputs = torch.randn(400, 32)
    inputs[:, :8] *= 100
    with torch.no_grad():
        layer.weight[:, :8] *= 0.1

    def error(score):
        norms = inputs.norm(dim=0)
        scores = layer.weight.detach().abs() * (norms if score == "activation" else 1)
        thinned = from_layer(layer, of_each_row(scores, 0.5))
        return float((thinned(inputs) - layer(inputs)).norm())

    assert error("activation") < 0.1 * error("magnitude")
    scores = layer.weight.detach().abs()  # all inputs alike: the same choice
    assert torch.equal(of_each_row(scores * 3.0, 0.5), of_each_row(scores, 0.5))


@pytest.mark.parametrize("pattern", ["row", "2:4"])
def test_bytes_fall_to_the_values_and_a_bit_each(small, pattern):
    treated = prune_by_activation(small, pattern=pattern)
    sizes = {name: layer.weight.shape for name, layer in can_be_sparse(small.model.module).items()}
    kept = treated.lineage[-1].outcome["kept_a_row"]
    saved = sum(4 * rows * (wide - kept[name]) - rows * -(-wide // 8) for name, (rows, wide) in sizes.items())
    assert treated.model.num_bytes == small.model.num_bytes - saved < 0.75 * small.model.num_bytes
    assert treated.lineage[-1].outcome["zero_share"] == pytest.approx(0.5, abs=0.05)
    inputs = small.data.splits["test"].inputs
    dense = build("mlp", columns=small.data.columns, num_outputs=2, params={"hidden": [18, 13]})
    dense.load_state_dict(small.model.module.state_dict())
    with torch.no_grad():
        for name in sizes:
            dense.get_submodule(name).weight.copy_(treated.model.module.get_submodule(name).weight())
    np.testing.assert_array_equal(ModuleModel(dense.eval()).outputs(inputs), treated.model.outputs(inputs))


def test_gradients_reach_the_inputs_after_a_pass_without_them(small):
    treated = prune_by_activation(small)
    assert "gradient" in treated.offers
    inputs = torch.from_numpy(small.data.splits["test"].inputs[:3])
    with torch.inference_mode():
        treated.model.module(inputs)
    inputs.requires_grad_(True)
    treated.model.module(inputs).sum().backward()
    assert bool(inputs.grad.abs().sum() > 0)


def test_bits_come_back():
    for size in (1, 7, 8, 9, 31):
        stays = torch.rand(5, size, generator=torch.Generator().manual_seed(size)) < 0.5
        assert packed(stays).shape == (5, -(-size // 8))
        assert torch.equal(unpacked(packed(stays), size), stays)
    layer = Sparse(nn.Linear(4, 2), 2)
    layer(torch.zeros(1, 4))
    layer.load_state_dict(from_layer(nn.Linear(4, 2), torch.tensor([[True, True, False, False]] * 2)).state_dict())
    assert layer(torch.ones(1, 4)).abs().sum() > 0  # what was written out before is forgotten
    layer.double()
    assert layer(torch.ones(1, 4, dtype=torch.float64)).dtype == torch.float64
    with pytest.raises(ModelError, match="1 to 4"):
        Sparse(nn.Linear(4, 2), 5)


def test_rows_that_cannot_be_used_do_not_count(small):
    rows = small.data.splits["validation"].inputs[:50].copy()
    rows[7, 0] = np.nan
    found = chosen(small.model.module, rows, sparsity=0.5, pattern="row", score="activation")
    assert all(stays.any(dim=1).all() for stays in found.values())


def test_what_it_refuses(small):
    with pytest.raises(TreatmentError) as caught:
        prune_by_activation(small, sparsity=0.01, pattern="4:8", score="luck", calibration_num=0)
    assert len(caught.value.problems) == 4
    with pytest.raises(TreatmentError, match=r"0\.3 with pattern 2:4"):
        prune_by_activation(small, sparsity=0.3, pattern="2:4")
    with pytest.raises(TreatmentError, match="Prune first"):
        prune_by_activation(quantize_int8(small))
    with pytest.raises(TreatmentError, match="no layer to thin out"):
        prune_by_activation(prune_by_activation(small))
    with pytest.raises(TreatmentError):
        factor_low_rank(prune_by_activation(small), share=0.999)
    flat = ModuleModel(nn.Linear(4, 2), architecture=Architecture("other"))
    assert can_be_sparse(nn.Sequential(nn.Conv2d(2, 2, 3, padding="same"), nn.Conv2d(2, 2, 1, groups=2))) == {}
    assert replace(small, model=flat).model is flat
