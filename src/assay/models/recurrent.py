"""Recurrent layers: the gate equations, and PyTorch's fused kernels for the same parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from assay.errors import ModelError, Problem
from assay.models import defaults_of, register_architecture
from assay.models.kernels import Switched
from assay.models.text import TextClassifier, resolve_text, text_options
from assay.values import Column

Cell = Literal["rnn", "lstm", "gru"]
State = tuple[Tensor, ...]  # (hidden,), and for an LSTM (hidden, memory), each (N, H)
LAYERS: Mapping[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def rnn_step(given: Tensor, recurrent: Tensor, state: State) -> State:
    r"""Elman 1990: $h' = \tanh(Wx + b + Uh + c)$, with $Wx + b$ in `given` and $Uh + c$ in `recurrent`, `(N, H)`."""
    return (torch.tanh(given + recurrent),)


def lstm_step(given: Tensor, recurrent: Tensor, state: State) -> State:
    r"""Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000; `given`, `recurrent` are `(N, 4H)`.

    $i, f, o = \sigma(\cdot)$ and $g = \tanh(\cdot)$ of the four parts of $Wx + b + Uh + c$, in the order i, f, g, o;
    $m' = f \odot m + i \odot g$ and $h' = o \odot \tanh m'$.
    """
    enter, forget, new, out = (given + recurrent).chunk(4, dim=-1)
    memory = torch.sigmoid(forget) * state[1] + torch.sigmoid(enter) * torch.tanh(new)
    return torch.sigmoid(out) * torch.tanh(memory), memory


def gru_step(given: Tensor, recurrent: Tensor, state: State) -> State:
    r"""Cho et al. 2014, with the reset gate after the product; `given`, `recurrent` are `(N, 3H)`.

    With x the three parts of $Wx + b$ and u those of $Uh + c$, $r = \sigma(x_r + u_r)$, $z = \sigma(x_z + u_z)$,
    $n = \tanh(x_n + r \odot u_n)$ and $h' = (1 - z) \odot n + z \odot h$.
    """
    x_reset, x_update, x_new = given.chunk(3, dim=-1)
    u_reset, u_update, u_new = recurrent.chunk(3, dim=-1)
    update = torch.sigmoid(x_update + u_update)
    new = torch.tanh(x_new + torch.sigmoid(x_reset + u_reset) * u_new)
    return ((1 - update) * new + update * state[0],)


STEPS: Mapping[str, Callable[[Tensor, Tensor, State], State]] = {"rnn": rnn_step, "lstm": lstm_step, "gru": gru_step}


