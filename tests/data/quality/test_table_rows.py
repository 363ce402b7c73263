"""Equal and near rows of tables in blocks: the same as comparing every pair, also beyond one block."""

import numpy as np
import pytest

from assay.data.quality.duplicates import copies_of_train, near_of_train
from assay.data.quality.identity import contents, identities, labelled, repeats
from assay.data.quality.near_table import near_rows
from assay.data.quality.table_rows import BLOCK, copies, first_of_each, row_hashes
from assay.values import Column, Data, Groups, Split

COLUMNS = (Column("x", "numeric"), Column("y", "numeric"), Column("job", "categorical", ("a", "b", "c")))


def planted(num_known, num_rows, seed=0):
    """Rows of which many are copies, some with another zero or NaN, some nearly copies, some with another label."""
    rng = np.random.default_rng(seed)
    known = np.round(rng.normal(size=(num_known, 3)), 1).astype(np.float32)
    known[:, 2], known[rng.random(num_known) < 0.05, 0] = rng.integers(-1, 3, num_known), np.nan
    rows = known[rng.integers(0, num_known, num_rows)] if num_known else np.zeros((num_rows, 3), np.float32)
    moved = rng.random(num_rows) < 0.6
    rows[moved, 0] += (rng.normal(size=moved.sum()) * 0.0008).astype(np.float32)
    rows[::7] *= np.float32(1.0)
    rows[rows == 0] = -0.0
    sides = [
        Split(side, rng.integers(0, 2, len(side)), Groups(np.zeros((len(side), 0), np.int16), ()), np.arange(len(side)))
        for side in (known, rows)
    ]
    return Data("made", COLUMNS, "label", (), {"train": sides[0], "test": sides[1]})


@pytest.mark.parametrize("sizes", [(300, 200), (BLOCK + 50, 90), (40, BLOCK + 3)])
def test_hashes_say_what_the_contents_say(sizes):
    data = planted(*sizes)
    train, test = data.splits["train"], data.splits["test"]
    for mine, theirs, own, other in (
        (test.inputs, train.inputs, None, None),
        (test.inputs, train.inputs, test.labels, train.labels),
    ):
        both = None if own is None else (own, other)
        read = contents if own is None else labelled
        sides = [(mine,), (theirs,)] if own is None else [(mine, own), (theirs, other)]
        codes, known = identities(*(read(*side) for side in sides))
        assert 0 < np.isin(codes, known).mean() < 1 or own is not None
        assert np.array_equal(copies(mine, theirs, both), np.isin(codes, known))
    codes = identities(contents(train.inputs))[0]
    assert np.array_equal(first_of_each(row_hashes(train.inputs)), np.flatnonzero(~repeats(codes)))
    assert np.array_equal(copies_of_train(train, test), copies(test.inputs, train.inputs, (test.labels, train.labels)))


def test_near_rows_are_those_that_all_pairs_give():
    """No number of a table of two is missed by all four grids but in corners: compared with every pair."""
    data = planted(900, 400, seed=1)
    train, test = (data.splits[name].inputs for name in ("train", "test"))
    found = near_rows(test, train, COLUMNS)
    spread = np.nanstd(train[:, :2].astype(np.float64), axis=0)
    apart = np.abs(test[:, None, :2].astype(np.float64) - train[None, :, :2]) / spread
    pairs = (apart <= 0.001).all(axis=2) & (test[:, None, 2] == train[None, :, 2])
    hit = found >= 0
    assert pairs[np.flatnonzero(hit), found[hit]].all(), "every pair that is told is near"
    assert hit.sum() >= 0.98 * pairs.any(axis=1).sum() > 100
    # in blocks as in one: the same rows many times over give the same answers
    many = near_rows(np.tile(test, (BLOCK // 400 + 2, 1)), train, COLUMNS)
    assert np.array_equal(many, np.tile(found, BLOCK // 400 + 2))


def test_no_rows_and_no_known_rows():
    for sizes in ((30, 0), (0, 30)):
        data = planted(*sizes)
        assert not copies_of_train(data.splits["train"], data.splits["test"]).any()
        assert not near_of_train(data, "test").any()


def test_a_shared_hash_alone_makes_no_copy(monkeypatch):
    """All hashes equal: rows are compared cell by cell, so strangers are never told to be copies."""
    monkeypatch.setattr("assay.data.quality.table_rows.keyed_hash", lambda rows, key: np.zeros_like(rows))
    rows = np.arange(6.0, dtype=np.float32).reshape(3, 2)
    assert copies(rows, rows[:1] + 10).tolist() == [False] * 3
    assert copies(rows, rows[2:]).tolist() == [False, False, True]
