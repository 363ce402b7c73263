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
Back = tuple[Tensor, Tensor, Tensor]  # gradients by W x + b and by U h + c (T, n, G H), and by x (T, n, I)
Weights = dict[str, Tensor]


@dataclass
class Way:
    """One direction of one layer: what its two products were given, and after the backward pass their gradients."""

    name: str  # "weight_ih_l0" without the part: "l0", "l0_reverse"
    weights: Weights
    given: Tensor  # (T, n, I)
    before: Tensor  # (T, n, H): the state each step started from
    both: Tensor | None = None  # (T, n, I + H): given and before side by side, where one gradient serves both
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

    def beside(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and the state each step starts from in one array, and where states go: one product serves both."""
        width = inputs.shape[2]
        starts, states = self.slots(width + self.weights["weight_hh"].shape[1])
        starts[:, :, :width] = inputs
        self.both, self.given, self.before = starts, starts[:, :, :width], starts[:, :, width:]
        return starts, states[:, :, width:]

    def joined(self) -> tuple[Tensor, Tensor | None]:
        """Both weights side by side `(G H, I + H)`, and the sum of the shifts."""
        shift = self.weights.get("bias_ih")
        wide = torch.cat([self.weights["weight_ih"], self.weights["weight_hh"]], dim=1)
        return wide, None if shift is None else shift + self.weights["bias_hh"]


def _opened(shift: Tensor | None, both: Tensor, weight: Tensor, out: Tensor) -> Tensor:
    """The gates of one step before they are bent, `(n, G H)`."""
    if shift is None:
        return torch.mm(both, weight, out=out)
    return torch.addmm(shift, both, weight, out=out)


def _steps(*arrays: Tensor) -> list[tuple[Tensor, ...]]:
    """What each step of time sees of arrays `(T, n, ...)`."""
    return list(zip(*(one.unbind(0) for one in arrays), strict=True))


def _hold(now: Tensor, before: Tensor, seen: Tensor | None, t: int) -> None:
    """Where a row has ended, its state stays what it was."""
    if seen is not None:
        torch.lerp(before, now, seen[t], out=now)


def _taken(carried: Tensor, up: Tensor, seen: Tensor | None, t: int) -> tuple[Tensor, Tensor | None]:
    """The gradient by a step's state, and what of it goes by a step that a row does not take."""
    whole = carried + up
    if seen is None:
        return whole, None
    taken = whole * seen[t]
    return taken, whole - taken


def _rnn(inputs: Tensor, way: Way, seen: Tensor | None) -> Steps:
    starts, states = way.beside(inputs)
    wide, shift = way.joined()
    for t in way.order:
        torch.tanh(_opened(shift, starts[t], wide.T, torch.empty_like(states[t])), out=states[t])
        _hold(states[t], way.before[t], seen, t)
    return states, [states]


def _rnn_back(up: Tensor, saved: list[Tensor], way: Way, seen: Tensor | None) -> Back:
    states, (wide, _) = saved[0], way.joined()
    gates, by_both = torch.empty_like(up), torch.empty(*up.shape[:2], wide.shape[1])
    carried = up.new_zeros(up.shape[1:])
    for t in reversed(way.order):
        taken, passed = _taken(carried, up[t], seen, t)
        torch.addcmul(taken, taken * states[t], states[t], value=-1, out=gates[t])
        carried = torch.mm(gates[t], wide, out=by_both[t])[:, -up.shape[2] :]
        carried = carried if passed is None else carried + passed
    return gates, gates, by_both[:, :, : -up.shape[2]]


def _lstm(inputs: Tensor, way: Way, seen: Tensor | None) -> Steps:
    """A step at a time while its numbers are near the processor; tanh(x) as 2 sigmoid(2 x) - 1, five times as fast."""
    starts, states = way.beside(inputs)
    length, num_rows, width = states.shape
    memories, kept = way.slots(width)
    wide, shift = way.joined()
    wide[2 * width : 3 * width] *= 2
    if shift is not None:
        shift[2 * width : 3 * width] *= 2
    opened, tanhs = torch.empty(length, num_rows, 4 * width), torch.empty(length, num_rows, width)
    one, over = torch.tensor(-1.0), wide.T
    steps = _steps(starts, opened, *opened.chunk(4, dim=2), memories, kept, tanhs, states)
    for t in way.order:
        start, gates, enter, forget, new, out, before, memory, bent, state = steps[t]
        _opened(shift, start, over, gates).sigmoid_()
        torch.add(one, new, alpha=2, out=new)
        torch.mul(forget, before, out=memory).addcmul_(enter, new)
        _hold(memory, before, seen, t)
        torch.add(one, torch.mul(memory, 2, out=bent).sigmoid_(), alpha=2, out=bent)
        _hold(torch.mul(out, bent, out=state), way.before[t] if seen is not None else state, seen, t)
    return states, [opened, memories, tanhs]


def _lstm_back(up: Tensor, saved: list[Tensor], way: Way, seen: Tensor | None) -> Back:
    """The gradients by the gates take the gates' own place."""
    opened, memories, tanhs = saved
    wide, width = way.joined()[0], up.shape[2]
    by_both = torch.empty(*up.shape[:2], wide.shape[1])
    carried, kept = up.new_zeros(up.shape[1:]), up.new_zeros(up.shape[1:])
    moved, fresh, bent = (torch.empty_like(kept) for _ in range(3))
    steps = _steps(opened, *opened.chunk(4, dim=2), memories, tanhs, up, by_both, by_both[:, :, -width:])
    for t in reversed(way.order):
        gates, enter, forget, new, out, memory, tanh, above, by, by_state = steps[t]
        taken, passed = _taken(carried, above, seen, t)
        held = kept if seen is None else kept * seen[t]
        torch.mul(taken.mul_(out), tanh, out=bent)
        torch.add(held, taken, out=fresh).addcmul_(bent, tanh, value=-1)
        torch.addcmul(bent, bent, out, value=-1, out=out)
        waited = None if seen is None else kept - held
        kept = fresh * forget
        torch.mul(kept, memory, out=moved)
        kept = kept if waited is None else kept + waited
        torch.addcmul(moved, moved, forget, value=-1, out=forget)
        torch.mul(fresh.mul_(enter), new, out=moved)
        torch.addcmul(moved, moved, enter, value=-1, out=enter)
        torch.addcmul(fresh, moved, new, value=-1, out=new)
        torch.mm(gates, wide, out=by)
        carried = by_state if passed is None else by_state + passed
    return opened, opened, by_both[:, :, :-width]


def _gru(inputs: Tensor, way: Way, seen: Tensor | None) -> Steps:
    """The reset gate comes between the two products, so each keeps a gradient of its own."""
    given = nn.functional.linear(inputs, way.weights["weight_ih"], way.weights.get("bias_ih"))
    width = given.shape[2] // 3
    way.before, states = way.slots(width)
    hidden, shift, one = way.weights["weight_hh"].T, way.weights.get("bias_hh"), torch.tensor(-1.0)
    recurrent = torch.empty_like(given)
    for t in way.order:
        back = _opened(shift, way.before[t], hidden, recurrent[t])
        reset, update = given[t, :, : 2 * width].add_(back[:, : 2 * width]).sigmoid_().chunk(2, dim=1)
        new = given[t, :, 2 * width :].addcmul_(reset, back[:, 2 * width :])
        torch.add(one, new.mul_(2).sigmoid_(), alpha=2, out=new)
        _hold(torch.lerp(new, way.before[t], update, out=states[t]), way.before[t], seen, t)
    return states, [given, recurrent]


def _gru_back(up: Tensor, saved: list[Tensor], way: Way, seen: Tensor | None) -> Back:
    """The gradients by the gates take the gates' own place."""
    opened, recurrent = saved
    width, carried = up.shape[2], up.new_zeros(up.shape[1:])
    for t in reversed(way.order):
        (reset, update, new), back = opened[t].chunk(3, dim=1), recurrent[t]
        taken, passed = _taken(carried, up[t], seen, t)
        stayed = taken * update
        moved = torch.sub(way.before[t], new).mul_(stayed)
        torch.addcmul(moved, moved, update, value=-1, out=update)
        entered = taken.sub_(stayed)
        torch.addcmul(entered, torch.mul(entered, new, out=moved), new, value=-1, out=new)
        torch.mul(new, back[:, 2 * width :], out=moved).mul_(reset)
        torch.mul(new, reset, out=back[:, 2 * width :])
        torch.addcmul(moved, moved, reset, value=-1, out=reset)
        back[:, : 2 * width] = opened[t, :, : 2 * width]
        carried = torch.addmm(stayed if passed is None else stayed + passed, back, way.weights["weight_hh"])
    return opened, recurrent, opened @ way.weights["weight_ih"]


CELLS: dict[type[nn.RNNBase], tuple[Callable[..., Steps], Callable[..., Back]]] = {
    nn.RNN: (_rnn, _rnn_back),
    nn.LSTM: (_lstm, _lstm_back),
    nn.GRU: (_gru, _gru_back),
}


class _Begin(torch.autograd.Function):
    """Where a graph begins though no parameter asks for a gradient: what was given, as if it hung on `begin ()`."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, begin: Tensor) -> Tensor:
        """The same numbers."""
        return given.detach()

    @staticmethod
    def backward(ctx: Any, *up: Tensor) -> Any:
        """Nothing that anybody reads."""
        return None, None


def begun(given: Tensor, begin: Tensor) -> Tensor:
    """`given`, asking for a gradient."""
    found: Tensor = _Begin.apply(given, begin)  # type: ignore[no-untyped-call]
    return found


class _OneWay(torch.autograd.Function):
    """States of one direction; its backward pass leaves the gradients by the gates in the `Way`."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, way: Way, layer: nn.RNNBase, seen: Tensor | None) -> Tensor:
        """Inputs `(T, n, I)` and the mask `(T, n, 1)` of 0 and 1, None where all is seen, to states `(T, n, H)`."""
        states, ctx.saved = CELLS[type(layer)][0](inputs, way, seen)
        ctx.way, ctx.back, ctx.seen = way, CELLS[type(layer)][1], seen
        return states

    @staticmethod
    def backward(ctx: Any, *up: Tensor) -> Any:
        """Gradient by the inputs; those by the gates go to the way."""
        way = ctx.way
        way.gates, way.recurrent, by_inputs = ctx.back(up[0], ctx.saved, way, ctx.seen)
        return by_inputs, None, None, None


@dataclass
class Recorded:
    """What stands in for the forward pass of an `nn.RNN`, `nn.LSTM` or `nn.GRU` while gradients of rows are taken."""

    name: str
    layer: nn.RNNBase
    begin: Tensor  # (): where the graph begins if the inputs hang on no other layer
    ways: list[Way] = field(default_factory=list)

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
                asking = states if states.requires_grad else begun(states, self.begin)
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
            if way.both is not None:  # one gradient serves both
                both = way.both.transpose(0, 1)
                found.append(Product(parts, way.gates.transpose(0, 1), may_change=True, both=both))
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
