import struct
import zlib

import numpy as np
import pytest

from assay.data.sources import yeast
from assay.errors import DataError
from assay.tasks import task_of


def packed(columns):
    """The one data frame as R writes it, among other bytes of the file."""
    body = b"X\n" + struct.pack(">II", 0x313, 117)
    for values in columns:
        kind, numbers = (10, values.astype(">i4")) if values.dtype.kind == "i" else (14, values.astype(">f8"))
        body += struct.pack(">II", kind, len(values)) + numbers.tobytes()
    return bytes(yeast._OFFSET) + struct.pack(">I", len(body)) + zlib.compress(body)


def made(num=yeast.NUM_ROWS):
    rng = np.random.default_rng(0)
    labels = [(rng.random(num) < 0.3).astype(int) for _ in range(yeast.NUM_LABELS)]
    return [*labels, *rng.normal(size=(yeast.NUM_FEATURES, num)).round(2)]  # fits in its place when packed


def test_labels_and_features_are_told_apart(monkeypatch):
    columns = made()
    monkeypatch.setattr(yeast, "load_files", lambda source, **_: {"Rdata.rdb": packed(columns)})
    data = yeast.load_yeast()
    assert task_of(data).num_outputs == 14
    assert len(data.columns) == 103
    assert sum(split.labels[:, 3].sum() for split in data.splits.values()) == columns[3].sum()
    train = data.splits["train"]
    assert np.allclose(train.inputs[:, 5], columns[14 + 5][train.rows - 1], atol=1e-6)


def test_another_layout_is_refused():
    with pytest.raises(DataError, match="has 0 columns"):
        yeast._columns(packed(made(5)))
    with pytest.raises(DataError, match="has 20 columns"):
        yeast._columns(packed(made()[:20]))


@pytest.mark.slow
def test_the_real_set_has_the_published_figures():
    try:
        data = yeast.load_yeast(fetch=True)
    except DataError as error:
        pytest.skip(f"no registry: {error.problems[0].what}")
    labels = np.concatenate([split.labels for split in data.splits.values()])
    assert labels.shape == (2417, 14)
    assert labels.sum() / 2417 == pytest.approx(4.237, abs=5e-4)  # Tsoumakas & Katakis 2007, table 3
    assert len(np.unique(labels, axis=0)) == 198
