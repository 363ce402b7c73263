"""Graphs with layers in 8 bits, against the same arithmetic written out in float64; graphs are made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from assay.errors import ModelError
from assay.models.adapters.onnx import session_of
from assay.models.by_onnxruntime import ByOnnxRuntime
from assay.models.graph_layers import input_ranges, layers_of, pays
from assay.models.quantised_graph import (
    HALF,
    WIDE,
    Finer,
    behind_layers,
    grid_of,
    quantised,
    rounded_weight,
    unpacked,
    wide_grid_of,
)

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import helper, numpy_helper

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def own_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test draws the same numbers, whichever ran before it in this process."""
    monkeypatch.setitem(globals(), "RNG", np.random.default_rng(0))


def graph(nodes: list[Any], weights: dict[str, Any], shape: list[Any], *, given: int = 1) -> Any:
    inputs = [helper.make_tensor_value_info("inputs", given, ["batch", *shape])]
    outputs = [helper.make_tensor_value_info("outputs", 1, ["batch", 3])]
    made = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, made), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    onnx.checker.check_model(proto)
    return proto


def numbers(*shape: int, scale: float = 1.0) -> Any:
    return (scale * RNG.normal(size=shape)).astype(np.float32)


def mlp(kind: str) -> Any:
    """784 x 100 x 3 by Gemm with turned weights, or by MatMul and a sum."""
    weights = {"0.weight": numbers(100, 40, scale=0.2), "0.bias": numbers(100), "1.weight": numbers(3, 100, scale=0.1)}
    weights["1.bias"] = numbers(3)
    if kind == "Gemm":
        nodes = [
            helper.make_node("Gemm", ["inputs", "0.weight", "0.bias"], ["a"], transB=1),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Gemm", ["b", "1.weight", "1.bias"], ["outputs"], transB=1),
        ]
        return graph(nodes, weights, [40])
    weights |= {"0.weight": weights["0.weight"].T.copy(), "1.weight": weights["1.weight"].T.copy()}
    nodes = [
        helper.make_node("MatMul", ["inputs", "0.weight"], ["m"]),
        helper.make_node("Add", ["m", "0.bias"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "1.weight"], ["n"]),
        helper.make_node("Add", ["1.bias", "n"], ["outputs"]),
    ]
    return graph(nodes, weights, [40])


def pictures() -> Any:
    """Convolution, ReLU, pooling, a residual pair of convolutions, means, a linear layer."""
    weights = {"c0.weight": numbers(8, 2, 3, 3, scale=0.3), "c0.bias": numbers(8)}
    weights |= {"c1.weight": numbers(8, 8, 3, 3, scale=0.2), "c1.bias": numbers(8)}
    weights |= {"l.weight": numbers(3, 8 * 16, scale=0.1), "l.bias": numbers(3), "shape": np.array([-1, 128])}
    around = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["inputs", "c0.weight", "c0.bias"], ["a"], **around),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["c", "c1.weight", "c1.bias"], ["d"], **around),
        helper.make_node("Add", ["c", "d"], ["e"]),
        helper.make_node("Relu", ["e"], ["f"]),
        helper.make_node("Reshape", ["f", "shape"], ["g"]),
        helper.make_node("Gemm", ["g", "l.weight", "l.bias"], ["outputs"], transB=1),
    ]
    return graph(nodes, weights, [2, 8, 8])


def run(proto: Any, rows: Any) -> Any:
    return session_of(unpacked(proto), "g").run(["outputs"], {"inputs": rows})[0]


def session(content: bytes) -> Any:
    return session_of(onnx.load_model_from_string(content), "g")


def on_grid(values: Any, low: float, high: float) -> Any:
    """What is left of values after the grid of a range: in float64, levels 0 to 255."""
    scale, zero = grid_of(low, high)
    return (np.clip(np.rint(values / np.float64(scale)) + zero, 0, 255) - zero) * np.float64(scale)


def whole(proto: Any) -> dict[str, str]:
    return {layer.name: "int8" for layer in layers_of(proto)}


@pytest.mark.parametrize("kind", ["Gemm", "MatMul"])
def test_linear_layers_are_the_formula(kind):
    proto, rows = mlp(kind), numbers(50, 40)
    assert [(one.name, one.num_sums, one.num_outputs, one.num_weights) for one in layers_of(proto)] == [
        ("0", 40, 100, 4000),
        ("1", 100, 3, 300),
    ]
    ranges = input_ranges(proto, session, [{"inputs": rows[:20]}, {"inputs": rows[20:]}])
    assert ranges["inputs"] == (float(rows.min()), float(rows.max()))
    assert ranges["b"][0] == 0
    weights = {one.name: numpy_helper.to_array(one).astype(np.float64) for one in proto.graph.initializer}
    first, second = (weights[f"{n}.weight"] if kind == "MatMul" else weights[f"{n}.weight"].T for n in (0, 1))

    def rounded(weight):
        codes, scale = rounded_weight(weight.astype(np.float32), 1)
        return codes * scale.astype(np.float64)

    hidden = np.maximum(on_grid(rows, *ranges["inputs"]) @ rounded(first) + weights["0.bias"], 0)
    expected = on_grid(hidden, *ranges["b"]) @ rounded(second) + weights["1.bias"]
    found = run(quantised(proto, ranges, whole(proto)), rows)
    # float32 puts a value that lies halfway between two levels on the other one now and then
    assert np.median(np.abs(found - expected)) < 1e-5
    assert np.abs(found - expected).max() < 0.02
    exact = run(proto, rows)
    assert 1e-4 < (found - exact).std() / exact.std() < 0.03
    stored = run(quantised(proto, ranges, dict.fromkeys(whole(proto), "float32")), rows)
    expected = np.maximum(rows @ rounded(first) + weights["0.bias"], 0) @ rounded(second) + weights["1.bias"]
    np.testing.assert_allclose(stored, expected, atol=1e-4)


