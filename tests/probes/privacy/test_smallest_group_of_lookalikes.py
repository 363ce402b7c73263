"""Rows that nobody resembles are found, however many columns tell them apart."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from assay import engine
from assay.data.quality.lookalikes import classes, num_alike, quasi_identifiers
from assay.observe import Workspace
from assay.probes.privacy.smallest_group_of_lookalikes import of_rows
from assay.tasks import Argmax, task_of
from assay.values import System
from support import KnownModel


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_brute_force(seed):
    rng = np.random.default_rng(seed)
    rows = rng.integers(-1, 3, (200, 4)).astype(float)
    rows[rng.random(200) < 0.2, 0] = np.nan
    told = [tuple("missing" if np.isnan(one) else one for one in row) for row in rows.tolist()]
    sizes = Counter(told)
    assert num_alike(rows).tolist() == [sizes[one] for one in told]
    codes = classes(rows)
    assert len(np.unique(codes)) == len(sizes) == len({*zip(told, codes.tolist(), strict=True)})
    smallest, unique, risk = (one.value for one in of_rows(rows, 0.95))
    assert smallest == min(sizes.values())
    assert unique == pytest.approx(sum(size == 1 for size in sizes.values()) / 200)
    assert risk == pytest.approx(len(sizes) / 200)  # the mean of 1 / E is the number of classes over n


def audited(data):
    system = System("known", KnownModel(), data, task_of(data), Argmax())
    audit = engine.audit(
        system, probes=["smallest_group_of_lookalikes"], workspace=Workspace(key=b"owner", num_draws=20)
    )
    return {one.metric: one for one in audit.measurements}


def test_one_who_stands_out_is_found_and_a_crowd_is_not(small_data):
    train = small_data.splits["train"]
    inputs, codes = train.inputs * 0 + np.float32(1), train.groups.codes * 0
    groups = replace(train.groups, codes=codes)
    crowd = replace(train, inputs=inputs, groups=groups)
    clean = audited(replace(small_data, splits={**small_data.splits, "train": crowd}))
    assert clean["smallest_group_of_lookalikes"].value == len(train)
    assert clean["unique_row_share"].value == 0
    inputs = inputs.copy()
    inputs[7, 0] = 99  # the only one of that age
    planted = audited(replace(small_data, splits={**small_data.splits, "train": replace(crowd, inputs=inputs)}))
    assert planted["smallest_group_of_lookalikes"].value == 1
    assert planted["unique_row_share"].value == pytest.approx(1 / len(train))
    assert planted["lookalike_risk"].value == pytest.approx(2 / len(train))


def test_which_columns_and_what_when_there_are_none(small_data):
    assert quasi_identifiers(small_data) == ("sex", "race", "age")
    assert quasi_identifiers(replace(small_data, source={"quasi_identifiers": ["hours"]})) == ("hours",)
    assert quasi_identifiers(replace(small_data, source={"quasi_identifiers": "hours"})) == ("hours",)
    mistyped = audited(replace(small_data, source={"quasi_identifiers": ["hours", "agee"]}))
    assert {one.value for one in mistyped.values()} == {None}  # fewer columns would look safer than the data are
    assert mistyped["unique_row_share"].reason == "declared as quasi-identifiers, and no columns: agee"
    nobody = replace(small_data, group_columns=(), columns=small_data.columns[1:3])
    assert quasi_identifiers(nobody) == ()
    (reason,) = {one.reason for one in of_rows(np.zeros((9, 0)), 0.95)}
    assert reason == "no column is a quasi-identifier: declare them in source"