class Recurrent(Switched):
    """Embedded tokens `(N, L, D)` to hidden states `(N, L, H)`, or `(N, L, 2H)` in both directions; 0 at padding.

    The parameters are those of one `nn.RNN`, `nn.LSTM` or `nn.GRU`, whose fused kernel runs unless `written_out` asks
    for the gate equations of this file; padding changes no state in either. Recurrent weights start orthogonal, biases
    at 0 and an LSTM's forget gate at 1 (Jozefowicz et al. 2015, section 2.2). Limits: L steps one after the other.
    One core, 128 texts of some 23 words, 32 hidden both ways: the LSTM kernel answers 340,000 words a second and trains
    on 70,000; the equations take 1.8 and 2.0 times as long (GRU 1.9 and 1.5, RNN 1.3 and 1.0).
    """

    def __init__(
        self,
        num_inputs: int,
        *,
        cell: Cell = "lstm",
        num_hidden: int = 32,
        num_layers: int = 1,
        bidirectional: bool = True,
        layer_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = {"num_inputs": num_inputs, "num_hidden": num_hidden, "num_layers": num_layers}
        wrong = [Problem(f"{name} is {size}", "1 or more") for name, size in sizes.items() if size < 1]
        wrong += [] if cell in LAYERS else [Problem(f"cell is {cell!r}", ", ".join(LAYERS))]
        if not 0 <= layer_dropout < 1:
            wrong.append(Problem(f"layer_dropout is {layer_dropout}", "0 to below 1"))
        if wrong:
            raise ModelError(wrong)
        self.cell = cell
        self.num_outputs = num_hidden * (2 if bidirectional else 1)
        between = layer_dropout if num_layers > 1 else 0.0
        self.layers = LAYERS[cell](
            num_inputs, num_hidden, num_layers, batch_first=True, bidirectional=bidirectional, dropout=between
        )
        for name, parameter in self.layers.named_parameters():
            if name.startswith("weight_hh"):
                for gate in parameter.chunk(parameter.shape[0] // num_hidden):
                    nn.init.orthogonal_(gate)
            elif name.startswith("weight_ih"):
                nn.init.uniform_(parameter, -1 / math.sqrt(num_hidden), 1 / math.sqrt(num_hidden))
            else:
                nn.init.zeros_(parameter)
                if cell == "lstm" and name.startswith("bias_ih"):
                    nn.init.ones_(parameter[num_hidden : 2 * num_hidden])

    def forward(self, embedded: Tensor, seen: Tensor) -> Tensor:
        """`(N, L, D)` and the mask `(N, L)`, True up to each row's last token, to states of every position."""
        if self.kernel == "written" or not len(embedded):  # nothing cannot be packed
            return self._written(embedded, seen)
        if not self.layers.bidirectional:
            states = self.layers(embedded)[0]  # what follows a token never reaches it, so nothing needs packing
        else:
            lengths = seen.sum(dim=1).clamp_min(1).cpu()
            packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
            states, _ = pad_packed_sequence(self.layers(packed)[0], batch_first=True, total_length=embedded.shape[1])
        masked: Tensor = states * seen[:, :, None]
        return masked

    def _written(self, embedded: Tensor, seen: Tensor) -> Tensor:
        layers, states = self.layers, embedded
        for layer in range(layers.num_layers):
            if layer and layers.dropout:
                states = nn.functional.dropout(states, layers.dropout, self.training)
            ways = ["", "_reverse"] if layers.bidirectional else [""]
            states = torch.cat([self._one_way(states, seen, f"l{layer}{way}") for way in ways], dim=2)
        return states * seen[:, :, None]

    def _one_way(self, inputs: Tensor, seen: Tensor, name: str) -> Tensor:
        weights = {
            part: getattr(self.layers, f"{part}_{name}") for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        given = nn.functional.linear(inputs, weights["weight_ih"], weights["bias_ih"])
        zero = inputs.new_zeros(len(inputs), self.layers.hidden_size)
        state: State = (zero, zero) if self.cell == "lstm" else (zero,)
        found: dict[int, Tensor] = {}
        order = range(inputs.shape[1])
        for place in reversed(order) if name.endswith("_reverse") else order:
            recurrent = nn.functional.linear(state[0], weights["weight_hh"], weights["bias_hh"])
            moved = STEPS[self.cell](given[:, place], recurrent, state)
            at = seen[:, place, None]
            state = tuple(torch.where(at, after, before) for after, before in zip(moved, state, strict=True))
            found[place] = state[0]
        return torch.stack([found[place] for place in order], dim=1)

    def last(self, states: Tensor, seen: Tensor) -> Tensor:
        """The state after the last token, and of the way back after the first: `(N, num_outputs)`."""
        at = (seen.sum(dim=1) - 1).clamp_min(0)[:, None, None].expand(-1, 1, states.shape[2])
        ends = states.gather(1, at)[:, 0]
        if not self.layers.bidirectional:
            return ends
        half = self.num_outputs // 2
        return torch.cat([ends[:, :half], states[:, 0, half:]], dim=1)


def _classifier(cell: Cell, columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    rest = dict(params)
    options = text_options(columns, rest)
    pool = rest.pop("pool")
    body = Recurrent(options.dim, cell=cell, **rest)
    return TextClassifier(body, num_outputs=num_outputs, options=options, pool=pool)


def _resolved(columns: Sequence[Column], params: Mapping[str, Any]) -> Mapping[str, Any]:
    rest = defaults_of(Recurrent.__init__, without=["cell"])
    return resolve_text(columns, params, rest={"pool": "mean_max", **rest})


def _resolved_attention(columns: Sequence[Column], params: Mapping[str, Any]) -> Mapping[str, Any]:
    return _resolved(columns, {"pool": "attention", **params})


def _rnn(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    return _classifier("rnn", columns, num_outputs, params)


def _lstm(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    return _classifier("lstm", columns, num_outputs, params)


def _gru(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    return _classifier("gru", columns, num_outputs, params)


def _lstm_attention(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    return _classifier("lstm", columns, num_outputs, params)


register_architecture("rnn", _rnn, resolver=_resolved)
register_architecture("lstm", _lstm, resolver=_resolved)
register_architecture("gru", _gru, resolver=_resolved)
register_architecture("lstm_attention", _lstm_attention, resolver=_resolved_attention)
