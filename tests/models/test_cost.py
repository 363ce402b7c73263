"""What a model is and costs, against formulas worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from assay.models import Architecture
from assay.models.adapters.module import ModuleModel
from assay.models.cost import card
from assay.models.int8 import Int8Linear
from support import KnownModel, small_images


def test_the_card_of_a_module_and_of_a_black_box():
    data = small_images(20)
    architecture = Architecture("anything", {"width": 4})
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(400, 3))
    found = card(ModuleModel(module, architecture=architecture), data)
    assert found == {
        "architecture": "anything",
        "params": {"width": 4},
        "num_parameters": 40 + 1203,
        "num_bytes": 4 * 1243,
        "flops_per_example": 2 * 4 * 100 * 9 + 2 * 400 * 3,
    }
    assert card(KnownModel(), data) == {}

    class Broken(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            raise ValueError("no answer")

    assert card(ModuleModel(Broken()), data)["flops_per_example"] is None


@pytest.mark.parametrize("arithmetic", ["int8", "float32"])
def test_int8_counts_as_its_float_layer(small_data, arithmetic):
    module = nn.Sequential(Int8Linear(4, 5, arithmetic=arithmetic), nn.ReLU(), nn.Linear(5, 2))
    assert card(ModuleModel(module, differentiable=False), small_data)["flops_per_example"] == 2 * 4 * 5 + 2 * 5 * 2
    assert np.isfinite(module(torch.ones(1, 4)).detach().numpy()).all()
