r"""RNN, LSTM and GRU with the gradients by their gates laid open: forward and backward written out, no graph between.

With $g_t = W x_t + b$ and $u_t = U h_{t-1} + c$, the gradients of single rows are products of $\partial L/\partial g_t$
with $x_t$ and of $\partial L/\partial u_t$ with $h_{t-1}$. The fused kernels show neither, so this file steps through
time itself, in both directions, and hands them out. All arrays are time first, `(T, n, ...)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from assay.errors import ModelError, Problem
from assay.treatments.train._forms import Form, Part, Product

Steps = tuple[Tensor, list[Tensor]]  # states (T, n, H), and what the way back needs
Weights = dict[str, Tensor]


@dataclass
class Way:
    """One direction of one layer: what its two products were given, and after the backward pass their gradients."""

    name: str  # "weight_ih_l0" without the part: "l0", "l0_reverse"
    weights: Weights
    given: Tensor  # (T, n, I)
    before: Tensor  # (T, n, H): the state each step started from
    gates: Tensor | None = None  # (T, n, G H): gradient by W x + b
    recurrent: Tensor | None = None  # (T, n, G H): gradient by U h + c; the same array but for a GRU

    @property
    def order(self) -> list[int]:
        """Steps of time in the order they are taken."""
        steps = list(range(len(self.given)))
        return steps[::-1] if self.name.endswith("_reverse") else steps

    def slots(self, width: int) -> tuple[Tensor, Tensor]:
        """Where each step starts and where it ends, `(T, n, width)` each, one array a step apart: nothing is copied."""
        length, num_rows = self.given.shape[:2]
        whole = torch.empty(length + 1, num_rows, width)
        if self.name.endswith("_reverse"):
            whole[-1] = 0
            return whole[1:], whole[:-1]
        whole[0] = 0
        return whole[:-1], whole[1:]


def _hold(now: Tensor, before: Tensor, seen: Tensor | None, t: int) -> None:
    """Where a row has ended, its state stays what it was."""
    if seen is not None:
        torch.lerp(before[t], now[t], seen[t], out=now[t])


def _masked(derivative: Tensor, seen: Tensor | None) -> Tensor:
    return derivative if seen is None else derivative.mul_(seen)


def _passed(carried: Tensor, seen: Tensor | None, t: int) -> Tensor | None:
    """What goes by a step that a row does not take."""
    return None if seen is None else carried * (1 - seen[t])


def _joined(passed: Tensor | None, gates: Tensor, weight: Tensor) -> Tensor:
    return gates @ weight if passed is None else torch.addmm(passed, gates, weight)


def _rnn(given: Tensor, way: Way, seen: Tensor | None) -> Steps:
    starts, states = way.slots(given.shape[2])
    hidden = way.weights["weight_hh"].T
    for t in way.order:
        torch.tanh(given[t].addmm_(starts[t], hidden), out=states[t])
        _hold(states, starts, seen, t)
    return states, [starts, states]


def _rnn_back(up: Tensor, saved: list[Tensor], way: Way, seen: Tensor | None) -> tuple[Tensor, Tensor]:
    gates, carried = torch.empty_like(up), up.new_zeros(up.shape[1:])
    slope = _masked(1 - saved[1].square(), seen)
    for t in reversed(way.order):
        carried = carried + up[t]
        torch.mul(carried, slope[t], out=gates[t])
        carried = _joined(_passed(carried, seen, t), gates[t], way.weights["weight_hh"])
    return gates, gates


def _lstm(given: Tensor, way: Way, seen: Tensor | None) -> Steps:
    width = given.shape[2] // 4
    (starts, states), (memories, kept) = way.slots(width), way.slots(width)
    tanhs, hidden = torch.empty(*given.shape[:2], width), way.weights["weight_hh"].T
    for t in way.order:
        opened = given[t].addmm_(starts[t], hidden)
        opened[:, : 2 * width].sigmoid_()
        opened[:, 2 * width : 3 * width].tanh_()
        opened[:, 3 * width :].sigmoid_()
        enter, forget, new, out = opened.chunk(4, dim=1)
        torch.mul(forget, memories[t], out=kept[t]).addcmul_(enter, new)
        _hold(kept, memories, seen, t)
        torch.mul(out, torch.tanh(kept[t], out=tanhs[t]), out=states[t])
        _hold(states, starts, seen, t)
    return states, [starts, given, memories, tanhs]


def _lstm_back(up: Tensor, saved: list[Tensor], way: Way, seen: Tensor | None) -> tuple[Tensor, Tensor]:
    _, opened, memories, tanhs = saved
    # All that does not depend on what comes back is computed for all steps at once, in the gates' own place.
    shape = (*up.shape[:2], 4, up.shape[2])
    enter, forget, new, out = opened.view(shape).unbind(2)
    by_state = _masked(torch.addcmul(out, out, tanhs.square(), value=-1), seen)
    kept_share = forget.contiguous()
    by_new = torch.addcmul(enter, enter, new.square(), value=-1)
    enter.addcmul_(enter, enter, value=-1).mul_(new)
    forget.addcmul_(forget, forget, value=-1).mul_(memories)
    out.addcmul_(out, out, value=-1).mul_(tanhs)
    new.copy_(by_new)
    gates = _masked(opened, seen)
    carried, kept = up.new_zeros(up.shape[1:]), up.new_zeros(up.shape[1:])
    for t in reversed(way.order):
        carried = carried + up[t]
        held = kept if seen is None else kept * seen[t]
        fresh = torch.addcmul(held, carried, by_state[t])
        gates[t].mul_(torch.cat([fresh, fresh, fresh, carried], dim=1))
        kept = fresh * kept_share[t] if seen is None else torch.addcmul(kept - held, fresh, kept_share[t])
        carried = _joined(_passed(carried, seen, t), gates[t], way.weights["weight_hh"])
    return gates, gates


def _gru(given: Tensor, way: Way, seen: Tensor | None) -> Steps:
    width = given.shape[2] // 3
    starts, states = way.slots(width)
    hidden = way.weights["weight_hh"].T
    shift = way.weights.get("bias_hh", given.new_zeros(3 * width))
    recurrent = torch.empty_like(given)
    for t in way.order:
        back = torch.addmm(shift, starts[t], hidden, out=recurrent[t])
        opened = given[t, :, : 2 * width].add_(back[:, : 2 * width]).sigmoid_()
        new = given[t, :, 2 * width :].addcmul_(opened[:, :width], back[:, 2 * width :]).tanh_()
        torch.lerp(new, starts[t], opened[:, width:], out=states[t])
        _hold(states, starts, seen, t)
    return states, [starts, given, recurrent]


def _gru_back(up: Tensor, saved: list[Tensor], way: Way, seen: Tensor | None) -> tuple[Tensor, Tensor]:
    starts, opened, back = saved
    shape = (*up.shape[:2], 3, up.shape[2])
    reset, update, new = opened.view(shape).unbind(2)
    slopes = torch.empty(*up.shape[:2], 2, up.shape[2])
    torch.mul(torch.addcmul(update, update, update, value=-1), starts - new, out=slopes[:, :, 0])
    torch.mul(1 - update, 1 - new.square(), out=slopes[:, :, 1])
    _masked(slopes.flatten(2), seen)
    by_reset = torch.addcmul(reset, reset, reset, value=-1).mul_(back.view(shape)[:, :, 2])
    kept = update if seen is None else torch.lerp(torch.ones_like(update), update, seen)
    gates, recurrent = torch.empty(shape), torch.empty(shape)
    carried = up.new_zeros(up.shape[1:])
    for t in reversed(way.order):
        carried = carried + up[t]
        torch.mul(slopes[t], carried[:, None], out=gates[t, :, 1:])
        torch.mul(gates[t, :, 2], by_reset[t], out=gates[t, :, 0])
        recurrent[t, :, :2] = gates[t, :, :2]
        torch.mul(gates[t, :, 2], reset[t], out=recurrent[t, :, 2])
        carried = torch.addmm(carried * kept[t], recurrent[t].flatten(1), way.weights["weight_hh"])
    return gates.flatten(2), recurrent.flatten(2)


CELLS: dict[type[nn.RNNBase], tuple[Callable[..., Steps], Callable[..., tuple[Tensor, Tensor]]]] = {
    nn.RNN: (_rnn, _rnn_back),
    nn.LSTM: (_lstm, _lstm_back),
    nn.GRU: (_gru, _gru_back),
}


class _OneWay(torch.autograd.Function):
    """States of one direction; its backward pass leaves the gradients by the gates in the `Way`."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, way: Way, layer: nn.RNNBase, seen: Tensor | None) -> Tensor:
        """Inputs `(T, n, I)` and the mask `(T, n, 1)` of 0 and 1, None where all is seen, to states `(T, n, H)`."""
        shift = way.weights.get("bias_ih")
        if shift is not None and not isinstance(layer, nn.GRU):
            shift = shift + way.weights["bias_hh"]  # one shift serves both; a GRU's reset gate comes between them
        way.given = inputs
        given = nn.functional.linear(inputs, way.weights["weight_ih"], shift)
        states, ctx.saved = CELLS[type(layer)][0](given, way, seen)
        way.before = ctx.saved[0]
        ctx.way, ctx.back, ctx.seen = way, CELLS[type(layer)][1], seen
        return states

    @staticmethod
    def backward(ctx: Any, *up: Tensor) -> Any:
        """Gradient by the inputs; those by the gates go to the way."""
        way = ctx.way
        way.gates, way.recurrent = ctx.back(up[0].contiguous(), ctx.saved, way, ctx.seen)
        return way.gates @ way.weights["weight_ih"], None, None, None


