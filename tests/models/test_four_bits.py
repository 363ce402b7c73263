"""Four-bit codes: packing, rounding against every possible rounding, and the operator against its formula."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from assay.models.adapters.onnx import session_of
from assay.models.compensated import squares
from assay.models.four_bits import (
    Codes,
    compensated,
    expanded,
    four_bit_graph,
    nearest,
    unpacked_codes,
)
from assay.models.graph_layers import layers_of
from assay.models.quantised_graph import marked, unpacked

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import helper, numpy_helper

RNG = np.random.default_rng(1)


@pytest.fixture(autouse=True)
def own_draws(monkeypatch):
    """Every test draws the same numbers, whichever ran before it in this process."""
    monkeypatch.setitem(globals(), "RNG", np.random.default_rng(1))


def numbers(*shape):
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("num_inputs", "group"), [(32, 16), (40, 16), (7, 16), (96, 32)])
def test_two_codes_a_byte_and_back(num_inputs, group):
    codes = RNG.integers(0, 16, (5, num_inputs)).astype(np.uint8)
    made = Codes(codes, np.abs(numbers(5, -(-num_inputs // group))) + 0.1, group)
    assert made.packed().nbytes == 5 * -(-num_inputs // group) * group // 2
    again = unpacked_codes(made.packed(), made.scales, num_inputs)
    np.testing.assert_array_equal(again.codes, codes)
    np.testing.assert_array_equal(again.weights(), made.weights())


def test_nearest_is_within_half_a_step():
    weight = numbers(20, 50)
    weight[3] = 0
    made = nearest(weight, 16)
    step = np.repeat(made.scales, 16, axis=1)[:, :50]
    assert (np.abs(made.weights() - weight) <= step / 2 + 1e-7).all()
    assert (made.weights()[3] == 0).all()


def lost(weight, told, rows):
    return float(((rows @ (weight - told).T) ** 2).sum())


def test_compensated_lies_between_nearest_and_the_best_of_all_roundings():
    """Six inputs that go together: of 4^6 ways to round them at the same scale, by brute force, the best."""
    better = 0
    for _ in range(20):
        rows = numbers(60, 6) + 2 * numbers(60, 1)
        weight = numbers(1, 6)
        made = compensated(weight, 16, rows.T @ rows / 60)
        scale = made.scales[0, 0]
        down = np.floor(weight[0] / scale)
        every = [np.clip(down + up, -8, 7)[None] * scale for up in itertools.product((-1, 0, 1, 2), repeat=6)]
        least = min(lost(weight, told, rows) for told in every)
        plain = np.clip(np.rint(weight / scale), -8, 7) * scale
        found = lost(weight, made.weights(), rows)
        assert found >= least - 1e-4
        better += found <= lost(weight, plain, rows) + 1e-6
        assert found <= 12 * least + 0.02 * lost(weight, 0 * weight, rows)
    assert better >= 18


def test_less_of_the_outputs_is_lost_on_inputs_that_go_together():
    factors = numbers(8, 128)
    rows, weight = numbers(400, 8) @ factors + 0.3 * numbers(400, 128), numbers(64, 128)
    other = numbers(400, 8) @ factors + 0.3 * numbers(400, 128)
    errors = [
        lost(weight, made.weights(), other) / lost(weight, 0 * weight, other)
        for made in (nearest(weight, 32), compensated(weight, 32, rows.T @ rows / 400))
    ]
    assert errors[1] < 0.6 * errors[0]  # measured: a fraction, on rows that it has not seen
    assert errors[0] < 0.02


@pytest.mark.parametrize("kind", ["Gemm", "MatMul"])
def test_the_graph_is_the_formula_small_and_errors_stay_errors(kind):
    weight, last = numbers(96, 40), numbers(3, 96)
    names = {"0.weight": weight if kind == "Gemm" else weight.T, "0.bias": numbers(96), "1.weight": last}
    first = (
        [helper.make_node("Gemm", ["inputs", "0.weight", "0.bias"], ["a"], transB=1)]
        if kind == "Gemm"
        else [
            helper.make_node("MatMul", ["inputs", "0.weight"], ["m"]),
            helper.make_node("Add", ["m", "0.bias"], ["a"]),
        ]
    )
    nodes = [*first, helper.make_node("Relu", ["a"], ["b"])]
    nodes.append(helper.make_node("Gemm", ["b", "1.weight"], ["outputs"], transB=1))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("inputs", 1, ["batch", 40])],
        [helper.make_tensor_value_info("outputs", 1, ["batch", 3])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in names.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    layers, rows = layers_of(proto), numbers(30, 40)

    def session(content):
        return session_of(onnx.load_model_from_string(content), "g")

    seen = squares(proto, session, [{"inputs": rows[:10]}, {"inputs": rows[10:]}], layers)
    np.testing.assert_allclose(seen["0.weight"], rows.T.astype(np.float64) @ rows / 30)
    codes = {"0": nearest(weight, 16), "1": compensated(last, 32, seen["1.weight"])}
    expected = np.maximum(rows @ codes["0"].weights().T + names["0.bias"], 0) @ codes["1"].weights().T
    for one, near in (("float32", 1e-4), ("int8", 0.03 * np.abs(expected).max())):
        made = four_bit_graph(proto, codes, {"0": one, "1": one})
        assert [node.op_type for node in made.graph.node] == ["MatMulNBits", "Relu", "MatMulNBits"]
        assert len(made.SerializeToString()) < 0.35 * len(proto.SerializeToString())
        made = marked(made, proto)
        run = session_of(unpacked(made), "g").run
        found = run(["outputs"], {"inputs": rows})[0]
        np.testing.assert_allclose(found, expected, atol=near)
        alone = np.concatenate([run(["outputs"], {"inputs": rows[at : at + 1]})[0] for at in range(30)])
        np.testing.assert_allclose(alone, found, atol=1e-5)
        bad = rows.copy()
        bad[2, 5] = np.nan
        assert np.isnan(run(["outputs"], {"inputs": bad})[0]).any(axis=1).tolist() == [at == 2 for at in range(30)]
        assert ("MatMulNBits" in [node.op_type for node in expanded(made).graph.node]) == (one == "int8")
    assert expanded(proto) is proto
