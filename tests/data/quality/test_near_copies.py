"""Near copies: planted ones are found, strangers are not, and what is found is verified by brute force."""

from __future__ import annotations

import time

import numpy as np
import pytest

from assay.data.quality.identity import contents, folds, identities, repeats
from assay.data.quality.near_image import correlation, near_images
from assay.data.quality.near_table import near_rows
from assay.data.quality.near_text import NUM_HASHES, level, near_texts, shingles, signature
from assay.values import Column, texts


def made_up_texts(num, seed, num_words=(15, 60)):
    """Texts over one vocabulary with the frequencies of a language: strangers share common words."""
    rng = np.random.default_rng(seed)
    letters = np.random.default_rng(9).choice(list("abcdefghijklmnopqrstuvwxyz"), (3000, 9))
    vocabulary = np.array(["".join(word[: 2 + i % 7]) for i, word in enumerate(letters)])
    shares = 1 / np.arange(1, 3001)
    shares /= shares.sum()
    return [" ".join(vocabulary[rng.choice(3000, rng.integers(*num_words), p=shares)]) for _ in range(num)]


def edited(text, rng, share=0.03):
    """One word in thirty replaced, other case, an exclamation mark."""
    words = text.split()
    for place in rng.choice(len(words), max(1, int(share * len(words))), replace=False):
        words[place] = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 7))
    return " ".join(words).upper() + "!"


def jaccard(one, other, run=5):
    a, b = shingles(level(one), run), shingles(level(other), run)
    return len(a & b) / len(a | b)


def test_texts_equal_brute_force():
    rng = np.random.default_rng(0)
    known = made_up_texts(120, 1)
    asked = [edited(text, rng, share) for text, share in zip(known[:60], np.linspace(0, 0.2, 60), strict=True)]
    found = near_texts(texts(asked), texts(known), language="en")
    left, right = ([shingles(level(text), 5) for text in side] for side in (asked, known))
    for own, place in zip(left, found, strict=True):
        alike = [len(own & other) / len(own | other) for other in right]
        if place >= 0:
            assert alike[place] >= 0.8
        else:
            assert max(alike) < 0.85  # the bands miss 2 in 10,000 at 0.8, and fewer above
    assert 20 < (found >= 0).sum() < 60


def test_minhash_estimates_jaccard():
    rng = np.random.default_rng(0)
    known = ["".join(chr(one) for one in rng.integers(97, 123, 150)) for _ in range(100)]  # no shared runs: independent
    changed = [edited(text[:75] + " " + text[75:], rng, 0.5) for text in known]
    sides = [signature([level(text) for text in side], 5) for side in (known, changed)]
    truth = np.array([jaccard(one, other) for one, other in zip(known, changed, strict=True)])
    spread = np.sqrt(truth * (1 - truth) / NUM_HASHES)
    errors = ((sides[0] == sides[1]).mean(axis=1) - truth) / spread
    assert abs(errors).max() < 4.5
    assert abs(errors.mean()) < 0.4  # 4 / sqrt(100): no drift
    assert 0.7 < errors.std() < 1.3  # as independent hashes have


def test_chinese_and_short_texts():
    known = texts(["这家酒店离车站很近，房间也很干净，下次还会再来。", "好", "物流太慢了，等了整整两个星期才收到货。"])
    asked = texts(["这家酒店离车站很近,房间也很干净,下次还会再来!", "很好", "好", "电影很无聊", ""])
    assert near_texts(asked, known, language="zh").tolist() == [0, -1, 1, -1, -1]
    assert near_texts(texts([]), known).tolist() == []
    assert near_texts(asked, texts([])).tolist() == [-1] * 5


@pytest.mark.slow
def test_twenty_thousand_texts_take_seconds():
    rng = np.random.default_rng(3)
    known = made_up_texts(20_000, 4)
    strangers = made_up_texts(4000, 5)
    copies = [edited(known[7 * i], rng) for i in range(1000)]
    copies = [text for text in copies if jaccard(text, known[7 * copies.index(text)]) >= 0.8]
    started = time.process_time()
    found = near_texts(texts([*copies, *strangers]), texts(known), language="en")
    assert time.process_time() - started < 15
    assert (found[: len(copies)] >= 0).mean() >= 0.995
    assert (found[len(copies) :] >= 0).sum() == 0


def pictures(num, seed):
    """Smooth pictures, as photographs are: noise spread over neighbours."""
    coarse = np.random.default_rng(seed).uniform(0, 200, (num, 1, 7, 7))
    smooth = np.kron(coarse, np.ones((1, 1, 4, 4)))
    smooth[..., 1:-1, 1:-1] = (smooth[..., :-2, 1:-1] + smooth[..., 2:, 1:-1] + smooth[..., 1:-1, :-2]) / 3
    return smooth.astype(np.uint8)


def test_pictures():
    known, strangers = pictures(300, 0), pictures(200, 1)
    rng = np.random.default_rng(2)
    changed = {
        "equal": known[:20],
        "brighter": known[20:40] // 2 + 90,
        "noisy": np.clip(known[40:60] + rng.normal(0, 4, (20, 1, 28, 28)), 0, 255).astype(np.uint8),
        "moved": np.roll(known[60:80], 1, axis=3),
    }
    found = near_images(np.concatenate(list(changed.values())), known)
    assert (found == np.arange(80)).mean() >= 0.95
    assert (near_images(strangers, known) >= 0).sum() == 0
    assert near_images(np.full((1, 1, 28, 28), 9, np.uint8), known).tolist() == [-1]
    assert correlation(known[0], 255 - known[0]) < 0


def test_rows_of_a_table():
    rng = np.random.default_rng(0)
    columns = (*(Column(f"x{i}", "numeric") for i in range(6)), Column("c", "categorical", ("a", "b")))
    known = np.column_stack([rng.normal(size=(3000, 6)) * 10, rng.integers(0, 2, 3000)]).astype(np.float32)
    spread = known[:, :6].std(axis=0)
    asked = known[:500].copy()
    asked[:, :6] += rng.uniform(-0.0005, 0.0005, (500, 6)) * spread
    found = near_rows(asked, known, columns)
    assert (found == np.arange(500)).mean() >= 0.99
    asked[:, 6] = 1 - asked[:, 6]
    assert (near_rows(asked, known, columns) >= 0).sum() == 0
    far = known[:500].copy()
    far[:, 0] += 0.002 * spread[0]
    assert (near_rows(far, known, columns) >= 0).sum() == 0


def test_identities_are_exact():
    rows = np.array([[0.0, np.nan], [-0.0, np.nan], [1.0, 2.0]], dtype=np.float32)
    (codes,) = identities(contents(rows))
    assert codes.tolist() == [0, 0, 1]
    assert repeats(codes).tolist() == [False, True, False]
    (codes,) = identities(contents(texts(["a  b\n", "a b", "ab"])))
    assert codes.tolist() == [0, 0, 1]
    order = np.random.default_rng(0).permutation(50)
    parts = [str(i // 2).encode() for i in range(50)]
    assert np.array_equal(folds(parts, 4)[order], folds([parts[i] for i in order], 4))
    assert folds(parts, 4)[::2].tolist() == folds(parts, 4)[1::2].tolist()
