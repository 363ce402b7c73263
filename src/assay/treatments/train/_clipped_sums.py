"""The sum of clipped per-example gradients, from one forward and one backward pass."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from assay.errors import ModelError, Problem
from assay.treatments import _common
from assay.treatments.train._forms import Form, Scratch, sum_of
from assay.treatments.train._layers import Run, rule_of
from assay.treatments.train._recurrent import Recorded, begun, can_record
from assay.treatments.train._row_gradients import Losses, RowGradients

Clipping = Literal["flat", "per_layer"]
Measured = tuple[Form, Tensor]  # and its squared norms (n,)


@dataclass(frozen=True)
class Chunks:
    """How many rows take a pass together: larger batches are summed in parts, and memory does not grow with them."""

    least: int
    usual: int
    stepped: int  # with a recurrent layer, whose steps through time cost as much for fewer rows
    size: int  # bytes that layers are given and answer in a part


CHUNKS = {"cpu": Chunks(16, 128, 256, 1 << 26), "cuda": Chunks(256, 4096, 4096, 1 << 32)}


class ClippedSums:
    r"""$\sum_i g_i \min(1, C/\|g_i\|_2)$ by parameter name, and the norms `(n,)`; C = `max_grad_norm`.

    Where every trained parameter belongs to a layer of a known form (`_layers`, `_recurrent`), one forward and one
    backward pass give what each layer was given and the gradients by what it answered; norms and weighted sums follow
    from both, and the weight gradients of an ordinary step are left out. Other modules take gradients of single rows
    (`RowGradients`), several times slower; so does a module that runs a layer twice. With "per_layer", each of the L
    layers is clipped to C / sqrt(L), which bounds the whole gradient by C. Holds only while no row's output depends on
    another row. Raises ModelError when a layer mixes rows, or answers what later code changes in place.

    Source: Bu et al. 2023, "Differentially Private Optimization on Large Model at Small Cost", section 3.
    """

    def __init__(self, module: nn.Module, *, max_grad_norm: float, clipping: Clipping = "flat") -> None:
        self.module, self.max_grad_norm, self.clipping = module, max_grad_norm, clipping
        self.layers, self.cells = _known_layers(module)
        self.trained = [one for one in module.parameters() if one.requires_grad]
        self.in_place = [layer for layer in module.modules() if getattr(layer, "inplace", False) is True]
        self.rows: RowGradients | None = None
        self.scratch = Scratch()
        self.innermost = True  # channels of pictures
        self._sizes: dict[torch.Size, int] = {}  # bytes of one row, by its shape
        self.method = "one forward and one backward pass"
        if not _covers([*self.layers.values(), *self.cells.values()], module):
            if clipping != "flat":
                raise ModelError(Problem("clipping per layer with parameters of no known form", "flat clipping"))
            self._by_row()

    def __call__(self, inputs: Tensor, losses: Losses) -> tuple[dict[str, Tensor], Tensor]:
        """Sums by parameter name, and norms `(n,)` of the whole gradients."""
        if self.rows is None:
            try:
                return self._one_pass(inputs, losses)
            except _RunsAgain as error:  # the gradients of two runs add up before they have a norm
                if self.clipping != "flat":
                    raise ModelError(error.problems) from error
                self._by_row()
            except RuntimeError as error:
                if not self.innermost or "view size is not compatible" not in str(error):
                    raise
                self.innermost = False  # code that reads places in memory, as `x.view(len(x), -1)` does
                return self(inputs, losses)
        return _common.known(self.rows)(inputs, losses)

    def _by_row(self) -> None:
        self.rows = RowGradients(self.module, max_grad_norm=self.max_grad_norm)
        self.method = "one gradient a row"

    def _one_pass(self, inputs: Tensor, losses: Losses) -> tuple[dict[str, Tensor], Tensor]:
        sums: dict[str, Tensor] = {}
        norms = []
        num = self.rows_at_once(inputs)
        num = -(-len(inputs) // -(-len(inputs) // num))  # parts of one size
        with self._watched(inputs.device) as watch:
            for start in range(0, len(inputs), num):
                at = torch.arange(start, min(start + num, len(inputs)), device=inputs.device)
                forms = self._forms(watch, inputs if num >= len(inputs) else inputs[start : start + num], at, losses)
                squared = [lengths for _, lengths in forms]
                norms.append(sum_of(squared).sqrt())
                factors = self._factors(squared, norms[-1])
                for factor in factors:
                    form, _ = forms.pop(0)  # each lets go of what it held; the first layers, often the largest, go last
                    for name, total in form.sums(factor).items():
                        sums[name] = sums[name].add_(total) if name in sums else total
        return sums, norms[0] if len(norms) == 1 else torch.cat(norms)

    def rows_at_once(self, inputs: Tensor) -> int:
        """How many rows take a pass together: enough that they outweigh the weights, which each pass reads anew."""
        chunks = CHUNKS.get(inputs.device.type, CHUNKS["cpu"])
        shape = inputs.shape[1:]
        if shape not in self._sizes:
            self._sizes[shape] = self._size(inputs[:1].clone())
        size = max(1, self._sizes[shape])
        usual = min(chunks.stepped if self.cells else chunks.usual, chunks.size // size)
        weights = sum(one.numel() * one.element_size() for one in self.trained)
        return max(chunks.least, usual, 2 * weights // size)

    def _size(self, row: Tensor) -> int:
        """Bytes that known layers, recurrent ones too, are given and answer for one row."""
        found = []

        def count(layer: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            both = _tensor(arguments[0]), _tensor(output)
            found.append(sum(one.numel() * one.element_size() for one in both))

        with ExitStack() as stack, torch.no_grad(), torch.random.fork_rng(devices=[]):  # dropout draws
            for layer in [*self.layers.values(), *self.cells.values()]:
                stack.callback(layer.register_forward_hook(count).remove)
            self.module(row)
        return sum(found)

    def _factors(self, squared: Sequence[Tensor], norms: Tensor) -> list[Tensor]:
        """Clipping factors `(n,)` of each of L layers, from squared norms of each and norms of all together."""
        if self.clipping == "flat":
            bound = norms.new_tensor(self.max_grad_norm)
            return [bound / norms.clamp_min(self.max_grad_norm)] * len(squared)
        share = self.max_grad_norm / len(squared) ** 0.5
        return [share / one.sqrt().clamp_min(share) for one in squared]

    def _forms(self, watch: _Watch, inputs: Tensor, at: Tensor, losses: Losses) -> list[Measured]:
        """One pass: what each layer adds to the gradient of each row, and its squared norm `(n,)`."""
        watch.begin_part(len(inputs))
        # Channels innermost, convolutions and poolings are twice as fast.
        is_moved = self.innermost and inputs.ndim == 4
        given = inputs.to(memory_format=torch.channels_last) if is_moved else inputs
        total = losses(_outputs(self.module, given), at).sum()
        if watch.wrong:
            raise ModelError(watch.wrong)
        if not total.requires_grad:
            raise ModelError(Problem("the loss depends on no layer that is trained", "layers that reach the loss"))
        torch.autograd.grad(total, watch.begin, allow_unused=True)
        found = watch.found
        for one in watch.recorded.values():
            found += [(form, form.squared()) for form in one.forms()]
        return found

    @contextmanager
    def _watched(self, device: torch.device) -> Iterator[_Watch]:
        """Inside, layers show what they were given and the gradient by their answers; no parameter asks for one."""
        watch = _Watch(self.cells, torch.empty((), device=device, requires_grad=True), self.scratch)
        with ExitStack() as stack:
            for name, layer in self.layers.items():
                stack.callback(layer.register_forward_hook(watch.of(name, layer)).remove)
            for name, cell in self.cells.items():
                object.__setattr__(cell, "forward", watch.recorded[name])
                stack.callback(object.__delattr__, cell, "forward")
            for layer in self.in_place:  # what a layer was given must stay what it was
                setattr(layer, "inplace", False)  # noqa: B010
                stack.callback(setattr, layer, "inplace", True)
            for parameter in self.trained:
                stack.callback(parameter.requires_grad_, True)
                parameter.requires_grad_(False)
            yield watch


class _Watch:
    """Hooks that turn what a layer was given, and the gradient by what it answered, into a form as soon as it comes.

    Neither is held longer than the form needs it: a form of few numbers (of a filter, of a norm) holds only those.
    """

    def __init__(self, cells: dict[str, nn.RNNBase], begin: Tensor, scratch: Scratch) -> None:
        self.begin, self.scratch = begin, scratch
        self.recorded = {name: Recorded(name, cell, begin) for name, cell in cells.items()}
        self.num_rows, self.found = 0, list[Measured]()
        self.names: set[str] = set()
        self.wrong: list[Problem] = []

    def begin_part(self, num_rows: int) -> None:
        """Forget what the last pass showed."""
        self.num_rows, self.found, self.names = num_rows, [], set()
        for one in self.recorded.values():
            one.ways = []

    def of(self, name: str, layer: nn.Module) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        """The forward hook of one layer."""
        rule = rule_of(layer)

        def record(layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if name in self.names:
                raise _RunsAgain(Problem(f"layer {name!r} runs more than once in a pass", "once"))
            self.names.add(name)
            if len(output) != self.num_rows:
                self.wrong.append(Problem(f"layer {name!r} answers {len(output)} rows of {self.num_rows}", "all rows"))
            # Parameters ask for no gradient here, so the first layer's output is where the graph begins.
            answer = output if output.requires_grad else begun(output, self.begin)
            if not answer.requires_grad:
                return output  # inside `no_grad`: it adds nothing to the gradient
            given = arguments[0].detach()
            version = given._version

            def measure(gradient: Tensor) -> None:
                if given._version != version:
                    raise ModelError(
                        Problem(f"what layer {name!r} was given is changed in place", "code that leaves it")
                    )
                if rule is not None:
                    form = rule(name, layer, Run(given, gradient, self.scratch))
                    self.found.append((form, form.squared()))

            answer.register_hook(measure)  # type: ignore[no-untyped-call]
            return answer

        return record


class _RunsAgain(ModelError):
    """A layer runs more than once in a pass."""


def _tensor(answer: Any) -> Tensor:
    """A tensor, that of a packed sequence, or those beside a recurrent layer's last state."""
    while isinstance(answer, tuple):
        answer = answer[0]
    found: Tensor = answer
    return found


