"""Operations of one answer, against formulas worked out by hand."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from torch import nn

from assay.models import Architecture, build
from assay.models.adapters.module import ModuleModel
from assay.models.cost import card, flops_per_example
from assay.models.int8 import Int8Linear
from support import KnownModel, small_images, small_texts


def test_linear_and_convolution():
    images = small_images(20).splits["train"].inputs
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 10 * 10, 3))
    by_hand = 2 * (4 * 10 * 10 * 9) + 2 * 400 * 3
    assert flops_per_example(module, images[:3]) == by_hand
    assert flops_per_example(module, images[:0]) is None


def test_int8_counts_as_its_float_layer():
    rows = np.ones((2, 6), dtype=np.float32)
    for arithmetic in ("int8", "float32"):
        assert flops_per_example(nn.Sequential(Int8Linear(6, 5, arithmetic=arithmetic)), rows) == 2 * 6 * 5


@pytest.mark.parametrize(("name", "gates"), [("rnn", 1), ("gru", 3), ("lstm", 4)])
def test_recurrent_layers_by_their_gates_and_the_length_of_each_text(name, gates):
    importlib.import_module("assay.models.recurrent")
    data = small_texts(60)
    params = {"dim": 8, "num_hidden": 16, "bidirectional": False, "pool": "last"}
    module = build(name, columns=data.columns, num_outputs=2, params=params)
    module.fit_encoding(data.splits["train"])
    texts = data.splits["train"].inputs[:4]
    length = float(module.encode(texts).ne(0).sum(dim=1).double().mean())
    by_hand = length * 2 * gates * 16 * (8 + 16) + 2 * 16 * 2
    assert flops_per_example(module, texts) == pytest.approx(by_hand)


def test_the_card_of_a_module_and_of_a_black_box():
    data = small_images(20)
    architecture = Architecture("anything", {"width": 4})
    module = nn.Sequential(nn.Flatten(), nn.Linear(144, 3))
    found = card(ModuleModel(module, architecture=architecture), data)
    assert found == {
        "architecture": "anything",
        "params": {"width": 4},
        "num_parameters": 435,
        "num_bytes": 1740,
        "flops_per_example": 864.0,
    }
    assert card(KnownModel(), data) == {}

    class Broken(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            raise ValueError("no answer")

    assert card(ModuleModel(Broken()), data)["flops_per_example"] is None
