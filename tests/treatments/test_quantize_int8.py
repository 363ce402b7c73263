"""8-bit weights: error within half a step, the same answer whoever else is in the batch, really smaller."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from assay.access.references import _retreat
from assay.errors import ModelError, TreatmentError
from assay.models import Architecture, build
from assay.models.adapters.module import ModuleModel
from assay.models.int8 import Int8Linear, from_linear, int8_architecture, quantised_weight
from assay.models.wrapped import linear_layers
from assay.tasks import Argmax, task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments.model.quantize_int8 import PAYS_FROM, Ranges, Squares, look_at_inputs, quantize_int8
from assay.values import System


@pytest.fixture(scope="module")
def trained(small_data) -> System:
    recipe = TrainRecipe(
        Architecture("mlp", {"hidden": [32, 16]}), task_of(small_data), TrainSettings(epochs=4, batch_size=128)
    )
    return train_system(small_data, name="small", recipe=recipe)


def layer(num_inputs=300, num_outputs=200, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(num_inputs, num_outputs)


def test_weights_are_within_half_a_step():
    weight = torch.randn(50, 80)
    weight[3] = 0
    whole, scale = quantised_weight(weight)
    assert whole.dtype == torch.int8
    assert whole.abs().max() == 127
    assert ((whole.float() * scale[:, None] - weight).abs() <= scale[:, None] / 2 + 1e-7).all()


@pytest.mark.parametrize(("low", "high"), [(0.0, 4.0), (-3.0, 5.0), (-1.0, 0.0), (0.0, 0.0)])
def test_whole_number_arithmetic_is_the_formula(low, high):
    """Against the definition in float64: round and clip the inputs, multiply whole numbers, scale."""
    plain = layer()
    made = from_linear(plain, arithmetic="int8", low=low, high=high)
    inputs = torch.rand(40, 300) * (high - low) + low
    scale, zero = float(made.input_scale), int(made.input_zero_point)
    grid = torch.clamp(torch.round(inputs.double() / scale) + zero, 0, 255) - zero
    expected = (grid @ made.weight.double().T) * scale * made.weight_scale.double() + plain.bias.double()
    # torch rounds inputs in float32, so a value halfway between two steps may go the other way.
    step = scale * float(made.weight_scale.max()) * 127
    difference = (made(inputs).double() - expected).abs()
    assert difference.max() <= 2 * step + 1e-6
    assert difference.median() <= 1e-5


def test_within_the_range_error_is_that_of_seven_bits():
    plain, inputs = layer(), torch.rand(200, 300) * 3 - 1
    made = from_linear(plain, arithmetic="int8", low=-1.0, high=2.0)
    relative = (made(inputs) - plain(inputs)).std() / plain(inputs).std()
    assert 1e-4 < relative < 0.02
    nearer = from_linear(plain, arithmetic="float32", low=0, high=0)
    assert (nearer(inputs) - plain(inputs)).std() < (made(inputs) - plain(inputs)).std()


@pytest.mark.parametrize("arithmetic", ["int8", "float32"])
def test_a_row_answers_the_same_alone_and_beside_an_outlier(arithmetic):
    """Ranges fitted to each batch would fail this: one large row would coarsen the grid for all."""
    made = from_linear(layer(), arithmetic=arithmetic, low=-1.0, high=1.0)
    inputs = torch.rand(16, 300)
    crowd = torch.cat([inputs, torch.full((1, 300), 1e4)])
    assert torch.allclose(made(crowd)[:16], made(inputs), atol=1e-6)
    assert torch.allclose(made(inputs[5:6]), made(inputs)[5:6], atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rounding_does_not_hide_an_errored_row(value):
    made = from_linear(layer(8, 3), arithmetic="int8", low=0.0, high=1.0)
    inputs = torch.rand(3, 8)
    inputs[1, 2] = value
    assert torch.isnan(made(inputs)).any(dim=1).tolist() == [False, True, False]


def test_loading_other_weights_takes_effect_and_copies_are_apart():
    first = from_linear(layer(seed=1), arithmetic="int8", low=0.0, high=1.0)
    second = from_linear(layer(seed=2), arithmetic="int8", low=0.0, high=2.0)
    inputs = torch.rand(4, 300)
    before, copied = first(inputs), copy.deepcopy(first)
    first.load_state_dict(second.state_dict())
    assert torch.equal(first(inputs), second(inputs))
    assert torch.equal(copied(inputs), before)


def test_rounded_in_turn_a_layer_answers_nearer_to_what_it_did():
    """Inputs that go together: rounding each weight for itself lets errors add up, moving them on lets them cancel."""
    plain, draw = layer(), torch.Generator().manual_seed(3)
    common, own = torch.randn(2000, 1, generator=draw), torch.randn(2000, 300, generator=draw)
    inputs = common + 0.3 * own
    square = (inputs.double().T @ inputs.double() / len(inputs)).numpy()
    asked = {"arithmetic": "float32", "low": 0.0, "high": 1.0}
    nearest, in_turn = from_linear(plain, **asked), from_linear(plain, **asked, square=square)
    lost = [(made(inputs) - plain(inputs)).square().mean().sqrt().item() for made in (nearest, in_turn)]
    assert lost[1] < 0.5 * lost[0]
    assert torch.equal(nearest.weight_scale, in_turn.weight_scale)
    codes = in_turn.weight.int()
    assert codes.abs().max() <= 127
    assert (codes - nearest.weight.int()).abs().max() <= 2, "no weight goes far"


def test_mean_squares_are_of_the_layer_inputs(trained, small_data):
    rows = small_data.splits["validation"].inputs[:50]
    module = trained.model.module
    squares, ranges = Squares(len(rows)), Ranges()
    look_at_inputs(module, rows, [squares, ranges])
    found = squares.found
    with torch.no_grad():
        encoded = module.encoder(torch.from_numpy(rows)).double()
    assert list(found) == list(ranges.found)
    assert np.allclose(found["body.0"], (encoded.T @ encoded / 50).numpy())
    assert not any(part._forward_pre_hooks for part in module.modules())


def test_each_weight_for_itself_is_still_to_be_had(trained):
    made = quantize_int8(trained, rounding="nearest").model.module
    for name, plain in linear_layers(trained.model.module).items():
        assert torch.equal(made.get_submodule(name).weight, quantised_weight(plain.weight)[0])


def test_ranges_are_of_the_layer_inputs(trained, small_data):
    rows = small_data.splits["validation"].inputs[:50]
    module = trained.model.module
    seen = Ranges()
    look_at_inputs(module, rows, [seen])
    ranges = seen.found
    with torch.no_grad():
        encoded = module.encoder(torch.from_numpy(rows))
    assert ranges["body.0"] == pytest.approx((min(encoded.min().item(), 0), encoded.max().item()))
    assert ranges["head"][0] == 0  # after a ReLU
    assert not any(part._forward_pre_hooks for part in module.modules())


def test_smaller_by_what_the_types_say(trained, tmp_path):
    treated = quantize_int8(trained)
    weights = [one.weight for one in trained.model.module.modules() if isinstance(one, nn.Linear)]
    saved = sum(3 * weight.numel() - 4 * len(weight) for weight in weights)  # 3 bytes a weight, less a scale a row
    assert trained.model.num_bytes - treated.model.num_bytes == saved
    assert treated.lineage[-1].outcome["bytes_after"] == treated.model.num_bytes
    for number, system in enumerate((trained, treated)):
        state = {name: tensor.contiguous() for name, tensor in system.model.module.state_dict().items()}
        safetensors.torch.save_file(state, tmp_path / f"{number}.safetensors")
    sizes = [(tmp_path / f"{number}.safetensors").stat().st_size for number in (0, 1)]
    assert sizes[0] - sizes[1] == pytest.approx(saved, abs=600)  # headers differ a little
    assert treated.offers == {"query", "meter", "retrain"}


@pytest.mark.parametrize("arithmetic", ["auto", "int8", "float32"])
def test_answers_hardly_change(trained, arithmetic):
    treated = quantize_int8(trained, arithmetic=arithmetic)
    inputs = trained.data.splits["test"].inputs
    before, after = trained.model.outputs(inputs), treated.model.outputs(inputs)
    assert 0 < np.abs(after - before).max() < 0.25
    assert (after.argmax(1) == before.argmax(1)).mean() > 0.98
    assert set(treated.lineage[-1].outcome["arithmetic"].values()) == {"int8" if arithmetic == "int8" else "float32"}


def test_auto_takes_whole_numbers_for_large_layers_only(small_data):
    params = {"hidden": [512, 256]}
    module = build("mlp", columns=small_data.columns, num_outputs=2, params=params)
    module.fit_encoding(small_data.splits["train"])
    model = ModuleModel(module, architecture=Architecture("mlp", params))
    treated = quantize_int8(System("large", model, small_data, task_of(small_data), Argmax()))
    assert PAYS_FROM <= 512 * 256
    assert treated.lineage[-1].outcome["arithmetic"] == {"body.0": "float32", "body.2": "int8", "head": "float32"}


def test_twice_is_refused(trained):
    with pytest.raises(TreatmentError, match="no float32 linear layer"):
        quantize_int8(quantize_int8(trained))
    with pytest.raises(TreatmentError) as caught:
        quantize_int8(trained, arithmetic="int4", calibration_num=0)
    assert len(caught.value.problems) == 2


def test_a_file_cannot_name_layers_that_are_not_there(small_data):
    architecture = int8_architecture(Architecture("mlp", {"hidden": [4]}), {"body.9": "int8"})
    with pytest.raises(ModelError, match=r"no linear layer body\.9"):
        build(architecture.name, columns=small_data.columns, num_outputs=2, params=architecture.params)
    with pytest.raises(ModelError, match="lacks 'base'"):
        build("int8", columns=small_data.columns, num_outputs=2, params={})
    with pytest.raises(ModelError, match="int8, float32"):
        Int8Linear(2, 2, arithmetic="int4")


def test_reference_models_of_an_older_system_are_rounded_as_it_was(trained):
    """Before there was `rounding`, lineages did not name it, and each weight was rounded for itself."""
    nearest = quantize_int8(trained, rounding="nearest")
    (step,) = nearest.lineage
    older = replace(step, parameters={name: one for name, one in step.parameters.items() if name != "rounding"})
    assert _retreat(trained, [older]).model.digest == nearest.model.digest != quantize_int8(trained).model.digest
