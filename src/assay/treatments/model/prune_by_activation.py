"""Weights that little goes through, removed: in every row the same share, or two of every four."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from assay.errors import Problem
from assay.models.adapters.module import ModuleModel
from assay.models.sparse import Layer, can_be_sparse, from_layer, sparse_architecture
from assay.models.wrapped import swap
from assay.registry import treatment
from assay.treatments import _common
from assay.values import Array, System

PATTERNS, SCORES = ("row", "2:4"), ("activation", "magnitude")
BATCH = 256


@treatment("model", moves=("lower:model_bytes",))
def prune_by_activation(
    system: System,
    *,
    sparsity: float = 0.5,
    pattern: Literal["row", "2:4"] = "row",
    score: Literal["activation", "magnitude"] = "activation",
    calibration_num: int = 1024,
) -> System:
    r"""Set the share `sparsity` of each row of weights to 0: those with the least $|W_{ij}| \|X_j\|_2$.

    $X_j$ is what input j of the layer was on `calibration_num` validation rows (of a convolution: each pixel of its
    window, padding included), taken in one pass through the untouched network. Rows are outputs, and each loses the
    same number. Pattern "2:4" keeps the two largest of every four inputs in a row, and of what is left at the end one
    half, rounded up. Score "magnitude" leaves the activations out. Linear layers and convolutions, all but the head;
    what stays is stored without the zeros, one bit a weight for where: 53 % of the bytes at one half. Limits: no second
    is saved here: only accelerators with sparse tensor cores are faster at 2:4, and this code does not use them;
    recurrent weights and embeddings stay; nothing is trained or refitted; where layers differ much in size, one limit
    for all of them (`prune_magnitude`) can keep more accuracy than as many zeros in each.
    Raises TreatmentError unless the model is a module with such layers, and for a sparsity
    that would not make them smaller.

    Source: Sun et al. 2024, "A Simple and Effective Pruning Approach" (Wanda), section 3; Mishra et al. 2021 (2:4).
    """
    problems = [
        *_common.calibrates(system, calibration_num),
        _common.unless(1 / 32 < sparsity < 1, f"sparsity is {sparsity}", "above 1/32 (what the places take), below 1"),
        _common.unless(pattern in PATTERNS, f"pattern is {pattern!r}", ", ".join(PATTERNS)),
        _common.unless(pattern != "2:4" or sparsity == 0.5, f"sparsity is {sparsity} with pattern 2:4", "0.5"),
        _common.unless(score in SCORES, f"score is {score!r}", ", ".join(SCORES)),
        _nothing(system),
    ]
    _common.refuse("prune_by_activation", system, problems)
    before = _common.module_model(system)
    module = copy.deepcopy(before.module)
    rows = _common.spread_rows(system.data.splits["validation"], calibration_num)
    found = chosen(module, rows, sparsity=sparsity, pattern=pattern, score=score)
    layers = can_be_sparse(module)
    swap(module, {name: from_layer(layers[name], stays) for name, stays in found.items()})
    module.eval().requires_grad_(False)
    kept = {name: int(stays[0].sum()) for name, stays in found.items()}
    architecture = sparse_architecture(_common.architecture_within(system), kept)
    model = ModuleModel(module, outputs_are=before.outputs_are, architecture=architecture, batch_size=before.batch_size)
    outcome = {"kept_a_row": kept, **_outcome(found.values(), before, model)}
    parameters = {"sparsity": float(sparsity), "pattern": pattern, "score": score, "calibration_num": calibration_num}
    known = {"treatment": "prune_by_activation", "stage": "model"}
    return replace(_common.grown(system, **known, parameters=parameters, outcome=outcome), model=model)


def _outcome(found: Iterable[Tensor], before: ModuleModel, after: ModuleModel) -> dict[str, float | int | None]:
    pairs = [(int(stays.sum()), stays.numel()) for stays in found]
    zeros = 1 - sum(kept for kept, _ in pairs) / sum(total for _, total in pairs)
    return {"zero_share": zeros, "bytes_before": before.num_bytes, "bytes_after": after.num_bytes}


def chosen(module: nn.Module, rows: Array, *, sparsity: float, pattern: str, score: str) -> dict[str, Tensor]:
    """Which weights stay in each layer that runs as a layer, booleans `(out, in)`."""
    norms, layers = input_norms(module, rows), can_be_sparse(module)
    found = {}
    for name, norm in norms.items():
        sizes = layers[name].weight.detach().flatten(1).abs()
        scores = sizes * norm if score == "activation" else sizes
        found[name] = two_of_four(scores) if pattern == "2:4" else of_each_row(scores, sparsity)
    return found


def of_each_row(scores: Tensor, sparsity: float) -> Tensor:
    """All but the `round(sparsity * in)` lowest of each row, one at least; ties go by position.

    >>> of_each_row(torch.tensor([[3.0, 1.0, 2.0, 0.0]]), 0.5).tolist()
    [[True, False, True, False]]
    """
    num = max(1, scores.shape[1] - round(sparsity * scores.shape[1]))
    best = torch.argsort(scores, dim=1, descending=True, stable=True)[:, :num]
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, best, value=True)


def two_of_four(scores: Tensor) -> Tensor:
    """The two largest of every four in a row; of the one to three that are left at the end half, rounded up.

    >>> two_of_four(torch.tensor([[3.0, 1.0, 2.0, 0.0, 1.0, 5.0]])).tolist()
    [[True, False, True, False, False, True]]
    """
    whole = scores.shape[1] // 4 * 4
    parts = [of_each_row(scores[:, :whole].reshape(-1, 4), 0.5).reshape(len(scores), -1)]
    rest = scores[:, whole:]
    if rest.shape[1]:
        parts.append(of_each_row(rest, rest.shape[1] // 2 / rest.shape[1]))
    return torch.cat(parts, dim=1)


def input_norms(module: nn.Module, rows: Array) -> dict[str, Tensor]:
    r"""$\|X_j\|_2$ `(in,)` of each layer over all rows and places; layers that do not run as layers are left out."""
    sums: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[Layer, tuple[Tensor, ...]], None]:
        def record(layer: Layer, given: tuple[Tensor, ...]) -> None:
            inputs = torch.nan_to_num(given[0].detach(), nan=0.0, posinf=0.0, neginf=0.0).double().square()
            sums[name] = sums.get(name, torch.zeros(())) + _by_input(layer, inputs)

        return record

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in can_be_sparse(module).items()]
    _common.pass_over(module, rows, handles, batch_size=BATCH)
    return {name: total.sqrt().float().clone() for name, total in sums.items()}


def _by_input(layer: Layer, squares: Tensor) -> Tensor:
    """Sums of squares `(in,)`: of a convolution by channel and pixel of the window, as its weights are laid out."""
    if isinstance(layer, nn.Linear):
        return squares.flatten(0, -2).sum(dim=0)
    padding = (0, 0) if isinstance(layer.padding, str) else layer.padding
    added = squares.sum(dim=0, keepdim=True)
    windows = nn.functional.unfold(
        added, layer.kernel_size, dilation=layer.dilation, padding=padding, stride=layer.stride
    )
    return windows.sum(dim=(0, 2))


def _nothing(system: System) -> Problem | None:
    model = system.model
    if not isinstance(model, ModuleModel):
        return None  # said already
    if "gradient" not in model.offers:
        return Problem("its weights are already rounded to few bits, or its answers", next="Prune first")
    following = "Use prune_magnitude, which reaches recurrent weights and embeddings too"
    allowed = "linear layers and convolutions beside the head"
    return _common.unless(bool(can_be_sparse(model.module)), "it has no layer to thin out", allowed, following)
