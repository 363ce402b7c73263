"""Layers of an ONNX graph in 8 bits: the graph with their weights, and what they read, rounded.

A rounded tensor is written as a pair QuantizeLinear, DequantizeLinear around what it feeds (QDQ): the form that ONNX
Runtime turns into whole-number kernels. Inputs use the levels 0 to 127 of 8 bits over their calibrated range, weights
-127 to 127 with one scale per output: products of pairs then fit in 16 bits, so that no instruction set saturates, and
inputs up to twice the range are not clipped. A tensor that is `wide` uses all 256 levels over a range a tenth wider,
and weights that multiply it -64 to 64: then no pair saturates whatever comes in, and what comes in is twice as fine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from assay.models.four_bits import expanded
from assay.models.graph_layers import Layer, layers_of, readers_of, with_contrib
from assay.values import Array

LEVELS = 127
WIDE, HALF = 255, 64  # levels of a wide tensor, and of weights either way that multiply it
MARGIN = 0.1  # of a wide tensor's range, below and above it
FEW = 1024  # products that cost less than a node more
SAME_RANGE = ("MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze")  # move numbers, make none


def grid_of(low: float, high: float) -> tuple[np.float32, int]:
    """Scale and zero point of a range, 0 within: the levels 0 to 127 lie on it, and 128 to 255 above.

    >>> grid_of(0.0, 12.7)[1], round(float(grid_of(0.0, 12.7)[0]), 6)
    (0, 0.1)
    """
    scale = np.float32((high - low) / LEVELS) or np.float32(1.0)
    return scale, round(-low / float(scale))


def wide_grid_of(low: float, high: float) -> tuple[np.float32, int]:
    """Scale and zero point of a range, 0 within, and a tenth of each side more: all of the levels 0 to 255.

    >>> wide_grid_of(0.0, 25.5 / 1.1)[1], round(float(wide_grid_of(0.0, 25.5 / 1.1)[0]), 6)
    (0, 0.1)
    """
    scale = np.float32((1 + MARGIN) * (high - low) / WIDE) or np.float32(1.0)
    return scale, round(-(1 + MARGIN) * low / float(scale))


def rounded_weight(weight: Array, axis: int, levels: int = LEVELS) -> tuple[Array, Array]:
    """Weights as int8 and one float32 scale per output (along `axis`): `|w - s q| <= s / 2`, q at most `levels`."""
    rest = tuple(number for number in range(weight.ndim) if number != axis)
    largest = np.abs(weight).max(axis=rest, keepdims=True)
    scale = np.where(largest > 0, largest / np.float32(levels), np.float32(1.0)).astype(np.float32)
    return np.clip(np.rint(weight / scale), -levels, levels).astype(np.int8), scale.reshape(-1)


@dataclass(frozen=True)
class Finer:
    """What is known beyond ranges: tensors that use all 256 levels, and codes of weights, by name, chosen with care."""

    wide: frozenset[str] = frozenset()
    codes: Mapping[str, Array] = field(default_factory=dict)

    def levels(self, proto: Any, arithmetic: Mapping[str, str]) -> dict[str, int]:
        """Of each layer's weights, by name, how many levels either way they may use."""
        found: dict[str, int] = {}
        for layer in layers_of(proto):
            few = layer.given in self.wide and arithmetic.get(layer.name) == "int8"
            found[layer.weight] = min(HALF if few else LEVELS, found.get(layer.weight, LEVELS))
        return found


PLAIN = Finer()


