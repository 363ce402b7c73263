"""Convolutions in private steps: what filters see of pictures, and memory that parts and steps use again."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.treatments.train import _forms
from assay.treatments.train._clipped_sums import ClippedSums
from assay.treatments.train._forms import Scratch
from assay.treatments.train._row_gradients import RowGradients
from assay.treatments.train._windows import Geometry, overlapping, sizes_of, unfolded

SIZES = list(itertools.product((1, 2, 3, 5), (1, 2, 3), (0, 2), (1, 2, 3)))  # kernel, stride, padding, dilation


@pytest.mark.parametrize("channels", [1, 3])
def test_windows_that_share_memory_are_those_of_torch(channels: int) -> None:
    """Against `torch.nn.functional.unfold`; the memory is full of what must not be read."""
    scratch, tried = Scratch(), 0
    pictures = torch.randn(5, channels, 11, 13).to(memory_format=torch.channels_last)[2:]
    for down, across in zip(SIZES, SIZES[::-1], strict=True):
        geometry = Geometry(*((one, other) for one, other in zip(down, across, strict=True)))
        if (down[0] - 1) * down[3] >= 11 + 2 * down[2] or (across[0] - 1) * across[3] >= 13 + 2 * across[2]:
            continue
        widths, size = sizes_of((channels, 11, 13), geometry)
        scratch.take("windows", (3, size), pictures).fill_(math.nan)
        found = overlapping(pictures, geometry, scratch)
        assert tuple(one.shape[2] for one in found) == widths
        kernel, stride, padding, dilation = geometry.kernel, geometry.stride, geometry.padding, geometry.dilation
        columns = functional.unfold(pictures.contiguous(), kernel, dilation, padding, stride)  # (n, C kernel, T)
        expected = columns.unflatten(1, (channels, -1)).permute(0, 3, 2, 1).flatten(2)
        assert torch.cat(found, dim=2).equal(expected), geometry
        assert unfolded(pictures, geometry, groups=1).equal(expected), geometry
        tried += 1
    assert tried > 60


class Net(nn.Module):
    """Two convolutions of the given kind with what comes between, and a head."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(first, nn.Tanh(), nn.MaxPool2d(2, 1), second, nn.ReLU()), nn.LazyLinear(3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(inputs).flatten(1))
        return found


NETS = {
    "papernot": lambda: Net(nn.Conv2d(1, 16, 8, 2, padding=3), nn.Conv2d(16, 32, 4, 2)),
    "odd": lambda: Net(nn.Conv2d(1, 5, (3, 5), (2, 3), padding=(1, 2)), nn.Conv2d(5, 6, (2, 3), dilation=(2, 1))),
    "points": lambda: Net(nn.Conv2d(1, 8, 1, bias=False), nn.Conv2d(8, 4, 1, 2)),
    "groups": lambda: Net(nn.Conv2d(1, 6, 3, 2), nn.Conv2d(6, 12, 3, groups=3, stride=2)),
}


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "formed twice"])
@pytest.mark.parametrize("name", NETS)
def test_sums_of_convolutions_are_those_of_single_rows(name: str, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several parts of a batch, of other sizes at each call; few numbers unfolded together."""
    torch.manual_seed(11)
    module, labels = NETS[name](), torch.randint(0, 3, (40,))
    everyone = torch.randn(40, 1, 28, 28)
    module(everyone[:1])
    monkeypatch.setattr(_forms, "AT_ONCE", 1 << 14)
    monkeypatch.setattr(ClippedSums, "rows_at_once", lambda self, inputs: 7)
    if not kept:
        monkeypatch.setattr(_forms, "KEPT_NUMBERS", 0)
    clip, rows = ClippedSums(module, max_grad_norm=0.5), RowGradients(module, max_grad_norm=0.5)
    answers = []
    for size in (40, 9, 16):
        inputs = everyone[:size]

        def losses(outputs: Tensor, at: Tensor) -> Tensor:
            return functional.cross_entropy(outputs, labels[at], reduction="none")

        found, norms = clip(inputs, losses)
        expected, lengths = rows(inputs, losses)
        assert clip.method == "one forward and one backward pass"
        assert torch.allclose(norms, lengths, rtol=1e-5)
        answers.append((found, {one: value.clone() for one, value in found.items()}, expected))
    for found, as_given, expected in answers:  # later calls leave what an earlier one gave
        assert set(found) == set(expected)
        whole = max(float(value.abs().max()) for value in expected.values())
        for one, value in expected.items():
            assert found[one].equal(as_given[one])
            assert found[one].shape == value.shape
            assert float((found[one] - value).abs().max()) <= 1e-5 * whole, one


def test_memory_taken_again_is_the_same_until_it_is_too_small() -> None:
    scratch, like = Scratch(), torch.zeros(1)
    first = scratch.take("a", (4, 5), like)
    assert scratch.take("a", (2, 3), like).data_ptr() == first.data_ptr()
    assert scratch.take("b", (4, 5), like).data_ptr() != first.data_ptr()
    assert scratch.take("a", (4, 6), like).shape == (4, 6)
    assert scratch.take("a", (4, 6), like.double()).dtype == torch.float64
