"""Weights rounded in turn: against every possible rounding, and the windows of convolutions against torch's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from assay.models.compensated import WIDEST, compensated_codes, in_turn, squares, windows
from assay.models.graph_layers import Layer, input_ranges, layers_of

RNG = np.random.default_rng(2)


@pytest.fixture(autouse=True)
def own_draws(monkeypatch):
    """Every test draws the same numbers, whichever ran before it in this process."""
    monkeypatch.setitem(globals(), "RNG", np.random.default_rng(2))


def numbers(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def lost(weight, told, square):
    return float(np.einsum("oi,ij,oj->", weight - told, square, weight - told))


def test_it_lies_between_nearest_and_the_best_of_all_roundings():
    """Five inputs that go together, codes -4 to 4: of 3^5 roundings near the weights, by brute force, the best."""
    better = 0
    for _ in range(20):
        rows = numbers(50, 5) + 2 * numbers(50, 1)
        weight, square = numbers(1, 5), rows.T.astype(np.float64) @ rows / 50
        scale = np.abs(weight).max(axis=1) / 4
        codes, scales = in_turn(weight, square, lambda run, importance, scale=scale: scale, codes=(-4, 4))
        assert (codes == np.rint(codes)).all()
        assert np.abs(codes).max() <= 4
        assert scales.tolist() == [scale.tolist()]
        near = np.rint(weight[0] / scale)
        every = [np.clip(near + up, -4, 4)[None] * scale for up in itertools.product((-1, 0, 1), repeat=5)]
        found, least = lost(weight, codes * scale, square), min(lost(weight, told, square) for told in every)
        assert found >= least - 1e-9
        better += found <= lost(weight, np.clip(near, -4, 4)[None] * scale, square) + 1e-9
    assert better >= 18


def test_runs_of_any_width_are_one_algorithm():
    """Errors moved at once or one by one; and uncorrelated inputs are each rounded to the nearest."""
    rows, weight = numbers(300, 40) @ numbers(40, 40), numbers(7, 40)
    square, scale = rows.T.astype(np.float64) @ rows / 300, np.abs(weight).max(axis=1) / 64
    found = [
        in_turn(weight, square, lambda run, importance: scale, codes=(-64, 64), width=width)[0]
        for width in (1, 16, 128)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    alone = in_turn(weight, np.diag(np.arange(40.0)), lambda run, importance: scale, codes=(-64, 64))[0]
    np.testing.assert_array_equal(alone, np.rint(weight / scale[:, None]))


def test_less_is_lost_on_rows_that_it_has_not_seen():
    factors, weight = numbers(8, 128), numbers(64, 128)
    rows, other = (numbers(400, 8) @ factors + 0.3 * numbers(400, 128) for _ in range(2))
    scale = np.abs(weight).max(axis=1) / 64
    layer = Layer("l", "Gemm", 0, "x", "w", 0, 128, 64)
    codes = compensated_codes(layer, weight, scale, rows.T.astype(np.float64) @ rows / 400, levels=64)
    assert codes.dtype == np.int8
    square = other.T.astype(np.float64) @ other
    nearest = np.rint(weight / scale[:, None]) * scale[:, None]
    assert lost(weight, codes * scale[:, None], square) < 0.3 * lost(weight, nearest, square)
    turned = Layer("l", "MatMul", 0, "x", "w", 1, 128, 64)
    again = compensated_codes(turned, weight.T, scale, rows.T.astype(np.float64) @ rows / 400, levels=64)
    np.testing.assert_array_equal(again, codes.T)


@pytest.mark.parametrize(
    ("kernel", "stride", "step", "before", "after"),
    [
        ((3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
        ((3, 2), (2, 1), (1, 2), (0, 1), (2, 0)),
        ((5,), (2,), (2,), (3,), (1,)),
    ],
)
def test_windows_are_what_a_convolution_multiplies(kernel, stride, step, before, after):
    rank = len(kernel)
    values, weight = numbers(4, 3, *(9, 7)[:rank]), numbers(5, 3, *kernel)
    sides = [side for pair in zip(before[::-1], after[::-1], strict=True) for side in pair]
    padded = functional.pad(torch.from_numpy(values), sides)
    convolution = functional.conv2d if rank == 2 else functional.conv1d
    expected = convolution(padded, torch.from_numpy(weight), stride=stride, dilation=step).numpy()
    places = int(np.prod(expected.shape[2:]))
    found = windows(values, (kernel, stride, step, before, after), places + 5) @ weight.reshape(5, -1).T
    assert len(found) == 4 * places
    flat = np.moveaxis(expected, 1, -1).reshape(-1, 5)
    np.testing.assert_allclose(np.sort(found, axis=0), np.sort(flat, axis=0), atol=1e-4)
    few = windows(values, (kernel, stride, step, before, after), 3) @ weight.reshape(5, -1).T
    assert len(few) == 12
    assert all(np.abs(flat - one).max(axis=1).min() < 1e-4 for one in few)


def test_squares_are_means_over_rows_and_windows_and_leave_out_what_they_cannot_tell():
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import helper, numpy_helper

    from assay.models.adapters.onnx import session_of

    weights = {"c.weight": numbers(4, 2, 3, 3), "d.weight": numbers(4, 1, 3, 3), "e.weight": numbers(4, 4, 1, 1)}
    weights |= {"f.weight": numbers(4, 36), "g.weight": numbers(4, 36)}
    nodes = [
        helper.make_node("Conv", ["inputs", "c.weight"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("Conv", ["c", "d.weight"], ["d"], kernel_shape=[3, 3], group=4, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["d", "e.weight"], ["e"], kernel_shape=[1, 1], auto_pad="SAME_UPPER"),
        helper.make_node("Flatten", ["e"], ["flat"]),
        helper.make_node("Gemm", ["flat", "f.weight"], ["f"], transB=1),
        helper.make_node("Gemm", ["flat", "g.weight"], ["g"], transB=1),
        helper.make_node("Add", ["f", "g"], ["outputs"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("inputs", 1, ["batch", 2, 5, 5])],
        [helper.make_tensor_value_info("outputs", 1, ["batch", 4])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    rows = numbers(20, 2, 5, 5)
    batches = [{"inputs": rows[:15]}, {"inputs": rows[15:]}]

    def session(content):
        return session_of(onnx.load_model_from_string(content), "g")

    found = squares(proto, session, batches, layers_of(proto))
    assert sorted(found) == ["c.weight", "f.weight", "g.weight"]
    assert found["f.weight"] is found["g.weight"]
    patches = functional.unfold(torch.from_numpy(rows).double(), 3).transpose(1, 2).reshape(-1, 18)
    np.testing.assert_allclose(found["c.weight"], (patches.T @ patches / len(patches)).numpy(), rtol=1e-6, atol=1e-6)
    bad = {"inputs": np.where(rows > 2, np.nan, rows).astype(np.float32)}
    assert all(np.isfinite(one).all() for one in squares(proto, session, [bad], layers_of(proto)).values())
    wide = Layer("w", "Gemm", 4, "flat", "w", 0, WIDEST + 1, 4)
    assert squares(proto, session, batches, [wide]) == {}


@pytest.mark.parametrize("summed", [False, True])
def test_quantize_static_sees_in_one_pass_what_two_passes_saw(monkeypatch, summed):
    """A sum that reads a convolution takes two: who looks at what lies between decides what is computed as one."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import helper, numpy_helper

    from assay.models.adapters.onnx import session_of
    from assay.treatments.model.quantize_static import _seen

    rng, pads = np.random.default_rng(3), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    weights = {f"{name}.weight": rng.normal(size=(4, 4, 3, 3)).astype(np.float32) for name in "abc"}
    nodes = [
        helper.make_node("Conv", ["inputs", "a.weight"], ["a"], **pads),
        helper.make_node("Relu", ["a"], ["positive"]),
        helper.make_node("Conv", ["positive", "b.weight"], ["b"], **pads),
        *([helper.make_node("Add", ["b", "positive"], ["sum"])] if summed else []),
        helper.make_node("Relu", ["sum" if summed else "b"], ["kept"]),
        helper.make_node("Conv", ["kept", "c.weight"], ["outputs"], **pads),
    ]
    ends = [helper.make_tensor_value_info(name, 1, ["batch", 4, 6, 6]) for name in ("inputs", "outputs")]
    fixed = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], fixed)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    rows, made = rng.normal(size=(20, 4, 6, 6)).astype(np.float32), []

    def session(content):
        made.append(content)
        return session_of(onnx.load_model_from_string(content), "g")

    batches = [{"inputs": rows[:15]}, {"inputs": rows[15:]}]
    monkeypatch.setattr("assay.treatments._by_onnxruntime.session", session)
    ranges, seen = _seen(proto, batches, "compensated")
    assert len(made) == 1 + summed
    assert ranges == input_ranges(proto, session, batches)
    alone = squares(proto, session, batches, layers_of(proto))
    assert {name: one.tobytes() for name, one in seen.items()} == {name: one.tobytes() for name, one in alone.items()}
    assert _seen(proto, batches, "nearest") == (ranges, {})
