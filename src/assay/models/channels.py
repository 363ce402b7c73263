"""Networks with fewer units, filters and heads: what makes a unit, what reads it, and taking units out.

A registered architecture, so that what is left saves and loads: the one within, and how much of each group stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from assay.errors import ModelError, Problem
from assay.models import MLP, Architecture, register_architecture
from assay.models.attention import Rotary
from assay.models.cnn import Block, ChannelsLast
from assay.models.image import ImageEncoder, ImageNetwork
from assay.models.mlp import TableEncoder
from assay.models.recurrent import Recurrent
from assay.models.text import TextClassifier, TextEncoder
from assay.models.transformer import Encoder, EncoderBlock
from assay.models.wrapped import build_base, named_base, resolve_base
from assay.values import Column

NAME = "channels"
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)
POINTWISE = (nn.ReLU, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Identity, nn.Dropout)
POOLS = (nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AvgPool2d)
PASSING = (*POINTWISE, *POOLS, nn.Flatten, ChannelsLast)
PLAIN = (nn.Linear, nn.Conv2d, *NORMS)
KNOWN = (
    *(nn.Linear, nn.Conv2d, *NORMS, *PASSING, nn.Sequential, nn.LayerNorm, nn.Embedding, nn.RNNBase),
    *(TableEncoder, ImageEncoder, TextEncoder, Rotary),
)
ROWS = ("weight", "bias", "running_mean", "running_var")  # tensors of a layer with one entry a channel it makes
GATES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # of a recurrent layer


@dataclass(frozen=True)
class Cut:
    """Where the units of a group lie in one tensor: unit j at the indices `places[j]` along axis `dim`."""

    layer: str
    tensor: str
    dim: int
    places: Tensor  # (size, m)


@dataclass(frozen=True)
class Group:
    """Units that can only be taken out together with everything that makes and reads them.

    In each of `parts` runs of equal length the same number stays (the groups of a norm), and of all groups with the
    same `tied` name (directions and layers of one recurrent kernel).
    """

    name: str
    size: int
    made: tuple[Cut, ...]
    read: tuple[Cut, ...]
    parts: int = 1
    tied: str = ""


def groups_of(module: nn.Module) -> list[Group]:
    """Every group of units that can be taken out, in the order in which a module runs; none where that is not known.

    Hidden units of an `MLP`; filters and hidden units of an `ImageNetwork`, those that shortcuts add up as one group;
    heads and feed-forward units of a Transformer; hidden units of an RNN, LSTM or GRU; filters and hidden units of an
    `nn.Sequential` of layers that are known, the last of them linear.
    """
    if type(module) is nn.Sequential:
        layers = _in_turn(module)
        return _chain(layers) if layers else []
    if not isinstance(module, (MLP, ImageNetwork, TextClassifier)) or not _is_untouched(module):
        return []
    if isinstance(module, (MLP, ImageNetwork)):
        if not isinstance(module.body, nn.Sequential):
            return []
        return _chain([*((f"body.{at}", layer) for at, layer in module.body.named_children()), ("head", module.head)])
    if isinstance(module.body, Encoder):
        blocks = {name: part for name, part in module.named_modules() if isinstance(part, EncoderBlock)}
        return [group for name, block in blocks.items() for group in _block(name, block)]
    return _recurrent(module, module.body) if isinstance(module.body, Recurrent) else []


def _is_untouched(module: MLP | ImageNetwork | TextClassifier) -> bool:
    """Whether every layer is of a kind that is known: other treatments put their own in the place of some."""
    leaves = [part for part in module.modules() if not list(part.children())]
    return isinstance(module.head, nn.Linear) and all(isinstance(part, KNOWN) for part in leaves)


def keep(module: nn.Module, kept: Mapping[str, Tensor]) -> dict[tuple[str, str, int], Tensor]:
    """Take out, in place, all units of the named groups but those at the given positions.

    What stays of each tensor, by layer, tensor and axis. Raises ModelError for a group that the module does not have.
    """
    groups = {group.name: group for group in groups_of(module)}
    unknown = sorted(set(kept) - set(groups))
    if unknown:
        what = f"{type(module).__name__} has no units {', '.join(unknown)}"
        raise ModelError(Problem(what, ", ".join(groups) or "none"))
    stays: dict[tuple[str, str, int], Tensor] = {}
    for name, units in kept.items():
        leaves = torch.ones(groups[name].size, dtype=torch.bool)
        leaves[units] = False
        for cut in (*groups[name].made, *groups[name].read):
            at, whole = (cut.layer, cut.tensor, cut.dim), getattr(module.get_submodule(cut.layer), cut.tensor)
            stays.setdefault(at, torch.ones(whole.shape[cut.dim], dtype=torch.bool))[cut.places[leaves]] = False
    found = {at: torch.nonzero(mask).reshape(-1) for at, mask in stays.items()}
    for (layer, tensor, dim), places in found.items():
        _narrow(module.get_submodule(layer), tensor, dim, places)
    for part in module.modules():
        _count(part)
    return found


def _narrow(layer: nn.Module, name: str, dim: int, stays: Tensor) -> None:
    whole = getattr(layer, name)
    smaller = whole.detach().index_select(dim, stays)
    if isinstance(whole, nn.Parameter):
        setattr(layer, name, nn.Parameter(smaller, requires_grad=whole.requires_grad))
    else:
        layer.register_buffer(name, smaller)


def _count(part: nn.Module) -> None:
    """Set the sizes that a layer keeps beside its tensors."""
    if isinstance(part, nn.Linear):
        part.out_features, part.in_features = part.weight.shape
    elif isinstance(part, nn.Conv2d):
        part.out_channels, part.in_channels = part.weight.shape[:2]
    elif isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
        part.num_features = len(part.weight)
    elif isinstance(part, nn.GroupNorm):
        part.num_channels = len(part.weight)
    elif isinstance(part, Recurrent):
        part.layers.hidden_size = part.layers.all_weights[0][1].shape[1]
        part.num_outputs = part.layers.hidden_size * (2 if part.layers.bidirectional else 1)
    elif isinstance(part, EncoderBlock):
        part.attention.num_heads = len(part.attention.query.weight) // part.attention.width


def _rows(name: str, layer: nn.Module, places: Tensor) -> list[Cut]:
    """The cuts along the first axis of all that a layer has by channel."""
    return [Cut(name, tensor, 0, places) for tensor in ROWS if isinstance(getattr(layer, tensor, None), Tensor)]


def _runs(size: int, width: int, *, first: int = 0) -> Tensor:
    """Indices `(size, width)`: unit j has the `width` from `first + j * width` on."""
    return first + torch.arange(size * width).reshape(size, width)


# ------------------------------------------------------------------ chains of layers, with or without shortcuts


@dataclass
class _Stream:
    """Channels on their way: what made them, what has read them so far."""

    name: str
    size: int
    made: list[Cut] = field(default_factory=list)
    read: list[Cut] = field(default_factory=list)
    parts: int = 1

    def is_made_by(self, name: str, layer: nn.Module) -> None:
        """A layer gives the channels, or norms them."""
        self.made += _rows(name, layer, _runs(self.size, 1))
        if isinstance(layer, nn.GroupNorm):
            self.parts = layer.num_groups

    def is_read_by(self, name: str, layer: nn.Linear | nn.Conv2d) -> None:
        """A layer takes the channels, each as a run of equally many inputs (pixels, once they are flattened)."""
        self.read.append(Cut(name, "weight", 1, _runs(self.size, layer.weight.shape[1] // self.size)))

    def group(self) -> Group:
        """All of it."""
        return Group(self.name, self.size, tuple(self.made), tuple(self.read), self.parts)


def _started(name: str, layer: nn.Linear | nn.Conv2d) -> _Stream:
    stream = _Stream(name, len(layer.weight))
    stream.is_made_by(name, layer)
    return stream


def _in_turn(module: nn.Sequential) -> list[tuple[str, nn.Module]]:
    """The layers of a plain sequence, sequences within it opened; none where taking channels out may not be safe."""
    parts = list(module.named_modules(remove_duplicate=False))
    layers = [(name, part) for name, part in parts if type(part) is not nn.Sequential]
    weights = [id(one) for _, part in layers for one in part._parameters.values() if one is not None]
    fine = all(_is_plain(part) for _, part in layers) and _is_in_order([part for _, part in layers])
    return layers if fine and len(set(weights)) == len(weights) else []  # a shared weight cannot be cut in one place


def _is_plain(layer: nn.Module) -> bool:
    """Whether channel j is read, and made, at place j alone. Exactly these kinds: one made from them may do more."""
    if type(layer) not in (*PLAIN, *PASSING) or layer._forward_hooks or layer._forward_pre_hooks:
        return False
    if isinstance(layer, NORMS) and (layer.weight is None or getattr(layer, "running_mean", layer.weight) is None):
        return False  # nothing of it can be cut
    if isinstance(layer, nn.Conv2d):
        own = layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return own and layer.dilation == (1, 1)
    return not isinstance(layer, nn.Flatten) or (layer.start_dim, layer.end_dim) == (1, -1)


def _is_in_order(layers: Sequence[nn.Module]) -> bool:
    """Whether pictures are flattened once, before the first linear layer, and the last layer is linear."""
    kinds = [type(layer) for layer in layers]
    if not kinds or kinds[-1] is not nn.Linear:
        return False
    before, after = layers[: kinds.index(nn.Linear)], kinds[kinds.index(nn.Linear) :]
    flattened = [type(layer) for layer in before if isinstance(layer, (nn.Conv2d, nn.Flatten))]
    return not set(after) & {nn.Conv2d, nn.Flatten, *POOLS} and (not flattened or flattened[-1] is nn.Flatten)


def _chain(layers: Sequence[tuple[str, nn.Module]]) -> list[Group]:
    """Groups of layers that run one after the other, the last of them linear; none when one of them is not known."""
    groups: list[Group] = []
    stream: _Stream | None = None
    for name, layer in layers:
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            if stream is not None:
                stream.is_read_by(name, layer)
                groups.append(stream.group())
            stream = _started(name, layer)
        elif isinstance(layer, NORMS):
            if stream is not None:  # else it norms what comes in
                stream.is_made_by(name, layer)
        elif isinstance(layer, Block) and stream is not None:
            stream = _residual(name, layer, stream, groups)
        elif not isinstance(layer, PASSING):
            return []
    return groups


def _residual(name: str, block: Block, stream: _Stream, groups: list[Group]) -> _Stream:
    """The stream after a block: the one before it where the shortcut adds it as it is, else one that starts here."""
    inner: list[_Stream] = []
    ways = {"shortcut": list(block.shortcut.named_children()), "branch": list(block.branch.named_children())}
    after = stream
    for way, layers in ways.items():
        convolutions = [at for at, layer in layers if isinstance(layer, nn.Conv2d)]
        for at, layer in layers:
            path = f"{name}.{way}.{at}"
            if isinstance(layer, nn.Conv2d):
                (inner[-1] if inner else stream).is_read_by(path, layer)
                if at != convolutions[-1]:
                    inner.append(_started(path, layer))
                elif way == "shortcut":
                    after = _started(path, layer)
                else:
                    after.is_made_by(path, layer)
                    groups += [one.group() for one in inner]
                    inner = []
            elif isinstance(layer, NORMS):
                (inner[-1] if inner else after).is_made_by(path, layer)
    if after is not stream:
        groups.append(stream.group())
    return after


# ------------------------------------------------------------------ what reads texts


def _block(name: str, block: EncoderBlock) -> list[Group]:
    """The heads of an attention, and the units between the two linear layers after it."""
    attention, layers = block.attention, block.forward_layers
    heads, units = _runs(attention.num_heads, attention.width), _runs(len(layers.widen.weight), 1)
    made = [
        cut
        for part in ("query", "key", "value")
        for cut in _rows(f"{name}.attention.{part}", getattr(attention, part), heads)
    ]
    joined = Cut(f"{name}.attention.join", "weight", 1, heads)
    widened = tuple(_rows(f"{name}.forward_layers.widen", layers.widen, units))
    narrowed = Cut(f"{name}.forward_layers.narrow", "weight", 1, units)
    return [
        Group(f"{name}.attention", len(heads), tuple(made), (joined,)),
        Group(f"{name}.forward_layers", len(units), widened, (narrowed,)),
    ]


def _recurrent(module: TextClassifier, body: Recurrent) -> list[Group]:
    """The hidden units of every layer and direction: a unit has a row in each gate, and is read by all of them."""
    layers, groups = body.layers, []
    size, ways = layers.hidden_size, ("", "_reverse")[: 2 if layers.bidirectional else 1]
    for number in range(layers.num_layers):
        for place, way in enumerate(ways):
            end, units = f"l{number}{way}", _runs(size, 1, first=place * size)
            num_gates = len(getattr(layers, f"weight_hh_{end}")) // size
            gates = _runs(size, 1) + size * torch.arange(num_gates)
            made = [Cut("body.layers", f"{part}_{end}", 0, gates) for part in GATES]
            read = [Cut("body.layers", f"weight_hh_{end}", 1, _runs(size, 1))]
            if number + 1 < layers.num_layers:
                read += [Cut("body.layers", f"weight_ih_l{number + 1}{other}", 1, units) for other in ways]
            else:
                read += _pooled(module, units, width=size * len(ways))
            groups.append(Group(f"body.layers.{end}", size, tuple(made), tuple(read), tied="body.layers"))
    return groups


def _pooled(module: TextClassifier, units: Tensor, *, width: int) -> list[Cut]:
    """What reads the last states of width `width`: the head, twice unless it reads one state, and the attention."""
    read = [Cut("head", "weight", 1, units if module.pool == "last" else torch.cat([units, units + width], dim=1))]
    if module.attention is not None:
        read += [Cut(f"attention.{part}", "weight", 1, units) for part in ("query", "key")]
    return read


# ------------------------------------------------------------------ as an architecture


def channels_architecture(base: Architecture, kept: Mapping[str, int]) -> Architecture:
    """The architecture of `base` with so many units left in each group; an `mlp` stays one, with other widths."""
    if base.name == "mlp":
        return Architecture("mlp", {**base.params, "hidden": list(kept.values())})
    return Architecture(NAME, {"base": named_base(base), "kept": dict(kept)})


def _channels(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    module = build_base(NAME, params, parts=("base", "kept"), columns=columns, num_outputs=num_outputs)
    keep(module, {name: torch.arange(int(number)) for name, number in params["kept"].items()})
    return module


register_architecture(NAME, _channels, resolver=resolve_base)
