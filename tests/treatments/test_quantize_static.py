"""By ONNX Runtime: the same numbers in float32, nearly the same in 8 bits, faster, smaller; and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from assay.errors import ModelError, TreatmentError
from assay.models import Architecture
from assay.models.adapters.module import ModuleModel
from assay.models.by_onnxruntime import ByOnnxRuntime, graph_of, without_weights
from assay.models.store import load_system, save_system
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments.model.quantize_static import quantize_static
from assay.treatments.model.run_by_onnxruntime import run_by_onnxruntime
from assay.values import System
from support import small_images, small_texts

pytest.importorskip("onnxruntime")


def train(name: str, params: dict, data, epochs: int = 2) -> System:
    settings = TrainSettings(epochs=epochs, batch_size=64)
    return train_system(data, name=name, recipe=TrainRecipe(Architecture(name, params), task_of(data), settings))


@pytest.fixture(scope="module")
def small(small_data) -> System:
    return train("mlp", {"hidden": [32, 16]}, small_data)


@pytest.fixture(scope="module")
def pictures() -> System:
    return train("cnn_vgg", {"widths": [16, 32], "hidden": 64}, small_images(600, size=16))


@pytest.mark.slow  # torch's exporter takes seconds to load
def test_the_graph_is_a_weight_and_its_session_is_made_anew(small):
    """One export; everything else about the module that holds the graph."""
    content = graph_of(small.model, small.data.splits["train"].inputs[:1])
    assert graph_of(small.model, small.data.splits["train"].inputs[:1]) is content
    assert b".py" not in content  # no file names, so that the digest does not depend on where it was made
    treated = run_by_onnxruntime(small)
    inputs = small.data.splits["test"].inputs
    np.testing.assert_allclose(treated.model.outputs(inputs), small.model.outputs(inputs), atol=1e-5)
    assert treated.model.outputs(inputs[:0]).shape == (0, 2)
    assert treated.offers == {"query", "meter", "retrain"}
    module = treated.model.module
    copied = copy.deepcopy(module)
    assert copied._ready is None
    rows = torch.from_numpy(inputs[:5])
    assert torch.equal(copied(rows), module(rows))
    other = quantize_static(small, layers="all").model.module
    with pytest.raises(RuntimeError, match="size mismatch"):
        module.load_state_dict(other.state_dict())
    fresh = ByOnnxRuntime(nn.Identity(), num_bytes=len(other.graph))
    with pytest.raises(ModelError, match=r"damaged|cannot be run"):
        fresh(rows)
    fresh.load_state_dict(other.state_dict())
    assert torch.equal(fresh(rows), other(rows))
    broken = copy.deepcopy(other)
    broken.graph[200:260] = 255
    broken._ready = None
    with pytest.raises(ModelError):
        broken(rows)
    with pytest.raises(ModelError, match="ONNX Runtime stopped"):
        module(rows[:, :2])


def test_what_is_refused(small):
    with pytest.raises(TreatmentError) as caught:
        quantize_static(small, layers="some", rounding="up", calibration_num=0)
    assert len(caught.value.problems) == 3


@pytest.mark.slow
def test_what_is_refused_after_a_look_at_the_module(small):
    with pytest.raises(TreatmentError, match=r"no layer body\.9\. Allowed: body\.0, body\.2, head"):
        quantize_static(small, layers=["body.9", "head"])

    class Branches(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return rows[:, :2] if rows.sum() > 0 else -rows[:, :2]

    odd = ModuleModel(Branches(), architecture=Architecture("mlp", {}))
    with pytest.raises(TreatmentError, match="cannot be exported"):
        run_by_onnxruntime(replace(small, model=odd))


def test_a_reader_keeps_what_reads():
    data = small_texts(60)
    module = TrainRecipe(Architecture("gru", {"dim": 4, "num_hidden": 4, "num_grams": 20}), task_of(data)).make_module(
        data.splits["train"], data, 0
    )
    before = module.encode(data.splits["test"].inputs)
    reader = without_weights(module)
    assert torch.equal(reader.encode(data.splits["test"].inputs), before)
    assert list(reader.parameters()) == []
    assert list(without_weights(nn.Linear(2, 2)).state_dict()) == []


@pytest.mark.slow
def test_pictures_get_smaller_and_answer_alike(pictures, tmp_path):
    treated = quantize_static(pictures)
    outcome = treated.lineage[-1].outcome
    assert set(outcome["arithmetic"].values()) == {"int8", "float32"}
    assert outcome["arithmetic"]["body.0"] == "float32"  # one channel: whole numbers are slower
    assert outcome["bytes_after"] == treated.model.num_bytes < 0.35 * pictures.model.num_bytes
    inputs = pictures.data.splits["test"].inputs
    before, after = pictures.model.outputs(inputs), treated.model.outputs(inputs)
    assert 0 < np.abs(after - before).max() < 0.1 * np.abs(before).max()
    assert (after.argmax(1) == before.argmax(1)).mean() > 0.98
    again = quantize_static(pictures, layers="measured")
    named = again.lineage[-1].parameters["layers"]
    assert isinstance(named, list)
    assert quantize_static(pictures, layers=named).digest == again.digest
    assert quantize_static(pictures, layers=[]).lineage[-1].outcome["arithmetic"] == dict.fromkeys(
        outcome["arithmetic"], "float32"
    )
    loaded = load_system(save_system(again, tmp_path / "s"), again.data)
    np.testing.assert_array_equal(loaded.model.outputs(inputs), again.model.outputs(inputs))


@pytest.mark.slow
def test_compensated_weights_answer_nearer_on_rows_that_calibrated_nothing(pictures):
    """Both the rounding and the finer grid; the same bytes, the same graph but for numbers."""
    inputs = pictures.data.splits["test"].inputs
    exact = pictures.model.outputs(inputs)
    made = {one: quantize_static(pictures, rounding=one) for one in ("compensated", "nearest")}
    errors = {name: float(np.square(one.model.outputs(inputs) - exact).mean()) for name, one in made.items()}
    assert errors["compensated"] < 0.5 * errors["nearest"]
    assert abs(made["compensated"].model.num_bytes - made["nearest"].model.num_bytes) < 64
    assert made["nearest"].lineage[-1].parameters["rounding"] == "nearest"
    again = quantize_static(pictures)
    assert again.digest == made["compensated"].digest
    rows = inputs[:20]
    alone = np.concatenate([again.model.outputs(rows[at : at + 1]) for at in range(20)])
    np.testing.assert_allclose(alone, again.model.outputs(rows), atol=1e-4)


@pytest.mark.slow
def test_the_runtime_alone_is_faster_than_torch(pictures):
    """What `run_by_onnxruntime` declares to move: the fastest of many calls of one row, in turns."""
    import time

    models = [pictures.model, run_by_onnxruntime(pictures).model]
    row = pictures.data.splits["test"].inputs[:1]
    best = [np.inf, np.inf]
    for _ in range(60):
        for place, model in enumerate(models):
            began = time.perf_counter()
            model.outputs(row)
            best[place] = min(best[place], time.perf_counter() - began)
    assert best[1] < best[0]


@pytest.mark.slow
def test_recurrent_layers_read_each_row_to_its_own_end():
    data = small_texts(300)
    system = train("lstm", {"dim": 8, "num_hidden": 8, "num_layers": 2, "vocab_size": 60}, data, epochs=1)
    treated = run_by_onnxruntime(system)
    inputs = data.splits["test"].inputs[:40]
    expected = system.model.outputs(inputs)
    np.testing.assert_allclose(treated.model.outputs(inputs), expected, atol=1e-5)
    one_by_one = np.concatenate([treated.model.outputs(inputs[place : place + 1]) for place in range(40)])
    np.testing.assert_allclose(one_by_one, expected, atol=1e-5)


@pytest.mark.peer
def test_as_near_to_float_as_onnxruntimes_own_quantiser(pictures, tmp_path):
    """The same rows calibrate both. Theirs uses all 8 bits of an input's range, ours 7, so that nothing saturates."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    from assay.models.adapters.onnx import load_onnx

    inputs = pictures.data.splits["validation"].inputs
    (tmp_path / "f.onnx").write_bytes(graph_of(pictures.model, inputs[:3]))

    class Rows(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter([{"inputs": inputs.astype(np.float32)}])

        def get_next(self):
            return next(self.left, None)

    quantization.quantize_static(tmp_path / "f.onnx", tmp_path / "q.onnx", Rows(), per_channel=True)
    test = pictures.data.splits["test"].inputs
    exact = pictures.model.outputs(test)
    theirs = np.abs(load_onnx(tmp_path / "q.onnx", outputs_are="logits").outputs(test) - exact).std()
    ours = np.abs(quantize_static(pictures, layers="all", calibration_num=1000).model.outputs(test) - exact).std()
    assert ours < 2.5 * theirs