def quantised(
    proto: Any,
    ranges: Mapping[str, tuple[float, float]],
    arithmetic: Mapping[str, str],
    finer: Finer = PLAIN,
) -> Any:
    """A new graph with the named layers' weights in 8 bits.

    Tables that rows are looked up in are stored in 8 bits too, one scale a row. `arithmetic` says of each layer how it
    is computed: "int8" rounds its input too, to the grid of that input's range, and a convolution's output; "float32"
    expands the weights when a session is made. Linear layers in whole numbers become ONNX Runtime's own
    MatMulIntegerToFloat: at batch 1 a tenth faster than the kernel that the standard form leads to. A row with an
    input that is NaN or infinite answers NaN: rounding alone would hide it.
    """
    from onnx import ModelProto, helper, numpy_helper

    layers = {layer.place: layer for layer in layers_of(proto) if layer.name in arithmetic}
    whole = {place for place, layer in layers.items() if arithmetic[layer.name] == "int8"}
    rounded = _rounded_tensors(proto, [layers[place] for place in whole])
    grids = {name: (wide_grid_of if name in finer.wide else grid_of)(*ranges[name]) for name in rounded}
    grids = _shared(proto, grids, {layers[place].given for place in whole})
    weights = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
    made = ModelProto()
    made.CopyFrom(proto)
    rewrite = _Rewrite(helper, numpy_helper, weights, grids, finer.codes, finer.levels(proto, arithmetic))
    for one in proto.graph.input:
        rewrite.round(one.name)
    dropped = _dropped(proto, grids)
    added = {layers[place].added for place in whole}
    for place, node in enumerate(proto.graph.node):
        layer = layers.get(place)
        if place in dropped:
            rewrite.also[node.output[0]] = node.input[0]
        elif place in whole and layer is not None and layer.kind != "Conv":
            rewrite.linear(layer, proto.graph.node[layer.added if layer.added >= 0 else place].output[0])
        elif place not in added:
            rewrite.node(node, layer, is_whole=place in whole)
        for name in node.output:
            rewrite.round(name)
    del made.graph.node[:], made.graph.initializer[:]
    used = {name for node in rewrite.nodes for name in node.input}
    made.graph.node.extend(
        node for node in rewrite.nodes if node.op_type != "DequantizeLinear" or node.output[0] in used
    )
    if any(node.domain for node in rewrite.nodes):
        with_contrib(made)
    made.graph.initializer.extend(one for one in proto.graph.initializer if one.name in used)
    made.graph.initializer.extend(rewrite.made.values())
    return marked(made, proto) if whole else made


@dataclass
class _Rewrite:
    """A graph in the making: nodes in order, new initializers, and where a tensor's rounded version is."""

    helper: Any
    numbers: Any
    weights: Mapping[str, Array]
    grids: Mapping[str, tuple[np.float32, int]]
    codes: Mapping[str, Array]  # of weights that were chosen with care
    levels: Mapping[str, int]  # of weights, either way
    nodes: list[Any] = field(default_factory=list)
    made: dict[str, Any] = field(default_factory=dict)
    now: dict[str, str] = field(default_factory=dict)  # what stands for a tensor
    also: dict[str, str] = field(default_factory=dict)  # output of a node that was dropped -> what it read

    def constant(self, name: str, value: Array) -> str:
        """A new initializer's name; the same name is the same value."""
        if name not in self.made:
            self.made[name] = self.numbers.from_array(np.array(value, order="C"), name)
        return name

    def round(self, name: str) -> None:
        """Put a tensor on its grid, if it has one: what reads it from now on reads that."""
        if name not in self.grids:
            return
        scale, zero = self.grids[name]
        grid = [
            self.constant(f"{name}.scale", np.array(scale)),
            self.constant(f"{name}.zero", np.array(zero, dtype=np.uint8)),
        ]
        codes, back = f"{name}.codes", f"{name}.rounded"
        self.nodes.append(self.helper.make_node("QuantizeLinear", [self.also.get(name, name), *grid], [codes]))
        self.nodes.append(self.helper.make_node("DequantizeLinear", [codes, *grid], [back]))
        self.now[name] = back

    def node(self, node: Any, layer: Layer | None, *, is_whole: bool) -> None:
        """A node of the old graph, with small weights if it is a chosen layer."""
        copied = type(node)()
        copied.CopyFrom(node)
        copied.input[:] = [self.now.get(name, name) for name in node.input]
        if _reads_table(node, self.weights):
            codes, scale = rounded_weight(self.weights[node.input[0]], 0)
            copied.input[0] = self._expanded(node.input[0], codes, scale=scale, axis=0)
        if layer is not None:
            codes, scale = self._small(layer)
            copied.input[1] = self._expanded(layer.weight, codes, scale=scale, axis=layer.axis)
            if is_whole and layer.bias:
                step = self.grids[layer.given][0] * scale
                bias = np.rint(self.weights[layer.bias].astype(np.float64) / step).astype(np.int32)
                copied.input[2] = self._expanded(f"{layer.bias}.{layer.place}", bias, scale=step, axis=0)
        self.nodes.append(copied)

    def linear(self, layer: Layer, output: str) -> None:
        """A linear layer in whole numbers, its bias in float32."""
        codes, scale = self._small(layer)
        name, given = f"{layer.weight}.{layer.given}", layer.given
        inputs = [
            f"{given}.codes",
            self.constant(f"{layer.weight}.turned", codes if layer.axis else codes.T),
            f"{given}.scale",
            self.constant(f"{layer.weight}.scale", scale),
            f"{given}.zero",
            self.constant(f"{layer.weight}.zero", np.zeros(len(scale), dtype=np.int8)),
        ]
        inputs += [self.constant(f"{name}.bias", self.weights[layer.bias])] if layer.bias else []
        self.nodes.append(self.helper.make_node("MatMulIntegerToFloat", inputs, [output], domain="com.microsoft"))

    def _small(self, layer: Layer) -> tuple[Array, Array]:
        codes, scale = rounded_weight(self.weights[layer.weight], layer.axis, self.levels[layer.weight])
        return self.codes.get(layer.weight, codes), scale

    def _expanded(self, name: str, codes: Array, *, scale: Array, axis: int) -> str:
        if f"{name}.codes" not in self.made:
            inputs = [self.constant(f"{name}.codes", codes), self.constant(f"{name}.scale", scale)]
            inputs.append(self.constant(f"{name}.zero", np.zeros(len(scale), dtype=codes.dtype)))
            self.nodes.append(self.helper.make_node("DequantizeLinear", inputs, [f"{name}.expanded"], axis=axis))
        return f"{name}.expanded"


