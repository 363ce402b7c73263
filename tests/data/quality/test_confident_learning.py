"""Confident learning: the paper's counts by hand, planted wrong labels found, nothing found on clean separable data."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from assay.data.quality.confident import doubt, looks_like, suspected, thresholds
from assay.data.quality.simple_model import PENALTY, fit_softmax, out_of_fold
from assay.values import Column
from support import small_texts

TABLE = tuple(Column(f"x{i}", "numeric") for i in range(6))
PICTURE = (Column("image", "image", low=0, high=255, shape=(1, 8, 8)),)


def plant(labels, rate, num_classes, seed=7):
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(labels)) < rate
    shift = rng.integers(1, num_classes, len(labels))
    return np.where(wrong, (labels + shift) % num_classes, labels), wrong


def separable(num=800, num_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num)
    centres = 6 * np.eye(6)[:num_classes]
    return (centres[labels] + rng.normal(size=(num, 6))).astype(np.float32), labels


def found_in(inputs, labels, columns, num_classes):
    return suspected(labels, out_of_fold(inputs, labels, columns, num_classes=num_classes, extra=inputs[:0]))


def test_counts_by_hand():
    """Thresholds 0.7 and 0.5: row 2 looks like class 1, row 4 like class 0, row 5 like neither."""
    labels = np.array([0, 0, 0, 1, 1, 1])
    first = np.array([0.95, 0.9, 0.25, 0.2, 0.75, 0.55])
    probabilities = np.stack([first, 1 - first], axis=1)
    assert thresholds(labels, probabilities) == pytest.approx([0.7, 0.5])
    assert looks_like(labels, probabilities).tolist() == [0, 0, 1, 1, 0, -1]
    assert suspected(labels, probabilities).tolist() == [False, False, True, False, True, False]
    assert doubt(labels, probabilities)[2] == pytest.approx(0.5)


def test_errored_rows_and_absent_classes_look_like_nothing():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.8, 0.1, 0.1], [np.nan] * 3, [0.1, 0.8, 0.1], [0.05, 0.05, 0.9]])
    assert looks_like(labels, probabilities).tolist() == [0, -1, 1, -1]  # nobody is labelled 2: no threshold


def test_equal_probabilities_are_no_error():
    """All rows alike: every threshold is met by every row, and the first class wins; nothing is claimed for it."""
    labels = np.array([0, 1] * 10)
    assert suspected(labels, np.full((20, 2), 0.5)).sum() == 10  # the definition's ties: half look like class 0


def test_softmax_regression_equals_scikit_learn():
    inputs, labels = separable(300)
    ours = fit_softmax(inputs.astype(float), labels, num_classes=3)
    theirs = LogisticRegression(C=1 / PENALTY, fit_intercept=False, tol=1e-10, max_iter=5000).fit(inputs, labels)
    gap = inputs @ (ours - theirs.coef_.T)
    assert np.abs(gap - gap.mean(axis=1, keepdims=True)).max() < 0.05


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_planted_wrong_labels_of_a_table_are_found(rate):
    inputs, truth = separable()
    labels, wrong = plant(truth, rate, 3)
    marked = found_in(inputs, labels, TABLE, 3)
    assert (marked & wrong).sum() / marked.sum() >= 0.9
    assert (marked & wrong).sum() / wrong.sum() >= 0.75


def test_nothing_is_claimed_on_clean_separable_data():
    inputs, labels = separable()
    assert found_in(inputs, labels, TABLE, 3).sum() == 0


def test_the_order_of_rows_does_not_matter():
    inputs, truth = separable(400)
    labels, _ = plant(truth, 0.1, 3)
    order = np.random.default_rng(1).permutation(400)
    first, second = (found_in(inputs[o], labels[o], TABLE, 3) for o in (np.arange(400), order))
    assert (first[order] != second).mean() <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2])
def test_planted_wrong_labels_of_pictures_and_texts_are_found(rate):
    from sklearn.datasets import load_digits

    digits = load_digits()
    pictures = (digits.images[:, None] * 15.9).astype(np.uint8)
    labels, wrong = plant(digits.target, rate, 10)
    marked = found_in(pictures, labels, PICTURE, 10)
    assert (marked & wrong).sum() / marked.sum() >= 0.85
    assert (marked & wrong).sum() / wrong.sum() >= 0.75
    for language in ("en", "zh"):
        data = small_texts(2000, language=language)
        words = data.splits["train"].inputs
        good = ("good", "great", "lovely", "fine") if language == "en" else ("好", "棒", "喜欢", "不错")
        truth = np.array([any(one in text for one in good) for text in words.tolist()]).astype(np.int64)
        labels, wrong = plant(truth, rate, 2)
        marked = found_in(words, labels, data.columns, 2)
        assert (marked & wrong).sum() / marked.sum() >= 0.9
        assert (marked & wrong).sum() / wrong.sum() >= 0.7
    assert found_in(words, truth, data.columns, 2).mean() < 0.01


def test_copies_never_vouch_for_each_other():
    """A wrong label that is there twice: were the copies in two folds, each would teach the other's error."""
    inputs, truth = separable(300)
    labels, _ = plant(truth, 0.1, 3)
    twice, both = np.repeat(inputs, 2, axis=0), np.repeat(labels, 2)
    found = out_of_fold(twice, both, TABLE, num_classes=3, extra=twice[:0])
    assert np.allclose(found[::2], found[1::2])
