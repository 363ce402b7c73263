from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from assay.errors import ModelError, UsageError
from assay.models import build
from assay.models.row_code import RowCode
from assay.values import Array, Column, Groups, Split
from support import COLUMNS, make_split, small_images

gan = importlib.import_module("assay.models.gan")
GanSettings, fit_gan = gan.GanSettings, gan.fit_gan
TEXT = (Column("text", "text", language="en"),)


def column(*shape: int) -> tuple[Column, ...]:
    return (Column("image", "image", low=0, high=255, shape=shape),)


def rows_of(inputs: Array, labels: Array | None = None) -> Split:
    labels = np.zeros(len(inputs), dtype=np.int64) if labels is None else labels
    groups = Groups(np.zeros((len(inputs), 0), dtype=np.int16), ())
    return Split(inputs, labels, groups, np.arange(1, len(inputs) + 1))


def accuracy(inputs: Array, labels: Array, real: Split) -> float:
    """Of a linear classifier trained on these rows, on real ones."""
    centre, spread = inputs.mean(axis=0), inputs.std(axis=0) + 1.0
    model = LogisticRegression(max_iter=2000).fit(((inputs - centre) / spread).reshape(len(inputs), -1), labels)
    return float(model.score(((real.inputs - centre) / spread).reshape(len(real), -1), real.labels))


@pytest.mark.slow
def test_images_of_each_class_look_like_the_data() -> None:
    data = small_images(400)
    train, test = data.splits["train"], data.splits["test"]
    settings = GanSettings(epochs=40, batch_size=32, width=16, learning_rate=2e-3, penalty=0.3)
    pair = fit_gan(train, data.columns, 3, settings=settings)
    labels = np.arange(600) % 3
    drawn = pair.sample(labels, seed=1)
    assert (drawn.dtype, drawn.shape) == (np.uint8, (600, 1, 12, 12))
    for one in range(3):  # columns of pixels: the bar is where the class says
        real, made = train.inputs[train.labels == one], drawn[labels == one]
        assert np.abs(real.mean(axis=(0, 1, 2)) - made.mean(axis=(0, 1, 2))).max() < 15
        assert np.abs(real.mean(axis=(0, 1, 2)) - drawn[labels == (one + 1) % 3].mean(axis=(0, 1, 2))).max() > 45
    assert drawn.mean() == pytest.approx(train.inputs.mean(), abs=6)
    assert drawn.std() == pytest.approx(train.inputs.std(), rel=0.2)
    assert drawn.mean(axis=(1, 2, 3)).std() > 7  # dark and bright ones both: not one picture a class
    assert accuracy(drawn, labels, test) > 0.95  # chance: 0.33


@pytest.mark.slow
def test_rows_of_each_class_look_like_the_data() -> None:
    train, test = make_split(1500, 1, 1), make_split(1000, 2, 1)
    settings = GanSettings(epochs=30, batch_size=100, width=16, learning_rate=2e-3, penalty=0.3)
    pair = fit_gan(train, COLUMNS, 2, settings=settings)
    labels = np.arange(2000) % 2
    drawn = pair.sample(labels, seed=1)
    assert drawn.dtype == np.float32
    for one in range(2):
        real, made = train.inputs[train.labels == one], drawn[labels == one]
        np.testing.assert_allclose(made.mean(axis=0), real.mean(axis=0), atol=0.25 * train.inputs.std(axis=0).max())
        assert (np.abs(made.mean(axis=0) - real.mean(axis=0)) < 0.25 * real.std(axis=0)).all()
        np.testing.assert_allclose(made.std(axis=0), real.std(axis=0), rtol=0.25)
    assert set(np.unique(drawn[:, 2])) == {0, 1, 2}
    assert set(np.unique(drawn[:, 3])) == {0, 1}
    best, own = accuracy(train.inputs, train.labels, test), accuracy(drawn, labels, test)
    assert best > 0.7
    assert own > best - 0.04


def test_the_penalty_is_the_squared_slope_on_real_rows() -> None:
    torch.manual_seed(0)
    judge = gan.discriminator(COLUMNS, num_classes=2, width=2).double()
    torch.nn.init.normal_(judge.classes.weight)
    real, labels = torch.randn(5, 13, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1])
    fake = torch.randn(5, 13, dtype=torch.float64)
    with_it, without = (gan._real_and_fake(judge, (real, fake), labels, gamma).item() for gamma in (0.6, 0.0))
    with torch.no_grad():
        slopes = torch.stack(
            [(judge(real + step, labels) - judge(real - step, labels)) / 2e-6 for step in 1e-6 * torch.eye(13).double()]
        )
        sides = torch.cat([-judge(real, labels), judge(fake, labels)])
    assert without == pytest.approx(2 * torch.log1p(sides.exp()).mean().item())
    assert with_it - without == pytest.approx(0.3 * slopes.square().sum(dim=0).mean().item(), rel=1e-5)


