"""Layers of an ONNX graph: which multiply by fixed weights, which pay in 8 bits, what their inputs range over."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from assay.values import Array

# From where on whole numbers are no slower than float32 (one x86 core with AVX-512 VNNI, layers alone, batch 1; at 64
# sooner). Microseconds, float32 and int8: linear 256 x 128 5.9 and 7.2, 256 x 256 7.7 and 7.7, 512 x 256 11.5 and 9.0;
# over 64 rows at once, as a text has, 64 x 64 9.9 and 9.4, 128 x 128 27.8 and 19.3; convolutions 1 to 32 channels
# 16 and 38, 3 to 32 54 and 50, 16 to 16 15 and 12, 32 to 32 146 and 57, by depth 19 and 29.
PAYS_FROM = {"Gemm": 65_536, "MatMul": 16_384}  # weights
FEWEST_OUTPUTS = 16
FEWEST_CHANNELS = 8


@dataclass(frozen=True)
class Layer:
    """A node that multiplies its input by fixed weights: a convolution, or a linear layer."""

    name: str
    kind: str  # Conv, Gemm or MatMul
    place: int  # of the node in the graph
    given: str  # the tensor it reads
    weight: str  # the weights' initializer
    axis: int  # of its outputs in the weights
    num_sums: int  # products in one sum
    num_outputs: int
    groups: int = 1
    channels: int = 0  # of a convolution's input, to one group
    num_weights: int = 0
    bias: str = ""  # its initializer
    added: int = -1  # the place of the sum that adds it, where that is a node of its own


def layers_of(proto: Any) -> list[Layer]:
    """Every layer of a graph whose weights are fixed, in order of computation."""
    weights = {one.name: one for one in proto.graph.initializer}
    readers, places = readers_of(proto), {one.output[0]: place for place, one in enumerate(proto.graph.node)}
    found = []
    for place, node in enumerate(proto.graph.node):
        if node.op_type not in ("Conv", "Gemm", "MatMul") or not _is_plain(node, weights):
            continue
        shape, given = list(weights[node.input[1]].dims), {one.name: one for one in node.attribute}
        bias, added = node.input[2] if len(node.input) > 2 else "", -1
        if node.op_type == "Conv":
            axis, groups, num_sums = 0, given["group"].i if "group" in given else 1, math.prod(shape[1:])
        else:
            axis, groups = (0 if "transB" in given and given["transB"].i == 1 else 1), 1
            num_sums = shape[1 - axis]
        following = readers.get(node.output[0], [])
        if node.op_type == "MatMul" and len(following) == 1 and following[0].op_type == "Add":
            others = [name for name in following[0].input if name in weights and list(weights[name].dims) == shape[1:]]
            if others:
                bias, added = others[0], places[following[0].output[0]]
        about = {"groups": groups, "channels": shape[1], "num_weights": math.prod(shape), "bias": bias, "added": added}
        name, read = _layer_name(node, bias), (node.input[0], node.input[1])
        found.append(Layer(name, node.op_type, place, *read, axis, num_sums, shape[axis], **about))
    return found


def pays(layer: Layer) -> bool:
    """Whether whole numbers make a layer no slower at batch 1 and 64: a rule by its sizes, so that it is repeatable."""
    if layer.kind == "Conv":
        return layer.groups == 1 and layer.channels >= FEWEST_CHANNELS and layer.num_outputs >= FEWEST_CHANNELS
    return layer.num_weights >= PAYS_FROM[layer.kind] and layer.num_outputs >= FEWEST_OUTPUTS


def _is_plain(node: Any, weights: Mapping[str, Any]) -> bool:
    """Whether a node computes x W + b with fixed float32 weights and bias."""
    given = {one.name: one for one in node.attribute}
    fixed = all(name in weights and weights[name].data_type == 1 for name in node.input[1:])
    scaled = any(name in given and given[name].f != 1 for name in ("alpha", "beta"))
    turned = "transA" in given and given["transA"].i == 1
    flat = fixed and (node.op_type == "Conv" or len(weights[node.input[1]].dims) == 2)
    return flat and not scaled and not turned and (len(node.input) < 3 or len(weights[node.input[2]].dims) == 1)


def _layer_name(node: Any, bias: str) -> str:
    """By its parameters, where the exporter kept their names; else by what the node gives."""
    for name in (node.input[1], bias):
        if name.endswith((".weight", ".bias")):
            return str(name.rpartition(".")[0])
    return str(node.output[0])


def input_ranges(proto: Any, session_of: Any, batches: Sequence[Mapping[str, Array]]) -> dict[str, tuple[float, float]]:
    """The `Ranges` of a graph; `session_of` makes a session of the bytes of one; `batches` are what it is run on."""
    ranges = Ranges(proto)
    look(proto, session_of, batches, [ranges])
    return ranges.found


class Ranges:
    """Smallest and largest finite value of every float tensor that a layer reads, or that a convolution leads to.

    0 is always within.
    """

    def __init__(self, proto: Any) -> None:
        self.names = sorted({layer.given for layer in layers_of(proto)} | set(_after_convolutions(proto)))
        self._seen: dict[str, tuple[float, float]] = {}

    def __call__(self, values: Mapping[str, Array]) -> None:
        """The tensors of one batch."""
        for name in self.names:
            seen = values[name][np.isfinite(values[name])]
            low, high = self._seen.get(name, (0.0, 0.0))
            if seen.size:
                self._seen[name] = (min(low, float(seen.min())), max(high, float(seen.max())))

    @property
    def found(self) -> dict[str, tuple[float, float]]:
        """By tensor."""
        return {name: self._seen.get(name, (0.0, 1.0)) for name in self.names}


class Look(Protocol):
    """What keeps something of the tensors that it names, batch by batch."""

    names: list[str]

    def __call__(self, values: Mapping[str, Array]) -> None:
        """The tensors of one batch."""


def look(proto: Any, session_of: Any, batches: Sequence[Mapping[str, Array]], looks: Sequence[Look]) -> None:
    """Show every look its tensors, in one pass over the batches for all."""
    names = sorted({name for one in looks for name in one.names})
    for values in observed(proto, session_of, batches, names) if names else ():
        for one in looks:
            one(values)


def moved_by(proto: Any, look: Look, other: Look) -> bool:
    """Whether what one look sees may differ in its last bits where the other looks too.

    ONNX Runtime computes a convolution and what reads it as one, unless somebody looks at what lies between.
    """
    readers = readers_of(proto)
    own = {node.output[0] for node in proto.graph.node if node.op_type == "Conv" and readers.get(node.output[0])}
    return bool(own & set(other.names) - set(look.names))


def observed(
    proto: Any, session_of: Any, batches: Sequence[Mapping[str, Array]], names: Sequence[str]
) -> Iterator[Mapping[str, Array]]:
    """The values of the named tensors, batch by batch."""
    from onnx import ModelProto, helper

    watched = ModelProto()
    watched.CopyFrom(proto)
    own = {one.name for one in [*proto.graph.output, *proto.graph.input]}
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in own)
    session = session_of(watched.SerializeToString())
    inputs = {one.name for one in proto.graph.input}
    asked = [name for name in names if name not in inputs]
    for batch in batches:
        told = session.run(asked, dict(batch)) if asked else []
        values = dict(zip(asked, told, strict=True)) | dict(batch)
        yield {name: values[name] for name in names}


def _after_convolutions(proto: Any) -> Iterator[str]:
    """What convolutions give, and, where only that reads it, the ReLU of it, and sums of these."""
    readers = readers_of(proto)
    for node in proto.graph.node:
        if node.op_type in ("Conv", "Add"):
            following = readers.get(node.output[0], [])
            alone = len(following) == 1 and following[0].op_type == "Relu"
            if node.op_type == "Conv" or alone:
                yield str(following[0].output[0] if alone else node.output[0])


def readers_of(proto: Any) -> dict[str, list[Any]]:
    """Which nodes read each tensor."""
    found: dict[str, list[Any]] = {}
    for node in proto.graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def with_contrib(proto: Any) -> Any:
    """The graph, changed in place, with ONNX Runtime's own operators among those that it may use."""
    from onnx import helper

    if not any(one.domain == "com.microsoft" for one in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto
