"""Reweighing weights equal those of AIF360 on the same table."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest

from assay.treatments.data.reweigh_groups import balancing_factors

pytestmark = pytest.mark.peer


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_aif360(seed: int) -> None:
    pandas = pytest.importorskip("pandas")
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at import, of packages that are not ours
        pytest.importorskip("aif360")
        from aif360.algorithms.preprocessing import Reweighing
        from aif360.datasets import BinaryLabelDataset
    logging.disable(logging.NOTSET)
    rng = np.random.default_rng(seed)
    sex, label, before = rng.integers(0, 2, 500), (rng.random(500) < 0.3).astype(int), rng.uniform(0.5, 2, 500)
    table = pandas.DataFrame({"sex": sex, "label": label, "weight": before})
    names = {"label_names": ["label"], "protected_attribute_names": ["sex"], "instance_weights_name": "weight"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = BinaryLabelDataset(df=table, **names)
        peer = Reweighing(unprivileged_groups=[{"sex": 0}], privileged_groups=[{"sex": 1}]).fit_transform(dataset)
    ours = before * balancing_factors(sex, label, before)
    np.testing.assert_allclose(ours, peer.instance_weights, rtol=1e-12)
