"""Classes and their counts: every short way gives what the long one gives, and streams are what they always were."""

import hashlib
import hmac

import numpy as np
import pytest

from assay.estimation import cells


def test_the_stream_of_a_key_is_philox_with_that_key():
    for use in ("classes", "units"):
        word = hmac.new(b"key", use.encode(), hashlib.sha256).digest()
        plain = np.random.Generator(np.random.Philox(key=int.from_bytes(word[:16], "little")))
        found = cells.generator(b"key", use)
        assert str(found.bit_generator.state) == str(plain.bit_generator.state)
        np.testing.assert_array_equal(
            found.multinomial(90, [0.2, 0.8], size=9), plain.multinomial(90, [0.2, 0.8], size=9)
        )


@pytest.mark.parametrize("num_classes", [3, 200, 256, 700])
@pytest.mark.parametrize("num_rows", [900, 140_000])
def test_one_row_of_each_class(num_classes, num_rows):
    rng = np.random.default_rng(num_classes)
    order = np.concatenate([rng.integers(0, 2, num_rows - num_classes), np.arange(num_classes)])  # most at the end
    classes, sizes = cells.compress([order])
    np.testing.assert_array_equal(classes, order)
    assert len(sizes) == num_classes
    np.testing.assert_array_equal(classes[cells.first_rows(classes, num_classes)], np.arange(num_classes))


@pytest.mark.parametrize(("num_classes", "num_cells"), [(1, 1), (7, 7), (7, 90), (30, 4), (300, 200)])
def test_merged_counts_are_sums_over_classes(num_classes, num_cells):
    rng = np.random.default_rng(num_cells)
    counts = rng.integers(0, 10**9, (5, num_classes)).astype(float)
    for own in (
        rng.integers(0, num_cells, num_classes),
        rng.permutation(max(num_cells, num_classes))[:num_classes] % num_cells,
    ):
        brute = np.zeros((5, num_cells))
        for one, cell in enumerate(own):
            brute[:, cell] += counts[:, one]
        np.testing.assert_array_equal(cells.merge(counts, own, num_cells), brute)


def test_bits_side_by_side_number_rows_as_the_mixed_radix_does():
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, top, 500) for top in (2, 10, 3)]
    shifted = [column - (1 << 40) * (place == 1) for place, column in enumerate(columns)]  # far from 0: the long way
    for mine, other in zip(cells.compress(columns), cells.compress(shifted), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert cells.compress([np.array([True, False]), np.array([-1, 5])])[1].tolist() == [1, 1]


def test_looking_up_bytes_is_taking():
    table, codes = np.arange(40, dtype=np.uint8)[::-1].copy(), np.random.default_rng(0).integers(0, 40, 70_000)
    for kind in (np.uint8, np.int64):
        for num in (900, len(codes)):
            found = cells.look_up(table, codes[:num].astype(kind))
            np.testing.assert_array_equal(found, table[codes[:num]])


@pytest.mark.parametrize("num_columns", [1, 2, 15, 16, 17, 200])
def test_products_of_bytes_are_exact(num_columns):
    rng = np.random.default_rng(num_columns)
    weights = np.minimum(rng.poisson(2, (30, 2_000)), 127).astype(np.uint8)
    weights[0] = 127
    values = rng.integers(-cells.SMALL_WHOLE, cells.SMALL_WHOLE + 1, (2_000, num_columns)).astype(np.float64)
    values[:, 0] = cells.SMALL_WHOLE  # 127 times that, 2,000 times over: no sum is saturated
    assert cells.are_small_whole(values)
    np.testing.assert_array_equal(cells.whole_product(weights, values), weights.astype(np.int64) @ values)
    assert not cells.are_small_whole(values + 1)
    assert not cells.are_small_whole(values + 1e-9)


def test_units_drawn_many_draws_at_a_time_are_those_drawn_one_by_one():
    sizes = np.array([3, 1, 40, 500])
    counts = np.random.default_rng(1).multinomial(544, sizes / 544, size=101).astype(float)
    found, rng = cells.pick_units(counts, sizes, cells.generator(b"key", "units")), cells.generator(b"key", "units")
    for row, repeats in zip(found, counts.astype(int), strict=True):
        own = sizes.repeat(repeats)
        places = (rng.random(544) * own).astype(int) + cells.starts_of(sizes).repeat(repeats)
        np.testing.assert_array_equal(row, np.bincount(places, minlength=544))


@pytest.mark.parametrize(("num", "most"), [(0, 5), (1, 1), (1000, 48), (1000, 10**6), (7, 100)])
def test_parts_cover_everything_once(num, most):
    assert [at for part in cells.parts_of(num, most) for at in range(num)[part]] == list(range(num))
