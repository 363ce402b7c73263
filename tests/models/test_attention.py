from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.errors import ModelError
from assay.models.attention import AdditiveAttention, MultiHeadAttention, Rotary, attend, masked_softmax
from assay.models.kernels import written_out


def pair(dim: int, num_heads: int) -> tuple[MultiHeadAttention, nn.MultiheadAttention]:
    """Ours and PyTorch's with the same weights."""
    torch.manual_seed(0)
    ours, peer = MultiHeadAttention(dim, num_heads), nn.MultiheadAttention(dim, num_heads, batch_first=True)
    with torch.no_grad():
        nn.init.normal_(peer.in_proj_bias)
        nn.init.normal_(peer.out_proj.bias)
        for number, layer in enumerate((ours.query, ours.key, ours.value)):
            layer.weight.copy_(peer.in_proj_weight.chunk(3)[number])
            layer.bias.copy_(peer.in_proj_bias.chunk(3)[number])
        ours.join.load_state_dict(peer.out_proj.state_dict())
    return ours.eval(), peer.eval()


@pytest.mark.parametrize("kernel", ["fused", "written"])
@pytest.mark.parametrize("masks", ["none", "padding", "causal", "both"])
@pytest.mark.parametrize("num_heads", [1, 4])
def test_multi_head_attention_equals_the_peer(kernel: str, masks: str, num_heads: int) -> None:
    ours, peer = pair(8, num_heads)
    ours.kernel = kernel  # type: ignore[assignment]
    inputs = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    padding = torch.arange(5) >= torch.tensor([5, 2, 4])[:, None] if masks in ("padding", "both") else None
    above = torch.ones(5, 5, dtype=torch.bool).triu(1) if masks in ("causal", "both") else None
    seen = None if padding is None else ~padding[:, None, None]
    seen = seen if above is None else ~above if seen is None else seen & ~above
    weights = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(2))
    theirs, _ = peer(inputs, inputs, inputs, key_padding_mask=padding, attn_mask=above)
    found = ours(inputs, *ours.project(inputs), seen)
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-6)
    gradients = [torch.autograd.grad((one * weights).mean(), inputs)[0] for one in (found, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-6)


def test_scaled_dot_product_equals_the_definition() -> None:
    rng = np.random.default_rng(0)
    queries, keys, values = rng.normal(size=(3, 4)), rng.normal(size=(5, 4)), rng.normal(size=(5, 2))
    seen = rng.random((3, 5)) < 0.6
    seen[:, 0] = [True, True, False]
    seen[2] = False
    expected, expected_weights = np.zeros((3, 2)), np.zeros((3, 5))
    for q in range(2):
        total = sum(math.exp(queries[q] @ keys[k] / 2) for k in range(5) if seen[q, k])
        for k in range(5):
            if seen[q, k]:
                expected_weights[q, k] = math.exp(queries[q] @ keys[k] / 2) / total
                expected[q] += expected_weights[q, k] * values[k]
    found, weights = attend(*(torch.from_numpy(one) for one in (queries, keys, values)), torch.from_numpy(seen))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(weights.numpy(), expected_weights, atol=1e-12)


def test_additive_attention_equals_the_definition() -> None:
    torch.manual_seed(0)
    model = AdditiveAttention(3, 4, num_hidden=5).double().requires_grad_(False)
    queries, keys = torch.randn(2, 2, 3).double(), torch.randn(2, 6, 4).double()
    seen = torch.arange(6) < torch.tensor([6, 3])[:, None]
    context, weights = model(queries, keys, seen)
    for row, query in itertools.product(range(2), range(2)):
        length = int(seen[row].sum())
        energies = []
        for place in range(length):
            hidden = model.query.weight @ queries[row, query] + model.query.bias + model.key.weight @ keys[row, place]
            energies.append(math.exp(float(model.energy.weight[0] @ torch.tanh(hidden))))
        expected = np.array(energies) / sum(energies)
        np.testing.assert_allclose(weights[row, query, :length].numpy(), expected, atol=1e-12)
        assert torch.all(weights[row, query, length:] == 0)
        by_hand = expected @ keys[row, :length].numpy()
        np.testing.assert_allclose(context[row, query].numpy(), by_hand, atol=1e-12)


@pytest.mark.parametrize("kernel", ["fused", "written"])
def test_a_query_that_sees_nothing_answers_zero_without_nan(kernel: str) -> None:
    model = MultiHeadAttention(4, 2)
    model.kernel = kernel  # type: ignore[assignment]
    inputs = torch.randn(2, 3, 4, requires_grad=True)
    seen = torch.tensor([[True, True, True], [False, False, False]])[:, None, None]
    mixed = model.mix(*(one.unflatten(-1, (2, 2)).transpose(1, 2) for one in (inputs, inputs, inputs)), seen)
    assert torch.all(mixed[1] == 0)
    (gradient,) = torch.autograd.grad(mixed.square().sum(), inputs)
    assert torch.isfinite(gradient).all()
    assert masked_softmax(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool)).tolist() == [[0, 0]]


def turned(rotary: Rotary, vector: Tensor, position: int) -> Tensor:
    return rotary(vector[None], first=position)[0]


def test_rotary_products_depend_on_the_distance_alone() -> None:
    rotary = Rotary(8).double()
    rotary.frequencies = 10_000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    products = {}
    for p, q in itertools.product((0, 3, 40, 511), (0, 5, 41, 200)):
        product = float(turned(rotary, query, p) @ turned(rotary, key, q))
        shifted = float(turned(rotary, query, p + 77) @ turned(rotary, key, q + 77))
        assert shifted == pytest.approx(product, abs=1e-10)
        products[p - q] = product
    assert len({round(product, 6) for product in products.values()}) == len(products), "distance must matter"
    assert turned(rotary, query, 9).norm().item() == pytest.approx(query.norm().item(), abs=1e-12)
    torch.testing.assert_close(turned(rotary, query, 0), query)


def test_rotary_angles_equal_the_paper() -> None:
    rotary = Rotary(4)
    found = turned(rotary, torch.tensor([1.0, 0, 0, 1.0]), 3)  # pairs (x0, x2) and (x1, x3)
    expected = [math.cos(3), -math.sin(3 * 0.01), math.sin(3), math.cos(3 * 0.01)]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_second_derivatives_need_the_written_kernel() -> None:
    ours, _ = pair(8, 2)
    inputs = torch.randn(1, 3, 8, requires_grad=True)
    with written_out(ours):
        (first,) = torch.autograd.grad(ours(inputs, *ours.project(inputs)).sum(), inputs, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), inputs)
    assert second.abs().max() > 0


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match="heads that divide dim"):
        MultiHeadAttention(8, 3)
    with pytest.raises(ModelError, match="even width"):
        Rotary(5)