def marked(made: Any, proto: Any) -> Any:
    """A rounded graph of `proto`, with 0 times what its first layers read added to every row's answers; in place.

    In few nodes, for each costs time.
    """
    from onnx import helper, numpy_helper

    output, layers = proto.graph.output[0], layers_of(proto)
    num_outputs = output.type.tensor_type.shape.dim[1].dim_value
    for place, name in enumerate(_unwatched(proto)):
        size = next((one.num_sums for one in layers if one.given == name and one.kind == "Gemm"), None)
        before, flat, nodes, new = f"{output.name}.{place}", name, [], {}
        for one in made.graph.node:
            one.output[:] = [before if told == output.name else told for told in one.output]
        if size is None or size * num_outputs > FEW:
            if size is None:
                flat = f"{name}.flat"
                nodes.append(helper.make_node("Flatten", [name], [flat], axis=1))
            new[f"marker.axis.{place}"] = np.array([1], dtype=np.int64)
            nodes.append(helper.make_node("ReduceSum", [flat, *new], [f"{name}.sum"], keepdims=1))
            flat, size = f"{name}.sum", 1
        new[f"marker.{place}"] = np.zeros((size, num_outputs), dtype=np.float32)
        nodes.append(helper.make_node("Gemm", [flat, f"marker.{place}", before], [output.name]))
        made.graph.node.extend(nodes)
        made.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in new.items())
    return made


def _reads_table(node: Any, weights: Mapping[str, Array]) -> bool:
    """Whether a node looks rows of a fixed table up, in which 8 bits and a scale a row are less."""
    axis = next((one.i for one in node.attribute if one.name == "axis"), 0)
    table = weights.get(node.input[0]) if node.op_type == "Gather" and not axis else None
    return table is not None and table.dtype == np.float32 and table.ndim == 2 and table.shape[1] > 2


def _rounded_tensors(proto: Any, whole: Sequence[Layer]) -> set[str]:
    """What layers in whole numbers read, and what convolutions in whole numbers give (after a ReLU of it alone)."""
    readers = readers_of(proto)
    found = {layer.given for layer in whole}
    for layer in whole:
        if layer.kind == "Conv":
            found.add(_settled(proto.graph.node[layer.place], readers))
    return found


