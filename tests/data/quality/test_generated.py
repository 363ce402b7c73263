"""Generated rows against real ones: planted generators are found out, and real rows are all clear."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.stats import binom

from assay.data.quality import generated
from assay.data.quality.generated import Sample, compare, distances, inside, manifold_gaps, nearest_share
from support import COLUMNS, make_split, small_images

LEVEL = 0.95


def sample(num, seed):
    split = make_split(num, seed, 1)
    return Sample(split.inputs, split.labels)


def told(made, train, held_out, columns=COLUMNS, seed=0):
    return compare(train, held_out, made, columns=columns, rng=np.random.default_rng(seed), level=LEVEL)


@pytest.fixture(scope="module")
def real():
    return sample(300, 1), sample(300, 2)


def test_distances_and_balls_agree_with_loops():
    rng = np.random.default_rng(0)
    points, real = rng.normal(size=(9, 3)), rng.normal(size=(12, 3))
    slow = np.array([[np.linalg.norm(one - other) for other in real] for one in points])
    np.testing.assert_allclose(distances(points, real), slow, atol=1e-9)
    radius = [sorted(np.linalg.norm(one - other) for other in real)[5] for one in real]  # the 0th is the row itself
    np.testing.assert_array_equal(inside(points, real), slow <= np.array(radius))


def test_the_share_agrees_with_a_tree_and_its_p_value_with_all_permutations():
    rng = np.random.default_rng(4)
    train, held_out, made = (rng.normal(size=(num, 2)) for num in (4, 5, 40))
    made[:15] = train[rng.integers(0, 4, 15)] + 0.01
    real = np.concatenate([train, held_out])
    nearest = np.bincount(cKDTree(real).query(made)[1], minlength=9)

    def share(rows):
        return nearest[rows].sum() / (nearest[rows].sum() + 4 / 5 * np.delete(nearest, rows).sum())

    cells = [np.zeros(len(one)) for one in (train, held_out, made)]
    found, p_value = nearest_share((train, held_out, made), cells, rng, level=LEVEL)
    assert found.value == pytest.approx(share(list(range(4))))
    exact = np.mean([share(list(rows)) >= found.value - 1e-9 for rows in combinations(range(9), 4)])
    assert p_value == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 999) ** 0.5)


def test_coverage_of_real_rows_is_what_the_published_formula_says():
    """Naeem et al. 2020, section 3: 1 - C(N - 1, k) / C(N + M - 1, k), whatever the distribution."""
    rng, num, others, k = np.random.default_rng(0), 30, 20, generated.NEIGHBOURS
    found = [inside(rng.normal(size=(others, 2)), rng.normal(size=(num, 2))).any(axis=0).mean() for _ in range(300)]
    expected = 1 - comb(num - 1, k) / comb(num + others - 1, k)
    assert np.mean(found) == pytest.approx(expected, abs=3.3 * np.std(found) / 300**0.5)


def test_real_rows_pass_for_generated(real):
    found = told(sample(300, 3), *real)
    assert found.fidelity_gap.low <= 0 <= found.fidelity_gap.high
    assert found.diversity_gap.low <= 0 <= found.diversity_gap.high
    assert found.nearest_train_share.low <= 0.5 <= found.nearest_train_share.high
    assert found.memorisation_p_value > 0.05
    assert found.difference_p_value > 0.05
    assert found.copied_rows.value == 0
    assert (found.num_generated, found.num_held_out) == (300, 300)


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_copies_of_training_rows_are_found(real, share):
    train, held_out = real
    made = sample(300, 3)
    num = int(300 * share)
    made.inputs[:num] = train.inputs[:num]
    made.cells[:num] = train.cells[:num]
    found = told(made, train, held_out)
    assert found.memorisation_p_value <= 0.01
    assert found.nearest_train_share.low > 0.5
    assert found.copied_rows.low <= share <= found.copied_rows.high
    assert found.fidelity_gap.low <= 0 <= found.fidelity_gap.high  # copies look real, and are as varied
    assert found.diversity_gap.low <= 0 <= found.diversity_gap.high


def test_noisy_copies_are_found_though_none_is_equal(real):
    train, held_out = real
    noise = np.random.default_rng(0).normal(size=(300, 2)) * (2, 2)  # a tenth of a standard deviation
    inputs = train.inputs.copy()
    inputs[:, :2] += noise
    found = told(Sample(inputs, train.cells), train, held_out)
    assert found.copied_rows.value < 0.05
    assert found.memorisation_p_value <= 0.01
    assert found.nearest_train_share.low > 0.6


def test_a_collapsed_generator_lacks_diversity_and_remembers_nothing(real):
    made = sample(300, 3)
    for cell in (0, 1):
        rows = made.cells == cell
        made.inputs[rows] = made.inputs[rows][0]
    found = told(made, *real)
    assert found.diversity_gap.low > 0.5
    assert found.fidelity_gap.high < 0.2
    # Every row has the same nearest real row: a share of 0 or 1 says nothing, and the exact test knows.
    assert found.memorisation_p_value > 0.05


def test_rows_that_no_real_one_is_like_lack_fidelity(real):
    made = sample(300, 3)
    made.inputs[:, 0] += 60
    found = told(made, *real)
    assert found.fidelity_gap.low > 0.3
    assert found.difference_p_value <= 0.01
    shifted = sample(300, 3)
    shifted.inputs[:, 2] = 0  # one category of three: still real people, but not these
    found = told(shifted, *real)
    assert found.fidelity_gap.high < 0.1
    assert found.difference_p_value <= 0.01


def test_copies_of_pictures_are_found():
    data = small_images(400, size=8, num_classes=2)
    train, held_out = (Sample(part.inputs, part.labels) for part in (data.splits["train"], data.splits["test"]))
    copies = Sample(train.inputs[:120], train.cells[:120])
    assert told(copies, train, held_out, data.columns).memorisation_p_value <= 0.01
    fresh = small_images(200, size=8, num_classes=2, seed=5).splits["train"]
    assert told(Sample(fresh.inputs, fresh.labels), train, held_out, data.columns).memorisation_p_value > 0.05


def test_a_cell_with_few_held_out_rows_is_left_out(real):
    train, held_out = real
    few = held_out.take(np.concatenate([np.flatnonzero(held_out.cells == 0), np.flatnonzero(held_out.cells == 1)[:9]]))
    found = told(sample(100, 3), train, few)
    assert found.num_held_out == (held_out.cells == 0).sum()
    nothing = told(sample(100, 3), train, few.take(np.arange(5)))
    assert nothing.fidelity_gap.value is None
    assert "10 held-out rows" in nothing.fidelity_gap.reason
    assert nothing.memorisation_p_value is None
    assert nothing.copied_rows.value == 0
    assert nothing.to_json()["diversity_gap"]["value"] is None


def test_the_share_is_one_half_for_samples_of_any_size():
    """Many more training rows than held-out rows are no memory."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(30):
        points = [rng.normal(size=(num, 3)) for num in (80, 20, 60)]
        shares.append(nearest_share(points, [np.zeros(len(one)) for one in points], rng, level=LEVEL)[0].value)
    assert np.mean(shares) == pytest.approx(0.5, abs=3.3 * np.std(shares) / 30**0.5)


@pytest.mark.slow
def test_false_alarms_are_as_rare_as_they_say():
    """A perfect generator, and one that is collapsed but has seen nobody: the exact test errs one time in twenty."""
    rng, num = np.random.default_rng(1), 150
    alarms, covered = np.zeros(2), np.zeros(3)
    for _ in range(num):
        points = [rng.normal(size=(size, 2)) for size in (60, 40, 80)]
        cells = [rng.integers(0, 2, len(one)) for one in points]
        share, p_value = nearest_share(points, cells, rng, level=LEVEL)
        gaps = manifold_gaps(points, cells, rng, level=LEVEL)
        covered += [one.low <= truth <= one.high for one, truth in ((share, 0.5), (gaps[0], 0), (gaps[1], 0))]
        narrow = [points[0], points[1], points[2] * 0.2 + 0.5]
        alarms += [p_value <= 0.05, nearest_share(narrow, cells, rng, level=LEVEL)[1] <= 0.05]
    assert (alarms <= binom.ppf(0.999, num, 0.05)).all()
    assert (covered >= binom.ppf(0.001, num, LEVEL)).all()
