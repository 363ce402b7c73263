import importlib.util

import numpy as np
import pytest

from assay.data import Splits, load_diabetes, load_wine, sklearn_sets
from assay.errors import DataError, MissingExtraError

has_sklearn = pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="needs the sklearn extra")


def joined(data, values):
    """Some array of all splits, in source order."""
    rows = np.concatenate([split.rows for split in data.splits.values()])
    return np.concatenate([values(split) for split in data.splits.values()])[np.argsort(rows)]


@pytest.mark.slow  # imports scikit-learn
def test_diabetes_is_scikit_learns():
    datasets = pytest.importorskip("sklearn.datasets")
    data, theirs = load_diabetes(), datasets.load_diabetes(scaled=False)
    inputs = joined(data, lambda split: split.inputs)
    sex = list(theirs.feature_names).index("sex")
    expected = theirs.data.astype(np.float32)
    expected[:, sex] -= 1  # codes 0 and 1 of the categories "1" and "2"
    assert [column.name for column in data.columns] == list(theirs.feature_names)
    assert np.array_equal(inputs, expected)
    assert np.array_equal(joined(data, lambda split: split.labels), theirs.target.astype(np.float32))
    assert np.array_equal(joined(data, lambda split: split.groups.codes)[:, 0], expected[:, sex])
    assert data.group_columns[0].categories == ("1", "2")
    assert [len(split) for split in data.splits.values()] == [319, 35, 88]


@pytest.mark.slow
def test_wine_is_scikit_learns():
    datasets = pytest.importorskip("sklearn.datasets")
    data, theirs = load_wine(), datasets.load_wine()
    assert [column.name for column in data.columns] == list(theirs.feature_names)
    assert np.array_equal(joined(data, lambda split: split.inputs), theirs.data.astype(np.float32))
    assert np.array_equal(joined(data, lambda split: split.labels), theirs.target)
    assert data.classes == tuple(theirs.target_names)
    assert data.positive is None


@has_sklearn
def test_wine_has_no_groups_and_every_class_in_every_split():
    data = load_wine()
    assert data.splits["test"].groups.codes.shape == (36, 0)
    assert sum(np.bincount(split.labels, minlength=3) for split in data.splits.values()).tolist() == [59, 71, 48]
    for split in data.splits.values():
        assert np.bincount(split.labels, minlength=3).min() >= 4


@has_sklearn
@pytest.mark.parametrize(
    ("load", "digest"),
    [
        (load_diabetes, "e15bbff32f81a521dbf9cc99371d5a27ac8d1c1608c14f7328271a9f33dea1fd"),
        (load_wine, "5ddfee885166fbbbe60c6a3418ff8760428b05de91bfd81a55b58329561c1f55"),
    ],
)
def test_same_seed_same_digest(load, digest):
    assert load().digest == digest
    assert load(splits=Splits(seed=1)).digest != digest


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for load in (load_diabetes, load_wine):
        with pytest.raises(MissingExtraError, match=r"assay\[sklearn\]"):
            load()


@pytest.mark.parametrize("content", [None, b"not gzip", b"\x1f\x8b\x08", "gzip"])
def test_other_files_are_refused(monkeypatch, tmp_path, content):
    import gzip
    from types import SimpleNamespace

    folder = tmp_path / "datasets" / "data"
    folder.mkdir(parents=True)
    if content is not None:
        content = gzip.compress(b"1 2 3") if content == "gzip" else content
        (folder / "diabetes_data_raw.csv.gz").write_bytes(content)
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(sklearn_sets.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(DataError, match=r"cannot be read|damaged or of another release"):
        load_diabetes()