def test_the_same_seed_gives_the_same_pair_and_the_same_samples() -> None:
    data = small_images(40, size=8, num_classes=2)
    settings = GanSettings(epochs=1, batch_size=8, width=4)
    labels = np.array([0, 1, 1])
    before = torch.get_rng_state()
    one, two, other = (fit_gan(data.splits["train"], data.columns, 2, settings=settings, seed=s) for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.facts == {**two.facts, "num_train": 24, "steps": 3}
    np.testing.assert_array_equal(one.sample(labels, seed=5), two.sample(labels, seed=5))
    assert not np.array_equal(one.sample(labels, seed=5), other.sample(labels, seed=5))
    assert not np.array_equal(one.sample(labels, seed=5), one.sample(labels, seed=6))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 20)])
def test_players_of_images_of_any_size_divisible_by_four(shape: tuple[int, ...]) -> None:
    params = {"width": 4}
    maker = build("gan_generator", columns=column(*shape), num_outputs=3, params=params)
    judge = build("gan_discriminator", columns=column(*shape), num_outputs=3, params=params)
    drawn = maker(torch.randn(5, gan.NOISE + 3))
    assert drawn.shape == (5, *shape)
    assert drawn.abs().max() <= 1
    judged = judge(drawn, torch.tensor([0, 1, 2, 0, 1]))
    assert judged.shape == (5,)
    judged.sum().backward()
    assert all(one.grad is not None for one in (*maker.parameters(), *judge.parameters()))


def test_pixels_survive_their_code() -> None:
    inputs = np.arange(256, dtype=np.uint8).reshape(4, 1, 8, 8)
    np.testing.assert_array_equal(gan.ImageCode().decode(gan.ImageCode().encode(inputs)), inputs)


def test_rows_survive_their_code() -> None:
    rng = np.random.default_rng(0)
    inputs = make_split(3000, 1, 1).inputs
    inputs[:, 1] = np.where(rng.random(3000) < 0.6, 0, rng.exponential(50, 3000))  # six of ten are the same value
    inputs[:40, 0] = np.nan
    inputs[40:90, 2] = -1
    code = RowCode(COLUMNS)
    code.fit(inputs)
    encoded = code.encode(inputs)
    assert encoded.shape == (3000, code.num_encoded)
    back = code.decode(encoded)
    np.testing.assert_array_equal(np.isnan(back), np.isnan(inputs))
    np.testing.assert_array_equal(back[:, 2:], inputs[:, 2:])
    np.testing.assert_allclose(back[40:, :2], inputs[40:, :2], rtol=1e-3, atol=1e-3)
    assert encoded[:, 0].std().item() == pytest.approx(1 / 3**0.5, rel=0.02)  # ranks are uniform on -1..1
    zeros = encoded[inputs[:, 1] == 0, 1]
    assert zeros.unique().tolist() == pytest.approx([-1 + 0.6], abs=0.03)  # the middle of the 60 %


def test_a_generator_draws_no_missing_value_where_none_was_seen() -> None:
    inputs = make_split(200, 1, 1).inputs
    inputs[:20, 1] = np.nan
    code = RowCode(COLUMNS)
    code.fit(inputs)
    drawn = code.choose(torch.randn(500, code.num_encoded, generator=torch.Generator().manual_seed(0)) * 3)
    rows = code.decode(drawn)
    assert not np.isnan(rows[:, 0]).any()
    assert 0.3 < np.isnan(rows[:, 1]).mean() < 0.7
    assert inputs[20:, 0].min() <= rows[:, 0].min() <= rows[:, 0].max() <= inputs[:, 0].max()


def test_what_cannot_be_generated_is_refused() -> None:
    data = small_images(40, size=8, num_classes=2)
    train = data.splits["train"]
    quick = GanSettings(epochs=1, batch_size=8, width=2)
    with pytest.raises(ModelError, match="images and tables"):
        fit_gan(train, TEXT, 2, settings=quick)
    with pytest.raises(ModelError, match="divisible by 4"):
        build("gan_generator", columns=column(1, 10, 8), num_outputs=2)
    with pytest.raises(ModelError, match="not a class index"):
        fit_gan(train, data.columns, 1, settings=quick)
    with pytest.raises(ModelError, match="2 or more"):
        fit_gan(train.take(np.arange(1)), data.columns, 2, settings=quick)
    with pytest.raises(ModelError, match="no finite value"):
        fit_gan(rows_of(np.full((9, 4), np.nan, dtype=np.float32)), COLUMNS, 1, settings=quick)
    pair = fit_gan(train, data.columns, 2, settings=quick)
    with pytest.raises(ModelError, match="class indices"):
        pair.sample(np.array([0, 2]), seed=0)
    with pytest.raises(UsageError, match=r"(?s)epochs is 0.*penalty is -1"):
        GanSettings(epochs=0, penalty=-1)


def test_divergence_is_said() -> None:
    data = small_images(40, size=8, num_classes=2)
    wild = GanSettings(epochs=30, batch_size=8, width=2, learning_rate=1e30)
    with pytest.raises(ModelError, match="Lower the learning rate"):
        fit_gan(data.splits["train"], data.columns, 2, settings=wild)


def test_who_waits_is_told_the_pace_and_what_is_left() -> None:
    data, told = small_images(40, size=8, num_classes=2), []
    settings = GanSettings(epochs=2, batch_size=8, width=2)
    fit_gan(data.splits["train"], data.columns, 2, settings=settings, progress=lambda *words: told.append(words))
    what, done, total = told[-1]
    assert (done, total) == (6, 6)
    assert "steps/s, 0 s left" in what
    assert "discriminator" in what
