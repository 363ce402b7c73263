"""What is exported in another form answers as the module does, for odd rows too."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.models.exportable import OnnxTable
from assay.models.mlp import TableEncoder
from support import COLUMNS, make_split


@pytest.mark.parametrize("num_bins", [0, 4])
@pytest.mark.parametrize("kind", ["plain", "missing", "heavy"])
def test_rows_are_encoded_alike(kind, num_bins):
    train = make_split(300, 1, 1).inputs.copy()
    if kind == "missing":
        train[5, 0] = np.nan
    if kind == "heavy":
        train[7, 1] = 1e6
    encoder = TableEncoder(COLUMNS, num_bins=num_bins)
    encoder.fit(train)
    made = OnnxTable(encoder)
    assert (made.has_missing, made.has_logs) == (kind == "missing", kind == "heavy")
    rows = make_split(60, 2, 1).inputs.copy()
    rows[:8, 2] = [-1, 3, 7, np.nan, 1.5, 0.999999, -0.0, 2.0000002]
    rows[8, 3], rows[9, 0], rows[10, 1] = np.nan, np.nan, np.nan
    given = torch.from_numpy(rows)
    found, expected = made(given), encoder(given)
    numbers = ~torch.isnan(expected)
    assert torch.equal(torch.isnan(found).any(dim=1), torch.isnan(expected).any(dim=1))
    np.testing.assert_allclose(found[numbers & ~torch.isnan(found)], expected[numbers & ~torch.isnan(found)], atol=1e-6)
    slots = len(encoder.slot_code)
    assert torch.equal(found[:, -slots:], expected[:, -slots:])
