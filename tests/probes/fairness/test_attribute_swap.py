from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as reference

from assay import engine
from assay.digests import digest_of
from assay.observe import Workspace
from assay.tasks import Argmax, task_of
from assay.values import Groups, System
from support import KnownModel


class Reads(KnownModel):
    """Gives everybody of one sex more, by so much log odds."""

    def __init__(self, bonus):
        super().__init__()
        self.bonus, self.digest = bonus, digest_of(["reads", bonus])

    def outputs(self, inputs):
        told = super().outputs(inputs)
        told[:, 1] += self.bonus * inputs[:, 3]
        return told


class ByGroup:
    """A decision rule that asks more of one group, whatever the model reads."""

    digest, needs_groups = digest_of("by group"), True

    def decide(self, probabilities, inputs, groups):
        return (probabilities[:, 1] > np.where(groups.codes[:, 1] == 0, 0.5, 0.6)).astype(int)

    def to_json(self):
        return {"name": "by group"}


def measured(model, data, decision=None):
    system = System("box", model, data, task_of(data), decision or Argmax())
    found = engine.audit(system, probes=["attribute_swap"], workspace=Workspace(key=b"owner", num_draws=100))
    return {(one.metric, one.slice): one for one in found.measurements}, found


def test_a_model_that_does_not_read_the_column_never_flips(small_data):
    found, audit = measured(KnownModel(), small_data)
    num = len(small_data.splits["test"])
    flips = found["swap_flip_rate", "sex"]
    assert (flips.value, flips.low, flips.attempted) == (0.0, 0.0, num)
    assert flips.high == pytest.approx(reference.binomtest(0, num).proportion_ci(0.95).high)
    assert found["swap_mean_change", "sex"].value == 0.0
    assert found["swap_shift", "sex=Male"].value == 0.0
    assert audit.ledger["attribute_swap"] == num
    assert not [where for _, where in found if "race" in where]  # no feature: it cannot flip anything


def test_a_model_that_reads_the_column_is_found_and_measured_as_by_hand(small_data):
    found, _ = measured(Reads(1.5), small_data)
    inputs = small_data.splits["test"].inputs
    other = inputs.copy()
    other[:, 3] = 1 - inputs[:, 3]
    before, after = (Reads(1.5).outputs(rows).astype(np.float64) for rows in (inputs, other))
    flips = before.argmax(axis=1) != after.argmax(axis=1)
    one = found["swap_flip_rate", "sex"]
    assert one.value == pytest.approx(flips.mean())
    exact = reference.binomtest(int(flips.sum()), len(flips)).proportion_ci(0.95)
    assert (one.low, one.high) == (pytest.approx(exact.low), pytest.approx(exact.high))
    assert one.low > 0
    chance = [1 / (1 + np.exp(told[:, 0] - told[:, 1])) for told in (before, after)]
    change = found["swap_mean_change", "sex"]
    assert change.value == pytest.approx(np.abs(chance[1] - chance[0]).mean(), rel=1e-5)
    assert change.low < change.value < change.high
    women = inputs[:, 3] == 0
    shift = found["swap_shift", "sex=Male"]
    assert shift.value == pytest.approx((chance[1] - chance[0])[women].mean(), rel=1e-5)
    assert shift.low > 0 > found["swap_shift", "sex=Female"].high
    assert shift.attempted == women.sum()


def test_a_decision_rule_that_reads_a_column_is_found_though_the_model_does_not(small_data):
    found, audit = measured(KnownModel(), small_data, ByGroup())
    assert found["swap_flip_rate", "race"].low > 0
    assert found["swap_flip_rate", "sex"].value == 0
    assert audit.ledger["attribute_swap"] == len(small_data.splits["test"])


def test_missing_values_are_left_out_and_without_a_shared_column_there_is_a_reason(small_data):
    test = small_data.splits["test"]
    codes = test.groups.codes.copy()
    codes[:40, 0] = -1
    splits = {**small_data.splits, "test": replace(test, groups=Groups(codes, test.groups.columns))}
    found, _ = measured(Reads(1.0), replace(small_data, splits=splits))
    assert found["swap_flip_rate", "sex"].attempted == len(test) - 40
    only = {
        name: replace(one, groups=Groups(one.groups.codes[:, 1:], one.groups.columns[1:]))
        for name, one in small_data.splits.items()
    }
    found, _ = measured(KnownModel(), replace(small_data, splits=only, group_columns=small_data.group_columns[1:]))
    assert found["swap_flip_rate", ""].value is None
    assert found["swap_flip_rate", ""].reason.startswith("no group column is a feature")
