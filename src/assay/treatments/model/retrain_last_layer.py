"""The last layer fitted again on rows in which every group counts the same."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.errors import Problem
from assay.models import tensors
from assay.models.adapters.module import ModuleModel, evaluation
from assay.registry import treatment
from assay.tasks import Argmax
from assay.treatments import _common
from assay.values import Array, System

BATCH = 512
STEPS = 100


@treatment("model", moves=("higher:worst_cell_accuracy", "higher:balanced_accuracy"))
def retrain_last_layer(system: System, *, columns: Sequence[str] | None = None, penalty: float = 0.01) -> System:
    r"""Keep the features z, fit the last layer: $\min_W \sum_i w_i\mathrm{CE}(y_i, Wz_i)+\frac\lambda2\|W-W_0\|^2$.

    Rows are those of the validation split; $w_i$ gives every cell of `columns` (None is the first declared one) and
    label the same total. `penalty` $\lambda$ holds the layer near what it was. One convex fit, no pass of training:
    what a network has learnt often suffices for all groups, and only its last layer leans on what most rows share.
    Limits: where the features do not tell labels apart, it only moves errors between cells (Adult: worst_cell_accuracy
    of sex 0.605 to 0.703, but worst_group_accuracy over each sex 0.838 to 0.763); few rows of a cell are fitted by
    heart; calibration moves to balanced classes. Raises TreatmentError unless the model is a module that answers its
    last linear layer's most probable class; without validation rows, classes or groups.

    Source: Kirichenko, Izmailov and Wilson 2023, "Last Layer Re-Training is Sufficient for Robustness to Spurious
    Correlations", section 4 (there balanced subsets and an L1 penalty).
    """
    names, wrong = _common.chosen_columns(system, columns)
    problems = [
        _common.needs_module(system),
        _common.needs_split(system, "validation"),
        _common.unless(bool(system.task.classes), f"its task is {system.task.name}", "classification"),
        wrong,
        _common.unless(0 < penalty < np.inf, f"penalty is {penalty}", "a positive number"),
        _common.unless(isinstance(system.decision, Argmax), "its answers depend on thresholds", "argmax"),
    ]
    _common.refuse("retrain_last_layer", system, problems)
    before, split = _common.module_model(system), system.data.splits["validation"]
    module = copy.deepcopy(before.module)
    layer = last_linear(module)
    found = None if layer is None else features(module, layer, split.inputs)
    _common.refuse("retrain_last_layer", system, [_does_not_end_there(layer, found), _is_shared(module, layer)])
    head, (seen, _) = _common.known(layer), _common.known(found)
    codes, _ = _common.cells(split.groups, names)
    weights = cell_weights(codes, split.labels, seen)
    losses = fit_head(head, seen, torch.from_numpy(split.labels), weights=weights, penalty=penalty)
    model = ModuleModel(
        module,
        outputs_are=before.outputs_are,
        architecture=before.architecture,
        differentiable="gradient" in before.offers,
        batch_size=before.batch_size,
    )
    parameters = {"columns": None if columns is None else list(columns), "penalty": float(penalty)}
    outcome = {
        "columns": list(names),
        "num_rows": int((weights > 0).sum()),
        "balanced_loss_before": losses[0],
        "balanced_loss_after": losses[1],
    }
    named = _common.grown(system, treatment="retrain_last_layer", stage="model", parameters=parameters, outcome=outcome)
    return replace(named, model=model)


def last_linear(module: nn.Module) -> nn.Linear | None:
    """The last plain linear layer of a module, None when it has none."""
    layers = [layer for layer in module.modules() if type(layer) is nn.Linear]
    return layers[-1] if layers else None


def features(module: nn.Module, layer: nn.Linear, inputs: Array) -> tuple[Tensor, Tensor] | None:
    """What the layer reads `(N, D)` and the module's outputs `(N, K)`; None when it is not read once a batch."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    outputs = []
    try:
        with evaluation(module), torch.inference_mode():
            for start in range(0, len(inputs), BATCH):
                outputs.append(module(tensors(module, inputs[start : start + BATCH])))
    finally:
        handle.remove()
    if len(seen) != len(outputs) or any(one.ndim != 2 for one in seen):
        return None
    return torch.cat(seen).clone(), torch.cat(outputs).clone()


def _does_not_end_there(layer: nn.Linear | None, found: tuple[Tensor, Tensor] | None) -> Problem | None:
    what = "its answer is not that of a last linear layer"
    if layer is None or found is None:
        return Problem(what, "a network that ends in a linear layer")
    with torch.no_grad():
        own = functional.linear(found[0], layer.weight, layer.bias)
    ends = own.shape == found[1].shape and torch.allclose(own, found[1], rtol=1e-4, atol=1e-5, equal_nan=True)
    return _common.unless(ends, what, "a network that ends in a linear layer")


def _is_shared(module: nn.Module, layer: nn.Linear | None) -> Problem | None:
    """A weight that other layers use too would change what the last one reads."""
    num = 0 if layer is None else sum(one is layer.weight for _, one in module.named_parameters(remove_duplicate=False))
    what = "the weights of its last layer are those of another, too"
    return _common.unless(num <= 1, what, "a last layer with weights of its own")


def cell_weights(codes: Array, labels: Array, seen: Tensor) -> Tensor:
    """Weights `(N,)` of mean 1 over scored rows that give each cell of group code and label the same total.

    >>> cell_weights(np.array([0, 0, 0, 1]), np.array([1, 1, 1, 1]), torch.zeros(4, 2)).tolist()
    [0.6666666666666666, 0.6666666666666666, 0.6666666666666666, 2.0]
    """
    scored = torch.isfinite(seen).all(dim=1).numpy() & (labels >= 0)
    _, cells = np.unique(np.stack([codes, labels]), axis=1, return_inverse=True)
    cells = cells.reshape(-1)
    counts = np.bincount(cells[scored], minlength=int(cells.max()) + 1)
    share = np.where(scored, 1 / np.maximum(counts[cells], 1), 0.0)
    found: Tensor = torch.from_numpy(share * scored.sum() / share.sum())
    return found


def fit_head(layer: nn.Linear, seen: Tensor, labels: Tensor, *, weights: Tensor, penalty: float) -> tuple[float, float]:
    """Put the minimiser into the layer, by L-BFGS in float64; the weighted loss before and after."""
    kept = weights > 0
    rows, truth, share = seen[kept].double(), labels[kept], weights[kept]
    own = [one.detach().double() for one in (layer.weight, layer.bias) if one is not None]
    moved = [one.clone().requires_grad_() for one in own]
    optimizer = torch.optim.LBFGS(moved, max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def loss() -> Tensor:
        outputs = functional.linear(rows, moved[0], moved[1] if len(moved) > 1 else None)
        return (functional.cross_entropy(outputs, truth, reduction="none") * share).mean()

    def closure() -> Tensor:
        optimizer.zero_grad()
        distance = torch.stack([(new - old).square().sum() for new, old in zip(moved, own, strict=True)]).sum()
        total = loss() + penalty / 2 * distance
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.no_grad():
        before = float(loss())
    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        layer.weight.copy_(moved[0])
        if layer.bias is not None:
            layer.bias.copy_(moved[1])
        return before, float(loss())
