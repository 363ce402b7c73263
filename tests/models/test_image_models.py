from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from torch import nn

from assay.errors import ModelError
from assay.models import FitsEncoding, build, describe
from assay.models.cnn import Block
from assay.models.image import ImageEncoder
from assay.values import Column
from support import COLUMNS, small_images

importlib.import_module("assay.models.cnn")
NAMES = ("cnn_lenet", "cnn_vgg", "cnn_residual")
SHAPES = ((1, 8, 8), (3, 32, 32), (2, 9, 17), (1, 28, 28))


def column(*shape: int) -> tuple[Column, ...]:
    return (Column("image", "image", low=0, high=255, shape=shape),)


def pictures(count: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_encoding_standardises_each_channel_by_the_training_split() -> None:
    inputs = pictures(5000, 3, 8, 8).numpy()
    inputs[:, 1] //= 4
    inputs[:, 2] = 7
    encoder = ImageEncoder((3, 8, 8))
    encoder.fit(inputs)
    wide = inputs.astype(np.float64)
    np.testing.assert_allclose(encoder.mean, wide.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(encoder.std, [wide[:, 0].std(), wide[:, 1].std(), 1.0], rtol=1e-5)
    encoded = encoder(torch.from_numpy(inputs))
    assert encoded.mean(dim=(0, 2, 3)).abs().max() < 1e-4
    torch.testing.assert_close(encoder(torch.from_numpy(inputs).float()), encoded)


def test_encoding_is_fitted_on_the_split_it_is_given_only() -> None:
    data = small_images(60)
    module = build("cnn_residual", columns=data.columns, num_outputs=3, params={"width": 4})
    assert isinstance(module, FitsEncoding)
    module.fit_encoding(data.splits["train"])
    np.testing.assert_allclose(module.encoder.mean, data.splits["train"].inputs.mean(), rtol=1e-5)


def test_a_mirrored_network_answers_with_the_mean_over_both_sides_and_trains_like_the_plain_one() -> None:
    shape, rows = (3, 9, 12), pictures(5, 3, 9, 12)
    mirrored = build("cnn_mirrored", columns=column(*shape), num_outputs=4, params={"width": 4, "depths": [1, 1, 1]})
    plain = build("cnn_residual", columns=column(*shape), num_outputs=4, params={"width": 4, "depths": [1, 1, 1]})
    plain.load_state_dict(mirrored.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(mirrored(rows), plain(rows), rtol=0, atol=0)
        mirrored.eval(), plain.eval()
        torch.testing.assert_close(mirrored(rows), (plain(rows) + plain(rows.flip(3))) / 2)
        assert (plain(rows) - plain(rows.flip(3))).abs().max() > 1e-3
        torch.testing.assert_close(mirrored(rows), mirrored(rows.flip(3)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_any_size_and_any_number_of_channels(name: str, shape: tuple[int, ...]) -> None:
    module = build(name, columns=column(*shape), num_outputs=4).eval()
    seen: list[torch.Tensor] = []
    module.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        answers = module(pictures(3, *shape))
    assert answers.shape == (3, 4)
    assert answers.isfinite().all()
    assert isinstance(module.head, nn.Linear)
    assert seen[0].shape == (3, module.head.in_features)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_answered_alike_alone_and_among_others(name: str) -> None:
    module = build(name, columns=column(1, 12, 12), num_outputs=3)
    module.train()
    module(pictures(32, 1, 12, 12, seed=1))  # running statistics leave their start
    module.eval()
    rows = pictures(9, 1, 12, 12)
    with torch.no_grad():
        together = module(rows)
        alone = torch.cat([module(row[None]) for row in rows])
        torch.testing.assert_close(module(rows.float()), together)
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("norm", "independent"), [("group", True), ("batch", False)])
def test_group_norm_keeps_rows_apart_in_training_too(norm: str, independent: bool) -> None:
    module = build("cnn_residual", columns=column(1, 8, 8), num_outputs=2, params={"width": 8, "norm": norm}).train()
    nn.init.ones_(next(part for part in module.modules() if isinstance(part, Block)).branch[-1].weight)
    rows = pictures(6, 1, 8, 8)
    with torch.no_grad():
        apart = (module(rows)[:1] - module(torch.cat([rows[:1], rows[3:]]))[:1]).abs().max()
    assert (apart < 1e-5) == independent


@pytest.mark.parametrize(
    ("name", "shape", "num_outputs", "params", "expected"),
    [
        ("cnn_lenet", (3, 32, 32), 10, {}, 62_006),  # the tutorial's own network
        ("cnn_residual", (1, 28, 28), 10, {}, 82_922),
        ("cnn_residual", (1, 28, 28), 10, {"grid": 1}, 77_802),
        ("cnn_mirrored", (1, 28, 28), 10, {"depths": [1, 1, 1]}, 318_826),
        # A second block of 64 channels: two convolutions and two norms.
        ("cnn_residual", (1, 28, 28), 10, {"grid": 1, "depths": [1, 2]}, 77_802 + 2 * (9 * 64 * 64 + 128)),
        # By hand: 2 x (conv + norm) a width, the linear layer after two poolings, the head.
        (
            "cnn_vgg",
            (3, 32, 32),
            10,
            {"hidden": 512, "norm": "none"},
            896 + 9_248 + 18_496 + 36_928 + 512 * (64 * 8 * 8 + 1) + 5_130,
        ),
    ],
)
def test_number_of_parameters(name: str, shape: tuple[int, ...], num_outputs: int, params: dict, expected: int) -> None:
    module = build(name, columns=column(*shape), num_outputs=num_outputs, params=params)
    assert describe(module)["num_parameters"] == expected


def test_a_residual_block_is_its_formula() -> None:
    block = Block(3, 5, stride=2, norm="batch").double().eval()
    for part in block.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.uniform_(part.bias)
            part.running_mean.uniform_(-1, 1)
            part.running_var.uniform_(0.5, 2)
    hidden = torch.randn(2, 3, 7, 6, dtype=torch.float64)

    def norm(x: torch.Tensor, part: nn.Module) -> torch.Tensor:
        shape = (1, -1, 1, 1)
        scale = part.weight / (part.running_var + 1e-5).sqrt()
        return (x - part.running_mean.reshape(shape)) * scale.reshape(shape) + part.bias.reshape(shape)

    def convolved(x: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
        padded = nn.functional.pad(x, (1, 1, 1, 1))
        windows = padded.unfold(2, 3, 1).unfold(3, 3, 1)[:, :, ::stride, ::stride]
        return torch.einsum("nchwij,ocij->nohw", windows, weight)

    first, first_norm, _, second, second_norm = block.branch
    branch = norm(convolved(norm(convolved(hidden, first.weight, 2), first_norm).relu(), second.weight, 1), second_norm)
    means = torch.stack([hidden[:, :, i : i + 2].mean(dim=2) for i in (0, 2, 4, 6)], dim=2)
    means = torch.stack([means[:, :, :, i : i + 2].mean(dim=3) for i in (0, 2, 4)], dim=3)
    shortcut = norm(torch.einsum("nchw,oc->nohw", means, block.shortcut[1].weight[:, :, 0, 0]), block.shortcut[2])
    torch.testing.assert_close(block(hidden), (branch + shortcut).relu())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    torch.manual_seed(0)
    small = {"cnn_lenet": {"widths": [2, 3], "hidden": [5]}, "cnn_vgg": {"widths": [2], "hidden": 4, "dropout": 0.0}}
    params = small.get(name, {"width": 2})
    module = build(name, columns=column(1, 8, 8), num_outputs=2, params=params).double().eval()
    rows = torch.rand(2, 1, 8, 8, dtype=torch.float64) * 255
    inputs = rows.clone().requires_grad_()
    loss = module(inputs).square().sum()
    (gradient,) = torch.autograd.grad(loss, inputs)
    for place in ((0, 0, 3, 4), (1, 0, 0, 0), (1, 0, 7, 5)):
        ends = []
        for step in (1e-4, -1e-4):
            moved = rows.clone()
            moved[place] += step
            with torch.no_grad():
                ends.append(module(moved).square().sum().item())
        assert gradient[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_trained(name: str) -> None:
    module = build(name, columns=column(1, 12, 12), num_outputs=3).train()
    for part in module.modules():
        if isinstance(part, Block):  # a branch that starts at 0 gives its inner layers no gradient at first
            nn.init.ones_(part.branch[-1].weight)
    module(pictures(16, 1, 12, 12)).square().sum().backward()
    still = [key for key, one in module.named_parameters() if one.grad is None or not one.grad.abs().sum() > 0]
    assert still == []


@pytest.mark.parametrize("name", NAMES)
def test_rebuilt_from_its_state(name: str) -> None:
    data = small_images(40)
    module = build(name, columns=data.columns, num_outputs=3).eval()
    module.fit_encoding(data.splits["train"])
    again = build(name, columns=data.columns, num_outputs=3).eval()
    again.load_state_dict(module.state_dict())
    rows = module.encode(data.splits["test"].inputs)
    assert rows.dtype == torch.uint8
    with torch.no_grad():
        assert torch.equal(again(rows), module(rows))


@pytest.mark.parametrize(
    ("name", "columns", "params", "words"),
    [
        ("cnn_residual", COLUMNS, {}, "one image column"),
        ("cnn_lenet", column(1, 7, 30), {}, "8 pixels or more"),
        ("cnn_residual", column(1, 8, 8), {"norm": "layer"}, "batch, group, none"),
        ("cnn_residual", column(1, 8, 8), {"depths": [1] * 4}, "at least one pixel left"),
        ("cnn_residual", column(1, 8, 8), {"depths": []}, "whole numbers from 1"),
        ("cnn_residual", column(1, 8, 8), {"width": 0}, "whole numbers from 1"),
        ("cnn_vgg", column(1, 8, 8), {"dropout": 1.0}, "0 to below 1"),
        ("cnn_vgg", column(1, 8, 8), {"widths": [4, 4, 4, 4]}, "at least one pixel left"),
        ("cnn_residual", column(1, 8, 8), {"breadth": 3}, "breadth"),
    ],
)
def test_what_makes_no_network_is_refused(name: str, columns: tuple[Column, ...], params: dict, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        build(name, columns=columns, num_outputs=2, params=params)


def test_images_of_another_shape_are_refused() -> None:
    module = build("cnn_lenet", columns=column(1, 12, 12), num_outputs=2)
    with pytest.raises(ModelError, match="1, 12, 12"):
        module(pictures(2, 1, 12, 13))
    with pytest.raises(ModelError, match="1, 12, 12"):
        ImageEncoder((1, 12, 12)).fit(pictures(2, 3, 12, 12).numpy())