@dataclass
class Recorded:
    """What stands in for the forward pass of an `nn.RNN`, `nn.LSTM` or `nn.GRU` while gradients of rows are taken."""

    name: str
    layer: nn.RNNBase
    ways: list[Way] = field(default_factory=list)
    leaves: list[Tensor] = field(default_factory=list)  # inputs that the graph begins at

    def __call__(self, inputs: Any, start: Any = None) -> tuple[Any, Any]:
        """As the layer's own: a batch or a packed one to states; the last state is not handed out."""
        if self.ways or start is not None:
            what = "runs more than once in a pass" if self.ways else "starts from a given state"
            raise ModelError(Problem(f"recurrent layer {self.name!r} {what}", "once, from zeros"))
        packed = isinstance(inputs, PackedSequence)
        if packed:
            batch, lengths = pad_packed_sequence(inputs)
        else:
            batch = inputs.transpose(0, 1) if self.layer.batch_first else inputs
            lengths = torch.full((batch.shape[1],), len(batch))
        mask = torch.arange(len(batch))[:, None] < lengths
        states = self._layers(batch.contiguous(), None if mask.all() else mask.to(batch.dtype)[:, :, None])
        if packed:
            return pack_padded_sequence(states, lengths, enforce_sorted=False), None
        return states.transpose(0, 1) if self.layer.batch_first else states, None

    def _layers(self, states: Tensor, seen: Tensor | None) -> Tensor:
        layer = self.layer
        for number in range(layer.num_layers):
            if number and layer.dropout:
                states = nn.functional.dropout(states, layer.dropout, layer.training)
            found = []
            for ending in ["", "_reverse"] if layer.bidirectional else [""]:
                where = f"l{number}{ending}"
                parts = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if layer.bias else ()))
                weights = {part: getattr(layer, f"{part}_{where}").detach() for part in parts}
                way = Way(where, weights, states, states)
                self.ways.append(way)
                asking = states
                if not states.requires_grad:
                    asking = states.detach().requires_grad_()
                    self.leaves.append(asking)
                found.append(_OneWay.apply(asking, way, layer, seen))  # type: ignore[no-untyped-call]
            states = torch.cat(found, dim=2) if len(found) > 1 else found[0]
        return states

    def forms(self) -> list[Form]:
        """What each way adds, after the backward pass."""
        found: list[Form] = []
        for way in self.ways:
            if way.gates is None or way.recurrent is None:
                continue  # nothing of it reaches the loss: its gradient is 0
            parts = [self._part("ih", way, way.given), self._part("hh", way, way.before)]
            if way.gates is way.recurrent:  # one gradient serves both
                found.append(Product(parts, way.gates.transpose(0, 1), may_change=True))
            else:
                found.append(Product(parts[:1], way.gates.transpose(0, 1)))
                found.append(Product(parts[1:], way.recurrent.transpose(0, 1)))
        return found

    def _part(self, part: str, way: Way, given: Tensor) -> Part:
        weight, bias = (f"{self.name}.{kind}_{part}_{way.name}".lstrip(".") for kind in ("weight", "bias"))
        shape = way.weights[f"weight_{part}"].shape
        return Part(weight, bias if self.layer.bias else None, shape, given.detach().transpose(0, 1))


def can_record(layer: nn.Module) -> bool:
    """Whether a layer's gates can be laid open: a plain recurrent layer with tanh, without projections."""
    if not isinstance(layer, nn.RNNBase) or type(layer) not in CELLS or layer.proj_size:
        return False
    return not isinstance(layer, nn.RNN) or layer.nonlinearity == "tanh"
