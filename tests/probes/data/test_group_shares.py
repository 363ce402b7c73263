import numpy as np
import pytest

from assay.probes.data.group_shares import group_shares
from assay.stats import make_draws
from assay.values import Column, Groups

COLUMNS = (Column("sex", "categorical", ("f", "m")), Column("origin", "categorical", ("a", "b", "c")))


def test_equals_counting_by_hand():
    rng = np.random.default_rng(0)
    codes = np.column_stack([rng.integers(-1, 2, size=50), rng.integers(0, 2, size=50)])
    draws = make_draws(b"key", "split", list(codes.T), num_draws=50)
    found = {(one.metric, one.slice): one for one in group_shares(Groups(codes, COLUMNS), draws)}
    sexes = list(codes[:, 0])
    assert found["missing_share", "sex"].value == sexes.count(-1) / 50
    assert found["group_share", "sex=m"].value == sexes.count(1) / 50
    assert found["group_share", "origin=c"].value == 0
    assert found["group_share", "origin=c"].high < 0.1
    total = sum(found["group_share", f"sex={name}"].value for name in "fm") + found["missing_share", "sex"].value
    assert total == pytest.approx(1)
    assert {one.attempted for one in found.values()} == {50}
