"""Gradients of single rows for any module, by `torch.func.vmap`; embeddings by what they look up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from assay.errors import ModelError, Problem
from assay.models.kernels import written_out

Losses = Callable[[Tensor, Tensor], Tensor]  # (outputs (n, K), which rows of the batch (n,)) -> losses (n,)
NUMBERS_AT_ONCE = 1 << 24  # gradients of so many rows together are at most 64 MiB
MIN_NORM = 1e-12


class RowGradients:
    r"""$\sum_i g_i \min(1, C/\|g_i\|_2)$, each $g_i$ from a pass of its own row alone, many rows in one call.

    A table of embeddings is not differentiated as a whole, which would cost its size for each row: with tokens $t$ and
    gradients $d_t$ of what was looked up, its part of $\|g_i\|^2$ is $\sum_{t,u} [t = u]\,d_t \cdot d_u$, and its part
    of the sum adds $c_i d_t$ to row t (Bu et al. 2023, section 3, for a linear layer with one-hot inputs). Layers that
    have a fused kernel are computed written out. Limits: `forward` must not branch on values; several times the cost
    of an ordinary step. Raises ModelError for a module that cannot be computed row by row.
    """

    def __init__(self, module: nn.Module, *, max_grad_norm: float) -> None:
        self.module, self.max_grad_norm = module, max_grad_norm
        self.tables = _lookups(module)
        looked_up = {id(layer.weight) for layer in self.tables.values()}
        self.rest = {
            name: parameter
            for name, parameter in module.named_parameters()
            if parameter.requires_grad and id(parameter) not in looked_up
        }
        self.step = max(1, NUMBERS_AT_ONCE // max(1, sum(one.numel() for one in self.rest.values())))
        self._shift: dict[str, Tensor] = {}
        self._seen: dict[str, Tensor] = {}

    def __call__(self, inputs: Tensor, losses: Losses) -> tuple[dict[str, Tensor], Tensor]:
        """Sums by parameter name, and norms `(n,)`."""
        sums = {name: torch.zeros_like(parameter) for name, parameter in self.rest.items()}
        sums |= {f"{name}.weight": torch.zeros_like(layer.weight) for name, layer in self.tables.items()}
        norms = []
        with self._watching(), written_out(self.module):
            shapes = self._shapes(inputs[:1])
            for start in range(0, len(inputs), self.step):
                at = torch.arange(start, min(start + self.step, len(inputs)))
                norms.append(self._add(sums, inputs[at], at, losses=losses, shapes=shapes))
        return sums, torch.cat(norms)

    def _add(
        self, sums: dict[str, Tensor], inputs: Tensor, at: Tensor, *, losses: Losses, shapes: dict[str, torch.Size]
    ) -> Tensor:
        """Add the clipped gradients of some rows to the sums, and give their norms."""
        shifts = {name: torch.zeros((len(at), *shape)) for name, shape in shapes.items()}
        rest = {name: parameter.detach() for name, parameter in self.rest.items()}
        frozen = {f"{name}.weight": layer.weight.detach() for name, layer in self.tables.items()}

        def loss(rest: dict[str, Tensor], shift: dict[str, Tensor], row: Tensor, place: Tensor) -> Any:
            self._shift, self._seen = shift, {}
            outputs = torch.func.functional_call(self.module, {**frozen, **rest}, (row[None],))
            return losses(outputs, place[None]).sum(), self._seen

        each = torch.func.vmap(
            torch.func.grad(loss, argnums=(0, 1), has_aux=True), in_dims=(None, 0, 0, 0), randomness="different"
        )
        try:
            (gradients, lookups), tokens = each(rest, shifts, inputs, at)
        except (RuntimeError, NotImplementedError) as error:
            raise ModelError(_not_by_row(error)) from error
        squared = torch.zeros(len(at))
        for gradient in gradients.values():
            squared += gradient.flatten(1).square().sum(dim=1)
        places = {name: tokens[name].reshape(len(at), -1) for name in lookups}
        flat = {name: self._counted(name, lookups[name].flatten(1), places[name]) for name in lookups}
        for name, gradient in flat.items():
            same = places[name][:, :, None] == places[name][:, None, :]
            squared += ((gradient @ gradient.transpose(1, 2)) * same).sum(dim=(1, 2)).clamp_min(0)
        norms = squared.sqrt()
        factors = (self.max_grad_norm / norms.clamp_min(MIN_NORM)).clamp_max(1.0)
        for name, gradient in gradients.items():
            sums[name] += torch.tensordot(factors, gradient, dims=1)
        for name, gradient in flat.items():
            scaled = (gradient * factors[:, None, None]).flatten(0, 1)
            sums[f"{name}.weight"].index_add_(0, places[name].flatten(), scaled)
        return norms

    def _counted(self, name: str, gradient: Tensor, places: Tensor) -> Tensor:
        """Gradients of what was looked up `(n, T, D)`, 0 at padding; a copy, as two tables may share one gradient."""
        padding = self.tables[name].padding_idx
        wide = gradient.reshape(*places.shape, -1)
        return wide if padding is None else wide.masked_fill((places == padding)[:, :, None], 0.0)

    def _shapes(self, inputs: Tensor) -> dict[str, torch.Size]:
        """The shape of what each table looks up for one row."""
        self._shift, self._seen = {}, {}
        with torch.no_grad():
            self.module(inputs)
        return {name: torch.Size((*self._seen[name].shape, self.tables[name].embedding_dim)) for name in self._seen}

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Inside, what each table looks up is noted, and shifted by a tensor whose gradient is then that of it."""

        def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
            def shifted(layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
                if name in self._seen:
                    raise ModelError(Problem(f"embedding {name!r} is read more than once in a pass", "once"))
                self._seen[name] = arguments[0]
                return output + self._shift[name] if name in self._shift else output

            return shifted

        handles = [layer.register_forward_hook(watch(name)) for name, layer in self.tables.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._shift, self._seen = {}, {}


def _lookups(module: nn.Module) -> dict[str, nn.Embedding]:
    """Tables of embeddings that are trained and belong to nothing else, by dotted name."""
    owners: dict[int, int] = {}
    for _, parameter in module.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    return {
        name: layer
        for name, layer in module.named_modules()
        if type(layer) is nn.Embedding
        and layer.weight.requires_grad
        and owners[id(layer.weight)] == 1
        and layer.max_norm is None
        and not layer.scale_grad_by_freq
    }


def _not_by_row(error: Exception) -> Problem:
    return Problem(
        f"gradients of single rows cannot be formed: {str(error).splitlines()[0][:160]}",
        "layers that torch.func.vmap can compute, without branches on values",
        "Use linear, convolutional and embedding layers, or the recurrent and attention layers of assay.models",
    )
