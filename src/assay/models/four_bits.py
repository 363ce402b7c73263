r"""Linear weights in 4 bits: groups of neighbouring inputs share a scale, two codes a byte; and the graph with them.

$w_{ok} \approx s_{og} (q_{ok} - 8)$ with q in 0..15 and g the group of input k: 4 bits a weight and 32 a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from assay.models.compensated import in_turn
from assay.models.graph_layers import layers_of, with_contrib
from assay.values import Array

MIDDLE = 8  # the code of 0
REACH = 7  # codes either way of it that a scale is fitted to
SHARES = np.linspace(0.7, 1.0, 13)  # of the largest weight of a group, that its scale may reach to
PAYS_FROM = 65_536  # weights of a layer from where on multiplying codes is no slower at batch 1 (see `expanded`)
LEVEL = {"int8": 4, "float32": 1}  # of accuracy, in the words of the operator


@dataclass(frozen=True)
class Codes:
    """Codes `(O, K)` uint8, 0..15, and scales `(O, G)` float32 of a layer's weights."""

    codes: Array
    scales: Array
    group: int

    def weights(self) -> Array:
        """What they stand for, `(O, K)` float32."""
        spread = np.repeat(self.scales, self.group, axis=1)[:, : self.codes.shape[1]]
        found: Array = (self.codes.astype(np.float32) - MIDDLE) * spread
        return found

    def packed(self) -> Array:
        """`(O, G, group / 2)` uint8, the earlier code in the lower half; what is missing of the last group is 0."""
        outputs, groups = self.scales.shape
        whole = np.full((outputs, groups * self.group), MIDDLE, dtype=np.uint8)
        whole[:, : self.codes.shape[1]] = self.codes
        pairs = whole.reshape(outputs, groups, self.group // 2, 2)
        found: Array = pairs[..., 0] | (pairs[..., 1] << 4)
        return found


def unpacked_codes(packed: Array, scales: Array, num_inputs: int) -> Codes:
    """The codes that `packed` packed.

    >>> made = Codes(np.array([[1, 15, 8]], dtype=np.uint8), np.ones((1, 2), dtype=np.float32), 2)
    >>> unpacked_codes(made.packed(), made.scales, 3).codes.tolist()
    [[1, 15, 8]]
    """
    pairs = np.stack([packed & 15, packed >> 4], axis=-1)
    return Codes(pairs.reshape(len(packed), -1)[:, :num_inputs], scales, 2 * packed.shape[2])


def nearest(weight: Array, group: int) -> Codes:
    """Weights `(O, K)` to their nearest codes; a group's scale reaches its largest: `|w - s (q - 8)| <= s / 2`."""
    starts = range(0, weight.shape[1], group)
    scales = np.stack([_scale(np.abs(weight[:, at : at + group]).max(axis=1) / REACH) for at in starts], axis=1)
    spread = np.repeat(scales, group, axis=1)[:, : weight.shape[1]]
    return Codes(_coded(weight, spread), scales, group)


def compensated(weight: Array, group: int, square: Array) -> Codes:
    r"""Codes that keep $\|X W^T - X \hat W^T\|^2$ small, by $X^T X$ = `square` `(K, K)` of calibration rows X.

    Inputs in turn: round, and move what was lost into the weights of the inputs not yet rounded (the optimal update of
    Frantar et al. 2023, algorithm 1). A group's scale is, of a few that clip its largest weight, the one with least
    error weighted by each input's mean square. Limits: greedy, in the order of inputs.
    """
    whole, scales = in_turn(weight, square, _searched, codes=(-MIDDLE, MIDDLE - 1), width=group)
    return Codes((whole + MIDDLE).astype(np.uint8), scales.astype(np.float32), group)


def _coded(weight: Array, scale: Array) -> Array:
    return (np.clip(np.rint(weight / scale), -MIDDLE, MIDDLE - 1) + MIDDLE).astype(np.uint8)


def _scale(found: Array) -> Array:
    return np.where(found > 0, found, 1.0).astype(np.float32)


def _searched(weight: Array, importance: Array) -> Array:
    """Of each output, the scale of a group with the least weighted squared error."""
    largest = np.abs(weight).max(axis=1)
    tried = [_scale(share * largest / REACH) for share in SHARES]
    errors = []
    for scale in tried:
        told = (_coded(weight, scale[:, None]).astype(np.float64) - MIDDLE) * scale[:, None]
        errors.append(((weight - told) ** 2 * importance).sum(axis=1))
    found: Array = np.stack(tried)[np.argmin(errors, axis=0), np.arange(len(weight))]
    return found


def four_bit_graph(proto: Any, codes: Mapping[str, Codes], arithmetic: Mapping[str, str]) -> Any:
    """A new graph with the named linear layers as ONNX Runtime's MatMulNBits, their biases in float32.

    `arithmetic` "int8" multiplies codes with inputs in 8 bits, whose scale is fitted to each row's own group; "float32"
    is expanded when a session is made.
    """
    from onnx import ModelProto, helper, numpy_helper

    layers = {one.place: one for one in layers_of(proto) if one.name in codes}
    added = {one.added for one in layers.values() if one.added >= 0}
    made, nodes, new = ModelProto(), [], {one.name: one for one in proto.graph.initializer}
    made.CopyFrom(proto)
    for place, node in enumerate(proto.graph.node):
        if place in added:
            continue
        if place not in layers:
            nodes.append(node)
            continue
        layer = layers[place]
        small, name = codes[layer.name], layer.weight
        inputs = [layer.given, f"{name}.packed", f"{name}.scales"] + (["", "", layer.bias] if layer.bias else [])
        new[f"{name}.packed"] = numpy_helper.from_array(small.packed(), f"{name}.packed")
        new[f"{name}.scales"] = numpy_helper.from_array(small.scales.reshape(-1), f"{name}.scales")
        about: dict[str, Any] = {"K": layer.num_sums, "N": layer.num_outputs, "bits": 4, "block_size": small.group}
        about["accuracy_level"] = LEVEL[arithmetic[layer.name]]
        output = proto.graph.node[layer.added if layer.added >= 0 else place].output[0]
        nodes.append(helper.make_node("MatMulNBits", inputs, [output], domain="com.microsoft", **about))
    return _filled(with_contrib(made), nodes, new)


def expanded(proto: Any) -> Any:
    """The graph with float32 weights in place of the 4-bit layers that compute in float32, so that they cost the same.

    From 256 x 256 weights on, multiplying codes is no slower at batch 1 (7.6 against 7.8 microseconds; 512 x 512: 12
    against 21), and over 64 rows from 512 x 512 (339 against 348; 256 x 256: 93 against 86); smaller ones are slower.
    """
    from onnx import ModelProto, helper, numpy_helper

    known, nodes = {one.name: one for one in proto.graph.initializer}, []
    for node in proto.graph.node:
        about = {one.name: one.i for one in node.attribute} if node.op_type == "MatMulNBits" else {}
        if about.get("accuracy_level") != LEVEL["float32"]:
            nodes.append(node)
            continue
        packed, scales = (numpy_helper.to_array(known[name]) for name in node.input[1:3])
        weight = unpacked_codes(packed, scales.reshape(len(packed), -1), about["K"]).weights().T
        name = f"{node.input[1]}.expanded"
        known[name] = numpy_helper.from_array(np.ascontiguousarray(weight), name)
        bias = node.input[5] if len(node.input) > 5 else ""
        product = f"{node.output[0]}.product" if bias else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], name], [product]))
        if bias:
            nodes.append(helper.make_node("Add", [product, bias], [node.output[0]]))
    if len(nodes) == len(proto.graph.node):
        same = all(one is other for one, other in zip(nodes, proto.graph.node, strict=True))
        if same:
            return proto
    made = ModelProto()
    made.CopyFrom(proto)
    return _filled(made, nodes, known)


def _filled(made: Any, nodes: Sequence[Any], initializers: Mapping[str, Any]) -> Any:
    """A graph with these nodes, and the initializers that they read."""
    used = {name for node in nodes for name in node.input}
    kept = [one for name, one in initializers.items() if name in used]
    copies = [type(one).FromString(one.SerializeToString()) for one in (*nodes, *kept)]
    del made.graph.node[:], made.graph.initializer[:]
    made.graph.node.extend(copies[: len(nodes)])
    made.graph.initializer.extend(copies[len(nodes) :])
    return made
