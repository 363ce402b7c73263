"""Rows come out exactly where a linear layer is first; a gradient that holds nothing gives nothing."""

import numpy as np
import pytest
import torch
from torch import nn

from assay import engine
from assay.access.inversion import first_linear, match, solve
from assay.errors import ModelError
from assay.models import Architecture
from assay.observe import Workspace
from assay.probes.privacy.gradient_reconstruction import distances
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def own_draws(monkeypatch):
    """Every test draws the same numbers, whichever ran before it in this process."""
    monkeypatch.setitem(globals(), "RNG", np.random.default_rng(0))


def trained(data, name="mlp", **params):
    recipe = TrainRecipe(Architecture(name, params), task_of(data), TrainSettings(epochs=2))
    return train_system(data, recipe=recipe)


def test_every_row_of_a_table_comes_out_of_an_mlp(small_data):
    workspace = Workspace(key=b"owner", num_draws=100)
    found = engine.audit(trained(small_data, hidden=[16]), probes=["gradient_reconstruction"], workspace=workspace)
    share, away = found.find("rows_reconstructed"), found.find("reconstruction_distance")
    assert share.value > 0.95
    assert share.attempted == 256
    assert away.value < 0.05


def test_solved_rows_are_those_that_the_layer_read():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).eval()
    rows, labels = RNG.normal(size=(6, 5)).astype(np.float32), RNG.integers(0, 3, 6)
    found = solve(module, rows, labels, rows[:2])
    np.testing.assert_allclose(found.found, rows, atol=1e-4)
    np.testing.assert_array_equal(found.truth, rows.astype(np.float64))
    assert found.others.shape == (2, 5)


def test_a_dead_gradient_gives_nothing_away():
    module = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).eval()
    nn.init.constant_(module[0].bias, -1e6)  # no unit ever answers
    rows = RNG.normal(size=(4, 5)).astype(np.float32)
    found = solve(module, rows, np.zeros(4, dtype=np.int64), rows[:0])
    assert not found.found.any()


def test_first_layers_are_told_apart():
    rows = RNG.normal(size=(2, 1, 8, 8)).astype(np.float32)
    convolution = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2))
    assert first_linear(convolution, rows) is None
    assert first_linear(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), rows) is not None
    assert first_linear(nn.Sequential(nn.Flatten(), nn.Linear(64, 2, bias=False)), rows) is None
    with pytest.raises(ModelError, match="linear"):
        solve(convolution, rows, np.zeros(2, dtype=np.int64), rows)


def test_distances_by_hand():
    truth, others = np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([[3.0, 4.0], [0.0, 10.0]])
    assert distances(truth + np.array([[1.0, 0.0], [0.0, 0.0]]), truth, others).tolist() == pytest.approx([0.2, 0.0])
    assert distances(np.full((2, 2), np.nan), truth, others).tolist() == [np.inf, np.inf]


@pytest.mark.slow
def test_pixels_come_out_of_a_convolution_by_matching():
    # Sigmoids, as in Zhu et al. 2019; a blurred picture is nearer to itself than to another one.
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(1, 12, 5, padding=2, stride=2), nn.Sigmoid(), nn.Flatten(), nn.Linear(12 * 36, 3))
    for weights in net.parameters():
        nn.init.uniform_(weights, -0.5, 0.5)

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, inputs):
            return self.net(inputs / 255)

    place = np.linspace(0, 3, 12)
    pictures = np.stack([127 + 120 * np.sin(place[:, None] * k + place) for k in (1, 2, 3)])[:, None]
    pictures = pictures.astype(np.uint8)
    labels = np.arange(3)
    found = match(Scaled().eval(), pictures[:2], labels[:2], pictures[2:], steps=300, rng=np.random.default_rng(0))
    assert (distances(found.found, found.truth, found.others) < 0.5).all()
