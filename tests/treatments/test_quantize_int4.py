"""Linear weights in 4 bits: really smaller, near, and nearer with compensation; what is refused."""

from __future__ import annotations

import pytest

from assay.errors import TreatmentError
from assay.models import Architecture
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments.model.quantize_int4 import quantize_int4
from assay.values import System

pytest.importorskip("onnxruntime")


def trained(data, hidden) -> System:
    settings = TrainSettings(epochs=4, batch_size=128)
    return train_system(
        data, name="s", recipe=TrainRecipe(Architecture("mlp", {"hidden": hidden}), task_of(data), settings)
    )


@pytest.mark.slow  # torch's exporter takes seconds to load
def test_a_seventh_of_the_bytes_and_nearer_with_compensation(small_data):
    system = trained(small_data, [256, 256])
    inputs = small_data.splits["test"].inputs
    before = system.model.outputs(inputs)
    found = {}
    for rounding in ("nearest", "compensated"):
        treated = quantize_int4(system, rounding=rounding)
        outcome = treated.lineage[-1].outcome
        assert outcome["bytes_after"] == treated.model.num_bytes < 0.2 * system.model.num_bytes
        assert outcome["arithmetic"] == {"body.0": "float32", "body.2": "int8", "head": "float32"}
        assert all(0.03 < error < 0.15 for error in outcome["relative_error"].values())
        after = treated.model.outputs(inputs)
        found[rounding] = float(((after - before) ** 2).mean() / (before**2).mean())
        assert (after.argmax(1) == before.argmax(1)).mean() > 0.97
    assert found["compensated"] < 0.8 * found["nearest"]
    wide = quantize_int4(system, group_size=128)
    assert wide.model.num_bytes < treated.model.num_bytes
    assert treated.offers == {"query", "meter", "retrain"}


def test_what_is_refused_before_any_work(small_data):
    system = trained(small_data, [4])
    with pytest.raises(TreatmentError) as caught:
        quantize_int4(system, group_size=33, rounding="up", arithmetic="int2", calibration_num=0)
    assert len(caught.value.problems) == 4
