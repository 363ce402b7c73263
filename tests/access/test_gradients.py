"""The one backward pass from which every objective's gradient is taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from assay.access.gradients import pull_back
from assay.errors import ModelError
from assay.values import texts


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 3))


def test_it_is_the_gradient_of_whatever_the_cotangent_is_the_derivative_of() -> None:
    module, rng = network(), np.random.default_rng(0)
    inputs = rng.normal(size=(50, 4)).astype(np.float32)
    labels = rng.integers(3, size=50)
    module.train()

    def cross_entropy(logits: np.ndarray, positions: np.ndarray) -> np.ndarray:
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        shares[np.arange(len(logits)), labels[positions]] -= 1
        return shares

    logits, gradients = pull_back(module, inputs, cross_entropy, batch_size=7)
    assert module.training  # left as it was found, though the pass itself had no dropout
    module.eval()
    batch = torch.from_numpy(inputs).requires_grad_(True)
    outputs = module(batch)
    loss = nn.functional.cross_entropy(outputs, torch.from_numpy(labels), reduction="sum")
    np.testing.assert_allclose(logits, outputs.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(gradients, torch.autograd.grad(loss, batch)[0].numpy(), atol=1e-6)


def test_texts_have_none() -> None:
    with pytest.raises(ModelError, match="Take it at the embeddings"):
        pull_back(network(), texts(["a"]), lambda logits, _: logits, batch_size=8)