def _settled(node: Any, readers: Mapping[str, list[Any]]) -> str:
    """What a node gives, or the ReLU of it if nothing else reads it."""
    following = readers.get(node.output[0], [])
    alone = len(following) == 1 and following[0].op_type == "Relu"
    return str(following[0].output[0] if alone else node.output[0])


def _shared(proto: Any, grids: Mapping[str, Any], given: set[str]) -> dict[str, Any]:
    """The same grids, but one grid along a chain of nodes that only move numbers, and on the tensors between: the last.

    Moving whole numbers is then moving bytes.
    """
    readers, found = readers_of(proto), dict(grids)
    for name in grids:
        chain, last = [name], name
        while last not in given or last == name:
            following = readers.get(last, [])
            if len(following) != 1 or following[0].op_type not in SAME_RANGE or following[0].input[0] != last:
                break
            last = str(following[0].output[0])
            chain.append(last)
        if last != name and last in given:
            found |= dict.fromkeys(chain, grids[last])
    return found


def _dropped(proto: Any, grids: Mapping[str, tuple[np.float32, int]]) -> set[int]:
    """Places of ReLUs that a grid starting at 0 makes needless."""
    makers, readers = {one.output[0]: one for one in proto.graph.node}, readers_of(proto)
    return {
        place
        for place, node in enumerate(proto.graph.node)
        if node.op_type == "Relu"
        and node.output[0] in grids
        and grids[node.output[0]][1] == 0
        and node.input[0] in makers
        and makers[node.input[0]].op_type in ("Conv", "Add", "Gemm", "MatMul")
        and len(readers[node.input[0]]) == 1
    }


def behind_layers(proto: Any) -> frozenset[str]:
    """Tensors that have a layer before them: what is rounded there ranges as the weights say, whoever asks."""
    layers, found = {layer.place for layer in layers_of(proto)}, set[str]()
    for place, node in enumerate(proto.graph.node):
        if place in layers or any(name in found for name in node.input):
            found.update(node.output)
    return frozenset(found)


def _unwatched(proto: Any) -> list[str]:
    """Float tensors that first layers read: those with no other layer before them."""
    if any(one.type.tensor_type.elem_type != 1 for one in proto.graph.input):  # texts
        return []
    behind = behind_layers(proto)
    return list(dict.fromkeys(layer.given for layer in layers_of(proto) if layer.given not in behind))


def unpacked(proto: Any) -> Any:
    """The graph with small weights expanded wherever their layer computes in float32, so that it costs what it did.

    ONNX Runtime would expand them anew at each call. Codes beside rounded inputs stay as they are.
    """
    from onnx import ModelProto, numpy_helper

    proto = expanded(proto)
    codes = {one.name: one for one in proto.graph.initializer}
    readers, makers = readers_of(proto), {name: node for node in proto.graph.node for name in node.output}
    found = {}
    for node in proto.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in codes:
            continue
        reading = readers.get(node.output[0], [])
        given = [makers.get(one.input[0]) for one in reading if one.op_type == "Conv"]
        if len(given) == len(reading) and all(one and one.op_type == "DequantizeLinear" for one in given):
            continue
        whole, scale = (numpy_helper.to_array(codes[name]) for name in node.input[:2])
        axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
        shape = [-1 if place == axis else 1 for place in range(whole.ndim)]
        value = whole.astype(np.float32) * scale.reshape(shape)
        found[node.output[0]] = numpy_helper.from_array(value, node.output[0])
    if not found:
        return proto
    made = ModelProto()
    made.CopyFrom(proto)
    del made.graph.node[:], made.graph.initializer[:]
    made.graph.node.extend(node for node in proto.graph.node if node.output[0] not in found)
    used = {name for node in made.graph.node for name in node.input}
    made.graph.initializer.extend(one for one in (*proto.graph.initializer, *found.values()) if one.name in used)
    return made
