"""Layers fitted anew to what still reaches them, so that their answers stay near what they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from assay.treatments import _common
from assay.values import Array

RIDGE = 1e-3  # of the mean squared activation: keeps the refit near the old weights where rows say little
BATCH = 256  # rows at once
PLACES = 8192  # pixels or tokens that a layer is refitted to; more say little new

Reader = nn.Linear | nn.Conv2d
Seen = tuple[Tensor, Tensor]


def refitted(inputs: Tensor, wanted: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    r"""Weights near `weight`, bias near `bias`, whose answers to `inputs (n, D)` are near `wanted (n, K)`.

    $\Delta = (X^T X + \lambda I)^{-1} X^T (Y - X W^T - b)$ with $\lambda$ a thousandth of the mean of the diagonal, and
    a column of ones, which is not penalised, where there is a bias.
    """
    if not len(inputs):
        return weight, bias
    design = inputs.double()
    missing = (wanted - nn.functional.linear(inputs, weight, bias)).double()
    if bias is not None:
        design = torch.cat([design, torch.ones(len(inputs), 1, dtype=torch.float64)], dim=1)
    gram = design.T @ design
    ridge = RIDGE * float(gram.diagonal().mean())
    penalty = torch.full((len(gram),), ridge or 1.0, dtype=gram.dtype)  # 1 where nothing ever comes in
    if bias is not None:
        penalty[-1] = 0  # a unit that always gives the same moves into the bias whole
    change = torch.linalg.solve(gram + torch.diag(penalty), design.T @ missing).float()
    if bias is None:
        return weight + change.T, None
    return weight + change[:-1].T, bias + change[-1]


def refit_readers(before: nn.Module, after: nn.Module, readers: Mapping[str, Tensor], rows: Array) -> tuple[str, ...]:
    """Fit layers of `after` to what they were in `before`, in place, in the order in which they run; which they were.

    `readers`: names of linear and convolutional layers, and which of their outputs `after` still has. Layers that do
    not run as layers are left as they are.
    """
    wanted = _watch(before, list(readers), rows)
    for name in wanted:
        layer = after.get_submodule(name)
        if not isinstance(layer, (nn.Linear, nn.Conv2d)):
            continue
        given = _watch(after, [name], rows)[name][0]
        told = wanted[name][1][:, readers[name]]
        fine = torch.isfinite(given).all(dim=1) & torch.isfinite(told).all(dim=1)
        with torch.no_grad():
            weight, bias = refitted(given[fine], told[fine], layer.weight.flatten(1), layer.bias)
            layer.weight.copy_(weight.reshape(layer.weight.shape))
            if bias is not None and layer.bias is not None:
                layer.bias.copy_(bias)
    return tuple(wanted)


def _watch(module: nn.Module, names: Sequence[str], rows: Array) -> dict[str, Seen]:
    """What each layer takes `(n, D)` and gives `(n, K)` at the same places, by the order in which they run."""
    found: dict[str, list[Seen]] = {}
    each = max(1, PLACES // max(1, len(rows)))

    def watch(name: str) -> Callable[[Reader, tuple[Tensor, ...], Tensor], None]:
        def record(layer: Reader, arguments: tuple[Tensor, ...], given: Tensor) -> None:
            found.setdefault(name, []).append(_at_places(layer, arguments[0], given, each))

        return record

    handles = [module.get_submodule(name).register_forward_hook(watch(name)) for name in names]
    _common.pass_over(module, rows, handles, batch_size=BATCH)
    pairs = {name: tuple(zip(*parts, strict=True)) for name, parts in found.items()}
    return {name: (torch.cat(taken), torch.cat(told)) for name, (taken, told) in pairs.items()}


def _at_places(layer: Reader, inputs: Tensor, outputs: Tensor, each: int) -> Seen:
    """Inputs and outputs of a layer at up to `each` places (pixels, tokens) of each row, drawn alike every time."""
    if isinstance(layer, nn.Linear):
        if inputs.ndim == 2:
            return inputs.clone(), outputs.clone()
        at = _places(len(inputs), inputs[0, ..., 0].numel(), each)
        pairs = (one.flatten(1, -2) for one in (inputs, outputs))
        taken = [torch.gather(one, 1, at[:, :, None].expand(-1, -1, one.shape[2])).flatten(0, 1) for one in pairs]
        return taken[0], taken[1]
    (high, wide), (down, right) = layer.kernel_size, layer.stride
    (above, left) = layer.padding if isinstance(layer.padding, tuple) else (0, 0)
    patches = nn.functional.pad(inputs, (left, left, above, above)).unfold(2, high, down).unfold(3, wide, right)
    at = _places(len(inputs), outputs.shape[2] * outputs.shape[3], each)
    row = torch.arange(len(inputs))[:, None]
    y, x = at // outputs.shape[3], at % outputs.shape[3]
    return patches[row, :, y, x].flatten(2).flatten(0, 1), outputs[row, :, y, x].flatten(0, 1)


def _places(num_rows: int, num: int, each: int) -> Tensor:
    """`(num_rows, min(each, num))` places below `num`."""
    if each >= num:
        return torch.arange(num).expand(num_rows, num)
    return torch.randint(num, (num_rows, each), generator=torch.Generator().manual_seed(num))
