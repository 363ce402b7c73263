from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.errors import UsageError
from assay.train.augment import augment, check_augment
from assay.values import Column
from support import COLUMNS

PICTURE = (Column("image", "image", low=0, high=255, shape=(2, 9, 11)),)
TEXT = (Column("text", "text", language="en"),)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 200, seed: int = 1) -> torch.Tensor:
    return torch.randint(1, 256, (count, 2, 9, 11), dtype=torch.uint8, generator=generator(seed))


@pytest.mark.parametrize("name", ["flip", "crop:2", "cutout:4", "noise:0.05"])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_shape_type_and_input_are_kept_and_the_seed_decides(name: str, kind: torch.dtype) -> None:
    batch = pictures().to(kind)
    before = batch.clone()
    torch.manual_seed(1)
    one = augment([name], batch, generator(3), columns=PICTURE)
    torch.manual_seed(2)
    assert torch.equal(one, augment([name], batch, generator(3), columns=PICTURE))
    assert not torch.equal(one, augment([name], batch, generator(4), columns=PICTURE))
    assert (one.shape, one.dtype) == (batch.shape, kind)
    assert torch.equal(batch, before)
    assert 0 <= one.min() <= one.max() <= 255


def test_flip_mirrors_about_half_of_the_images_whole() -> None:
    batch = pictures(1000)
    changed = augment(["flip"], batch, generator(), columns=PICTURE)
    same = (changed == batch).flatten(1).all(dim=1)
    mirrored = (changed == batch.flip(3)).flatten(1).all(dim=1)
    assert (same ^ mirrored).all()
    assert 420 < mirrored.sum() < 580  # 5 standard deviations


@given(seed=st.integers(0, 1000), reach=st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_crop_is_a_shift_filled_with_zero(seed: int, reach: int) -> None:
    batch = pictures(8, seed)
    changed = augment([f"crop:{reach}"], batch, generator(seed), columns=PICTURE).numpy()
    for before, after in zip(batch.numpy(), changed, strict=True):
        found = 0
        for down in range(-reach, reach + 1):
            for across in range(-reach, reach + 1):
                moved = np.zeros_like(before)
                for i in range(9):
                    for j in range(11):
                        if 0 <= i + down < 9 and 0 <= j + across < 11:
                            moved[:, i, j] = before[:, i + down, j + across]
                found += np.array_equal(moved, after)
        assert found == 1


def test_crop_draws_every_shift_alike_often() -> None:
    batch = torch.zeros(9000, 2, 9, 11, dtype=torch.uint8)
    batch[:, :, 4, 5] = 255
    changed = augment(["crop:1"], batch, generator(), columns=PICTURE)
    counts = (changed[:, 0] > 0).sum(dim=0)
    assert counts.sum() == 9000
    near = counts[3:6, 4:7].double()
    assert ((near - 1000).abs() < 5 * 1000**0.5).all()


def test_cutout_sets_one_square_to_zero() -> None:
    batch = pictures(2000)
    changed = augment(["cutout:4"], batch, generator(), columns=PICTURE)
    cut = changed == 0
    assert torch.equal(changed[~cut], batch[~cut])
    assert torch.equal(cut[:, 0], cut[:, 1])
    rows, columns = cut[:, 0].any(dim=2), cut[:, 0].any(dim=1)
    assert torch.equal(cut[:, 0], rows[:, :, None] & columns[:, None, :])
    assert set(rows.sum(dim=1).tolist()) == {2, 3, 4}  # cut off at the edges
    assert cut[:, 0, 4, 5].float().mean().item() == pytest.approx(16 / 99, abs=0.04)


def test_noise_has_the_spread_it_says() -> None:
    batch = torch.full((200, 2, 9, 11), 128, dtype=torch.uint8)
    changed = augment(["noise:0.05"], batch, generator(), columns=PICTURE).double()
    assert changed.mean().item() == pytest.approx(128, abs=0.4)
    assert changed.std().item() == pytest.approx((12.75**2 + 1 / 12) ** 0.5, rel=0.02)  # rounding adds 1/12


def test_token_dropout_leaves_padding_and_hits_its_share() -> None:
    tokens = torch.randint(2, 50, (500, 40), generator=generator(1))
    tokens[:, 30:] = 0
    changed = augment(["token_dropout:0.1"], tokens, generator(), columns=TEXT)
    assert changed.dtype == torch.int64
    assert (changed[:, 30:] == 0).all()
    dropped = changed[:, :30] != tokens[:, :30]
    assert (changed[:, :30][dropped] == 1).all()
    assert dropped.float().mean().item() == pytest.approx(0.1, abs=0.013)


def test_changes_are_made_in_order() -> None:
    batch = pictures()
    together = augment(["flip", "crop:2"], batch, generator(5), columns=PICTURE)
    own = generator(5)
    apart = augment(["crop:2"], augment(["flip"], batch, own, columns=PICTURE), own, columns=PICTURE)
    assert torch.equal(together, apart)
    assert augment([], batch, generator(), columns=PICTURE) is batch


@pytest.mark.parametrize(
    ("names", "columns", "words"),
    [
        (["mirror"], PICTURE, "flip, crop:PIXELS, cutout:PIXELS, noise:SHARE"),
        (["flip:2"], PICTURE, "takes no number"),
        (["crop"], PICTURE, "whole number of pixels"),
        (["crop:1.5"], PICTURE, "whole number of pixels"),
        (["crop:10"], PICTURE, "at most 9"),
        (["noise:2"], PICTURE, "at most 1"),
        (["noise:nan"], PICTURE, "share above 0"),
        (["cutout:-1"], PICTURE, "whole number"),
        (["flip"], TEXT, "for images, and these are texts.*token_dropout:SHARE"),
        (["token_dropout:0.1"], PICTURE, "for texts, and these are images"),
        (["flip"], COLUMNS, "these are tables"),
    ],
)
def test_names_and_numbers_are_checked(names: list[str], columns: tuple[Column, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_augment(names, columns)


def test_all_problems_come_at_once() -> None:
    with pytest.raises(UsageError) as raised:
        augment(["mirror", "crop", "flip"], pictures(), generator(), columns=PICTURE)
    assert len(raised.value.problems) == 2