def _outputs(module: nn.Module, inputs: Tensor) -> Tensor:
    try:
        outputs: Tensor = module(inputs)
    except RuntimeError as error:
        if not re.search("in-?place", str(error)):
            raise
        raise ModelError(Problem("what a layer answers is changed in place later", "code that leaves it")) from error
    return outputs


def _known_layers(module: nn.Module) -> tuple[dict[str, nn.Module], dict[str, nn.RNNBase]]:
    """Layers of a known form whose parameters are all trained, and recurrent ones, by dotted name."""
    layers: dict[str, nn.Module] = {}
    cells: dict[str, nn.RNNBase] = {}
    for name, layer in module.named_modules():
        own = list(layer.parameters(recurse=False))
        if not own or not all(parameter.requires_grad for parameter in own):
            continue
        if isinstance(layer, nn.RNNBase) and can_record(layer):
            cells[name] = layer
        elif rule_of(layer) is not None:
            layers[name] = layer
    return layers, cells


def _covers(layers: list[nn.Module], module: nn.Module) -> bool:
    """Whether every trained parameter belongs to one of these layers, and to one only."""
    own = [id(parameter) for layer in layers for parameter in layer.parameters(recurse=False)]
    trained = {id(parameter) for parameter in module.parameters() if parameter.requires_grad}
    shared = [id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False)]
    return bool(own) and trained == set(own) and all(shared.count(one) == 1 for one in own)
