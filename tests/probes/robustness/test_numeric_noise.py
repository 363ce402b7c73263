"""A model that answers at random is named, a sound one moves by rounding alone, small effects are taken back."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from assay import engine, matrix
from assay.models.adapters.module import ModuleModel
from assay.observe import Workspace
from assay.probes.robustness.numeric_noise import THREADS, biggest
from assay.tasks import Argmax, task_of
from assay.values import System
from support import KnownModel


class Net(torch.nn.Module):
    def __init__(self, *, random=False, drop=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.random = random
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 64), torch.nn.ReLU(), torch.nn.Dropout(drop), torch.nn.Linear(64, 2)
        )

    def forward(self, rows):
        rows = (rows - 50) / 30
        if self.random:  # dropout that evaluation mode does not switch off
            rows = torch.nn.functional.dropout(rows, 0.3, training=True)
        return self.layers(rows)


def system_of(data, module, name="net", *, training=False):
    module.train(training)
    return System(name, ModuleModel(module, outputs_are="logits"), data, task_of(data), Argmax())


def audited(system, *more):
    return engine.audit(system, probes=["numeric_noise", *more], workspace=Workspace(key=b"key", num_draws=100))


def by_key(audit):
    return {(one.metric, one.slice): one for one in audit.measurements}


def test_a_sound_model_moves_by_rounding_and_a_random_one_is_named(small_data):
    sound = by_key(audited(system_of(small_data, Net())))
    assert sound["largest_output_change", "run=again"].value == 0
    for where in ("batch=1", "batch=16", f"threads={THREADS}"):
        assert sound["largest_output_change", where].value < 1e-4
        assert sound["numeric_flip_rate", where].value == 0
    coarse = sound["largest_output_change", "precision=bfloat16"]
    assert 1e-4 < coarse.value < 1  # eight bits of mantissa
    assert sound["parts_left_training", ""].value == 0
    torch.manual_seed(1)
    loose = by_key(audited(system_of(small_data, Net(random=True))))
    again = loose["largest_output_change", "run=again"]
    assert again.value > 0.01
    assert "something random runs inside the model" in again.reason
    assert loose["numeric_flip_rate", "run=again"].low > 0


def test_dropout_left_on_is_told_put_right_and_left_as_it_was(small_data):
    module = Net(drop=0.5)
    system = system_of(small_data, module, training=True)
    found = by_key(audited(system))
    assert found["parts_left_training", ""].value == 6
    assert "6 of 6 parts were left in training mode" in found["parts_left_training", ""].reason
    assert found["largest_output_change", "run=again"].value == 0
    assert all(part.training for part in module.modules())


def test_threads_are_as_before_and_a_black_box_says_what_it_cannot_do(small_data):
    before = torch.get_num_threads()
    box = System("box", KnownModel(), small_data, task_of(small_data), Argmax())
    audit = audited(box)
    found = by_key(audit)
    assert found["largest_output_change", f"threads={THREADS}"].value is None
    assert "no module" in found["numeric_flip_rate", "precision=bfloat16"].reason
    assert ("parts_left_training", "") not in found
    num = found["numeric_flip_rate", "batch=1"].attempted
    assert audit.ledger["numeric_noise"] == 4 * num
    assert torch.get_num_threads() == before


def test_rows_that_err_once_are_changed_and_twice_are_not(small_data):
    class Flaky(KnownModel):
        def outputs(self, inputs):
            found = super().outputs(inputs)
            if len(inputs) == 1:
                found[:] = np.nan
            found[inputs[:, 0] > 80] = np.nan
            return found

    found = by_key(audited(System("flaky", Flaky(), small_data, task_of(small_data), Argmax())))
    always = float((small_data.splits["test"].inputs[:, 0] > 80).mean())
    again, single = (found["numeric_flip_rate", where] for where in ("run=again", "batch=1"))
    assert again.value == 0
    assert again.errored == pytest.approx(always * again.attempted, abs=30)
    assert single.value == pytest.approx(1 - again.errored / again.attempted)


def test_a_difference_that_noise_can_make_is_not_called_one(small_data):
    """Two systems that differ on a few rows, one of which answers at random on more rows than that."""
    pair = [System(name, KnownModel(slope), small_data, task_of(small_data), Argmax())
            for name, slope in (("one", 0.05), ("two", 0.005))]  # fmt: skip
    workspace = Workspace(key=b"key", num_draws=200)
    audits = [engine.audit(one, probes=["accuracy", "numeric_noise"], workspace=workspace) for one in pair]
    key = ("accuracy", "accuracy", "")
    assert matrix.compare(audits, workspace=workspace).cells["two"][key].effect.verdict == "worse"

    def noisy(audit):
        found = [
            replace(one, value=0.6, low=0.5, high=0.7) if one.slice == "run=again" and "flip" in one.metric else one
            for one in audit.measurements
        ]
        return replace(audit, measurements=tuple(found))

    effect = matrix.compare([audits[0], noisy(audits[1])], workspace=workspace).cells["two"][key].effect
    assert effect.verdict == "no detectable change"
    assert "numeric noise of 0.6" in effect.reason


def test_the_biggest_change_leaves_errors_out():
    first = np.array([[0.0, 1.0], [np.nan, 2.0]])
    assert biggest(first, first + 0.5) == 0.5
    assert biggest(first, np.full((2, 2), np.nan)) == 0.0