def test_convolutions_stay_in_whole_numbers_through_pooling_and_sums(tmp_path):
    import onnxruntime

    proto, rows = pictures(), numbers(30, 2, 8, 8)
    ranges = input_ranges(proto, session, [{"inputs": rows}])
    made = quantised(proto, ranges, whole(proto))
    exact = run(proto, rows)
    assert 1e-4 < (run(made, rows) - exact).std() / exact.std() < 0.04
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "o.onnx")
    onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "o.onnx").graph.node]
    assert kinds.count("QLinearConv") == 2
    assert "QLinearAdd" in kinds
    assert "MatMulIntegerToFloat" in kinds
    assert not {"Conv", "FusedConv", "Relu", "DequantizeLinear", "FusedGemm"} & set(kinds)
    assert kinds.count("Gemm") == 1  # the marker of errored rows
    half = quantised(proto, ranges, {"c0": "float32", "c1": "int8", "l": "float32"})
    assert (run(half, rows) - exact).std() < (run(made, rows) - exact).std() * 1.5
    assert len(made.SerializeToString()) < len(proto.SerializeToString())


@pytest.mark.parametrize("make", [lambda: mlp("Gemm"), lambda: mlp("MatMul"), pictures])
def test_between_layers_all_levels_are_used_and_no_pair_of_products_saturates(make):
    """The same nodes as with 128 levels, so it costs as much; as near to float32; 16 bits hold any two products."""
    proto = make()
    shape = [one.dim_value for one in proto.graph.input[0].type.tensor_type.shape.dim[1:]]
    rows = numbers(200, *shape)
    ranges = input_ranges(proto, session, [{"inputs": rows}])
    wide = behind_layers(proto)
    assert "inputs" not in wide
    assert {layer.given for layer in layers_of(proto)} - wide == {"inputs"}
    plain, finer = (quantised(proto, ranges, whole(proto), Finer(one)) for one in (frozenset(), wide))
    assert [one.op_type for one in plain.graph.node] == [one.op_type for one in finer.graph.node]
    made = {one.name: numpy_helper.to_array(one) for one in finer.graph.initializer}
    layers = {one.weight: one for one in layers_of(proto)}
    for name, codes in made.items():
        layer = next((one for weight, one in layers.items() if name in (f"{weight}.codes", f"{weight}.turned")), None)
        if layer is not None:
            largest = np.abs(codes.astype(int)).max()
            assert largest == (HALF if layer.given in wide else 127)
            assert 2 * largest * (WIDE if layer.given in wide else 127) < 2**15
    exact = run(proto, rows)
    assert 0 < (run(finer, rows) - exact).std() < (run(plain, rows) - exact).std() * 1.1
    codes = {name: np.zeros_like(numpy_helper.to_array(one)) for name, one in initializers(proto) if name in layers}
    silent = run(
        quantised(proto, ranges, whole(proto), Finer(wide, {k: v.astype(np.int8) for k, v in codes.items()})), rows
    )
    assert np.ptp(silent, axis=0).max() < 1e-5  # the codes that were given are those that multiply


def initializers(proto: Any) -> list[tuple[str, Any]]:
    return [(one.name, one) for one in proto.graph.initializer]


def test_wide_grids_reach_a_tenth_beyond_their_range():
    for low, high in ((0.0, 4.0), (-3.0, 5.0), (-1.0, 0.0), (0.0, 0.0)):
        scale, zero = wide_grid_of(low, high)
        assert 0 <= zero <= WIDE
        assert (0 - zero) * scale <= 1.1 * low + scale / 2 + 1e-6
        assert (WIDE - zero) * scale >= 1.1 * high - scale / 2 - 1e-6
        assert not high > low or float(scale) < 0.56 * float(grid_of(low, high)[0])


