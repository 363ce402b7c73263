"""The sum of clipped per-example gradients, from one forward and one backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from assay.errors import ModelError, Problem
from assay.treatments import _common
from assay.treatments.train._forms import Form
from assay.treatments.train._layers import Run, rule_of
from assay.treatments.train._recurrent import Recorded, can_record
from assay.treatments.train._row_gradients import MIN_NORM, Losses, RowGradients

Clipping = Literal["flat", "per_layer"]
# Larger batches are summed in parts: memory does not grow with the batch. A GPU needs more rows to be busy.
ROWS_AT_ONCE = {"cpu": 256, "cuda": 4096}


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
        self.rows: RowGradients | None = None
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
        return _common.known(self.rows)(inputs, losses)

    def _by_row(self) -> None:
        self.rows = RowGradients(self.module, max_grad_norm=self.max_grad_norm)
        self.method = "one gradient a row"

    def _one_pass(self, inputs: Tensor, losses: Losses) -> tuple[dict[str, Tensor], Tensor]:
        sums: dict[str, Tensor] = {}
        norms = []
        num = ROWS_AT_ONCE.get(inputs.device.type, ROWS_AT_ONCE["cpu"])
        for start in range(0, len(inputs), num):
            at = torch.arange(start, min(start + num, len(inputs)), device=inputs.device)
            forms = self._forms(inputs[at] if len(inputs) > num else inputs, at, losses)
            squared = torch.stack([form.squared() for form in forms])  # (L, n)
            norms.append(squared.sum(dim=0).sqrt())
            factors = self._factors(squared)
            for form, factor in zip(forms, factors, strict=True):
                for name, total in form.sums(factor).items():
                    sums[name] = sums[name] + total if name in sums else total
        return sums, torch.cat(norms)

    def _factors(self, squared: Tensor) -> Tensor:
        """Clipping factors `(L, n)` from squared norms by layer."""
        if self.clipping == "flat":
            whole = squared.sum(dim=0).sqrt().clamp_min(MIN_NORM)
            factors: Tensor = (self.max_grad_norm / whole).clamp_max(1.0)
            return factors.expand(len(squared), -1)
        share = self.max_grad_norm / len(squared) ** 0.5
        by_layer: Tensor = (share / squared.sqrt().clamp_min(MIN_NORM)).clamp_max(1.0)
        return by_layer

    def _forms(self, inputs: Tensor, at: Tensor, losses: Losses) -> list[Form]:
        """One pass: what each layer adds to the gradient of each row."""
        runs: dict[str, tuple[Tensor, Tensor, int]] = {}  # given, answered, and its version when it was made
        recorded = {name: Recorded(name, cell) for name, cell in self.cells.items()}
        with self._watched(runs, recorded):
            total = losses(_outputs(self.module, inputs), at).sum()
            _check(runs, len(inputs))
            asked = [answer for _, answer, _ in runs.values()]
            asked += [leaf for one in recorded.values() for leaf in one.leaves]
            if not total.requires_grad or not asked:
                raise ModelError(Problem("the loss depends on no layer that is trained", "layers that reach the loss"))
            gradients = torch.autograd.grad(total, asked, allow_unused=True)
        forms = [form for one in recorded.values() for form in one.forms()]
        for (name, (given, _, _)), gradient in zip(runs.items(), gradients, strict=False):
            rule = rule_of(self.layers[name])
            if gradient is not None and rule is not None:
                forms.append(rule(name, self.layers[name], Run(given, gradient)))
        return forms

    @contextmanager
    def _watched(self, runs: dict[str, tuple[Tensor, Tensor, int]], recorded: dict[str, Recorded]) -> Iterator[None]:
        """Inside, layers show what they were given and what they answered, and no parameter asks for a gradient."""

        def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
            def record(layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
                if name in runs:
                    raise _RunsAgain(Problem(f"layer {name!r} runs more than once in a pass", "once"))
                # Parameters ask for no gradient here, so the first layer's output is where the graph begins.
                answer = output if output.requires_grad else output.requires_grad_()
                runs[name] = (arguments[0].detach(), answer, answer._version)
                return answer

            return record

        asking = [one for one in self.module.parameters() if one.requires_grad]
        in_place = [layer for layer in self.module.modules() if getattr(layer, "inplace", False) is True]
        with ExitStack() as stack:
            for name, layer in self.layers.items():
                stack.callback(layer.register_forward_hook(watch(name)).remove)
            for name, cell in self.cells.items():
                object.__setattr__(cell, "forward", recorded[name])
                stack.callback(object.__delattr__, cell, "forward")
            for layer in in_place:  # what a layer answered must stay what it was
                setattr(layer, "inplace", False)  # noqa: B010
                stack.callback(setattr, layer, "inplace", True)
            for parameter in asking:
                stack.callback(parameter.requires_grad_, True)
                parameter.requires_grad_(False)
            yield


class _RunsAgain(ModelError):
    """A layer runs more than once in a pass."""


def _outputs(module: nn.Module, inputs: Tensor) -> Tensor:
    try:
        outputs: Tensor = module(inputs)
    except RuntimeError as error:
        if "in-place" not in str(error):
            raise
        raise ModelError(Problem("what a layer answers is changed in place later", "code that leaves it")) from error
    return outputs


def _check(runs: dict[str, tuple[Tensor, Tensor, int]], num_rows: int) -> None:
    """Every answer is of its own rows alone, and is still what the layer gave."""
    wrong = []
    for name, (_, answer, version) in runs.items():
        if len(answer) != num_rows:
            wrong.append(Problem(f"layer {name!r} answers {len(answer)} rows of {num_rows}", "one answer a row"))
        if answer._version != version:
            wrong.append(Problem(f"what layer {name!r} answers is changed in place later", "code that leaves it"))
    if wrong:
        raise ModelError(wrong)


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
