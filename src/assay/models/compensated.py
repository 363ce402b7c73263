r"""Rounding weights in turn: what one input's rounding loses goes into the weights of inputs not yet rounded.

$\|X W^T - X \hat W^T\|^2 = \sum_o (w_o - \hat w_o)^T X^T X (w_o - \hat w_o)$: all that is needed of the rows X that a
layer was seen to read is their mean square `(K, K)`; of a convolution, X are the windows that it multiplies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.linalg.lapack import dtrtri

from assay.models.graph_layers import Layer, look
from assay.values import Array

DAMPING = 0.01  # of the mean square, added to every input's: few rows do not span all inputs
WIDEST = 4096  # inputs of a layer up to which errors are compensated: time and memory grow with the square and more
WIDTH = 128  # inputs whose errors are moved at once
PLACES = 8192  # windows of a convolution that are looked at; more say little new


def in_turn(
    weight: Array,
    square: Array,
    scale_of: Callable[[Array, Array], Array],
    *,
    codes: tuple[int, int],
    width: int = WIDTH,
) -> tuple[Array, Array]:
    r"""Whole numbers `(O, K)` within `codes`, and scales `(O, G)`, one for `width` inputs, of weights `(O, K)`.

    The optimal update for $X^T X$ = `square` `(K, K)` (Frantar et al. 2023, algorithm 1). `scale_of` gives the scales
    `(O,)` of a run of weights, as they are when its turn comes, and the mean square of each of its inputs. Limits:
    greedy, in the order of inputs.
    """
    left, hessian = weight.astype(np.float64), square.astype(np.float64).copy()
    mean = max(float(np.trace(hessian)) / len(hessian), 1e-12)
    hessian[np.diag_indices_from(hessian)] += DAMPING * mean
    # The inverse is upper^T upper. Factored from the last input on, which needs no inverse: a sixth of the operations.
    backwards = np.linalg.cholesky(hessian[::-1, ::-1])[::-1, ::-1]
    upper = dtrtri(backwards)[0]
    importance, found, scales = np.diag(hessian), np.zeros(weight.shape), []
    for start in range(0, weight.shape[1], width):
        end = min(start + width, weight.shape[1])
        scale = scale_of(left[:, start:end], importance[start:end])
        lost = np.zeros((len(weight), end - start))
        for at in range(start, end):
            found[:, at] = np.clip(np.rint(left[:, at] / scale), *codes)
            lost[:, at - start] = (left[:, at] - found[:, at] * scale) / upper[at, at]
            left[:, at + 1 : end] -= np.outer(lost[:, at - start], upper[at, at + 1 : end])
        left[:, end:] -= lost @ upper[start:end, end:]
        scales.append(scale)
    return found, np.stack(scales, axis=1)


def compensated_codes(layer: Layer, weight: Array, scale: Array, square: Array, *, levels: int) -> Array:
    """A layer's weights as int8 codes of at most `levels` either way, at one scale `(O,)` an output, shaped as they."""
    flat = weight.T if layer.axis else weight.reshape(len(weight), -1)
    exact = scale.astype(np.float64)
    codes = in_turn(flat, square, lambda run, importance: exact, codes=(-levels, levels))[0].astype(np.int8)
    return np.ascontiguousarray(codes.T) if layer.axis else codes.reshape(weight.shape)


def squares(
    proto: Any, session_of: Any, batches: Sequence[Mapping[str, Array]], layers: Sequence[Layer]
) -> dict[str, Array]:
    """The `Squares` of some layers of a graph, run on the batches."""
    seen = Squares(proto, layers, num_rows_of(batches))
    look(proto, session_of, batches, [seen])
    return seen.found


def num_rows_of(batches: Sequence[Mapping[str, Array]]) -> int:
    """Rows of all batches."""
    return sum(len(next(iter(one.values()))) for one in batches)


class Squares:
    """Of every layer, by its weights' name, the mean of $x x^T$ over the rows or windows x that it read, `(K, K)`.

    Layers of more than `WIDEST` inputs, convolutions by group and those whose padding is not written out are left out.
    Layers that read one tensor in the same way share one array.
    """

    def __init__(self, proto: Any, layers: Sequence[Layer], num_rows: int) -> None:
        nodes = proto.graph.node
        self._alike: dict[tuple[str, Any], list[str]] = {}
        for layer in layers:
            if layer.num_sums <= WIDEST and _reads_plainly(layer, nodes[layer.place]):
                about = _window(layer, nodes[layer.place]) if layer.kind == "Conv" else ()
                self._alike.setdefault((layer.given, about), []).append(layer.weight)
        self._total: dict[Any, Any] = dict.fromkeys(self._alike, 0.0)
        self._num: dict[Any, int] = dict.fromkeys(self._alike, 0)
        self._each = -(-PLACES // max(1, num_rows))
        self.names = sorted({given for given, _ in self._alike})

    def __call__(self, values: Mapping[str, Array]) -> None:
        """The tensors of one batch."""
        for given, about in self._alike:
            seen = values[given]
            rows = windows(seen, about, self._each) if about else seen.reshape(-1, seen.shape[-1])
            exact = np.nan_to_num(rows.astype(np.float64), posinf=0.0, neginf=0.0)
            self._total[given, about] = self._total[given, about] + exact.T @ exact
            self._num[given, about] += len(exact)

    @property
    def found(self) -> dict[str, Array]:
        """By the weights' name."""
        means = {key: self._total[key] / max(1, self._num[key]) for key in self._alike}
        return {name: means[key] for key, names in self._alike.items() for name in names}


def windows(values: Array, about: tuple[tuple[int, ...], ...], each: int) -> Array:
    """What a convolution multiplies, `(n, C * kernel)`, at `each` places of every row `(N, C, ...)`, spread evenly.

    `about`: the kernel's sizes, strides, dilations, and padding before and after.
    """
    kernel, strides, steps, before, after = about
    padded = np.pad(values, [(0, 0), (0, 0), *zip(before, after, strict=True)])
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, steps, strict=True)]
    axes = range(2, values.ndim)
    seen: Any = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(axes))
    seen = seen[(slice(None), slice(None), *(slice(None, None, step) for step in strides))]
    seen = seen[(..., *(slice(None, None, step) for step in steps))]
    sizes = seen.shape[2 : values.ndim]
    num = int(np.prod(sizes))
    # Every row begins elsewhere, so that no place is left out in all of them.
    at = (
        np.linspace(0, num, min(each, num), endpoint=False).astype(np.int64) + 7 * np.arange(len(values))[:, None]
    ) % num
    places = np.unravel_index(at, sizes)
    found: Array = seen[(np.arange(len(values))[:, None], slice(None), *places)].reshape(at.size, -1)
    return found


def _reads_plainly(layer: Layer, node: Any) -> bool:
    given = {one.name: one for one in node.attribute}
    padded = "auto_pad" not in given or given["auto_pad"].s in (b"", b"NOTSET")
    return layer.groups == 1 and padded and (layer.kind != "Conv" or "kernel_shape" in given)


def _window(layer: Layer, node: Any) -> tuple[tuple[int, ...], ...]:
    given = {one.name: tuple(one.ints) for one in node.attribute}
    kernel = given["kernel_shape"]
    pads = given.get("pads", (0,) * (2 * len(kernel)))
    ones = (1,) * len(kernel)
    steps = given.get("strides", ones), given.get("dilations", ones)
    return kernel, *steps, pads[: len(kernel)], pads[len(kernel) :]