@pytest.mark.parametrize("make", [lambda: mlp("Gemm"), lambda: mlp("MatMul"), pictures])
@pytest.mark.parametrize(("value", "is_wide"), [(np.nan, False), (np.inf, False), (np.nan, True)])
def test_rounding_hides_no_errored_row_and_no_row_sees_another(make, value, is_wide):
    proto = make()
    shape = [one.dim_value for one in proto.graph.input[0].type.tensor_type.shape.dim[1:]]
    rows = numbers(6, *shape)
    finer = Finer(behind_layers(proto) if is_wide else frozenset())
    made = quantised(proto, input_ranges(proto, session, [{"inputs": rows}]), whole(proto), finer)
    answers = run(made, rows)
    np.testing.assert_array_equal(np.concatenate([run(made, rows[place : place + 1]) for place in range(6)]), answers)
    rows[2].flat[1] = value
    assert np.isnan(run(made, rows)).any(axis=1).tolist() == [False, False, True, False, False, False]
    rows[2] = 1e6  # an outlier coarsens nobody else's grid
    np.testing.assert_array_equal(run(made, rows)[3:], answers[3:])


def test_what_is_stored_in_8_bits_runs_as_float_layers():
    proto = mlp("Gemm")
    made = quantised(proto, {}, dict.fromkeys(whole(proto), "float32"))
    assert [node.op_type for node in made.graph.node].count("DequantizeLinear") == 2
    assert [node.op_type for node in unpacked(made).graph.node] == ["Gemm", "Relu", "Gemm"]
    assert unpacked(proto) is proto
    assert len(made.SerializeToString()) < 0.4 * len(proto.SerializeToString())


def test_a_table_is_stored_with_a_scale_a_row():
    table = numbers(50, 3)
    table[7] *= 100
    proto = graph([helper.make_node("Gather", ["words", "inputs"], ["outputs"])], {"words": table}, [], given=7)
    made = quantised(proto, {}, {})
    assert [node.op_type for node in unpacked(made).graph.node] == ["Gather"]  # not expanded anew at each call
    found = run(made, np.arange(50))
    step = np.abs(table).max(axis=1, keepdims=True) / 127
    assert (np.abs(found - table) <= step / 2 + 1e-7).all()
    assert len(made.SerializeToString()) < len(proto.SerializeToString())


def test_small_and_depthwise_layers_are_left_to_float():
    layers = {one.name: one for one in layers_of(pictures())}
    assert [pays(layers[name]) for name in ("c0", "c1", "l")] == [False, True, False]
    big = graph([helper.make_node("Gemm", ["inputs", "w"], ["outputs"])], {"w": numbers(4000, 17)}, [4000])
    assert pays(layers_of(big)[0])
    deep = {"w": numbers(8, 1, 3, 3)}
    by_depth = graph([helper.make_node("Conv", ["inputs", "w"], ["outputs"], group=8)], deep, [8, 3, 3])
    assert not pays(layers_of(by_depth)[0])


def test_only_plain_products_with_fixed_weights_are_layers():
    weights = {"w": numbers(4, 3), "v": numbers(3)}
    for options in ({"alpha": 2.0}, {"beta": 0.5}, {"transA": 1}):
        node = helper.make_node("Gemm", ["inputs", "w", "v"], ["outputs"], **options)
        assert layers_of(graph([node], weights, [4])) == []
    product = helper.make_node("MatMul", ["inputs", "inputs"], ["outputs"])
    assert layers_of(graph([product], {}, [4])) == []


def test_a_graph_that_names_files_or_does_not_fit_itself_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    """Expanding codes reads tensors: one that lies in a file of the working folder must not become a weight."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(bytes(range(6)))
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "scale"], ["w"], axis=1),
        helper.make_node("MatMul", ["inputs", "w"], ["outputs"]),
    ]
    weights = {"codes": np.zeros((2, 3), dtype=np.int8), "scale": np.ones(3, dtype=np.float32)}
    proto = graph(nodes, weights, [2])
    found = loaded(proto)(torch.ones(1, 2))
    assert found.tolist() == [[0, 0, 0]]
    proto.graph.node[0].input[1] = "nothing"
    with pytest.raises(ModelError, match="its codes cannot be read"):
        loaded(proto)(torch.ones(1, 2))
    proto.graph.node[0].input[1] = "scale"
    codes = proto.graph.initializer[0]
    codes.ClearField("raw_data")
    codes.data_location = 1
    for key, value in (("location", "secret.bin"), ("length", "6")):
        codes.external_data.add(key=key, value=value)
    with pytest.raises(ModelError, match="keeps weights in a file"):
        loaded(proto)(torch.ones(1, 2))


def loaded(proto: Any) -> ByOnnxRuntime:
    content = proto.SerializeToString()
    module = ByOnnxRuntime(torch.nn.Identity(), num_bytes=len(content))
    module.load_state_dict({"graph": torch.frombuffer(bytearray(content), dtype=torch.uint8)})
    return module


def test_grids_hold_zero():
    for low, high in ((0.0, 4.0), (-3.0, 5.0), (-1.0, 0.0), (0.0, 0.0)):
        scale, zero = grid_of(low, high)
        assert 0 <= zero <= 127
        assert abs(on_grid(np.array([low, 0.0, high]), low, high) - [low, 0, high]).max() <= scale / 2 + 1e-7
        assert on_grid(np.array([0.0]), low, high) == 0
