"""How often each class is answered: the shift of a last bias that makes a model say each as often as another does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from assay.models.adapters.module import ModuleModel
from assay.values import Array

ROUNDS = 100  # a class is put right in each; some 25 do for ten classes
BIAS = "head.bias"
BEYOND = 1e-3  # the last row's answer, where all rows are above or below
SEEN = 64  # rows on which it is seen that answers move as their bias does


def answered(logits: Array) -> Array:
    """How many rows of `(N, K)` are answered by each class: `(K,)`.

    >>> answered(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])).tolist()
    [2, 1]
    """
    return np.bincount(logits.argmax(axis=1), minlength=logits.shape[1])


def shift_to(logits: Array, wanted: Array) -> Array:
    r"""A shift b `(K,)` with which class k is answered on $n_k$ of the rows `(N, K)`, within one row, n = `wanted`.

    Minimises $F(b) = \sum_i \max_k (z_{ik} + b_k) - \sum_k n_k b_k$, whose slope in $b_k$ is how many rows too many
    class k has: convex, so that there always is such a b, ties apart (the dual of the transport of rows to classes;
    Aurenhammer et al. 1998, "Minkowski-type theorems and least-squares clustering"). In each round the class that is
    furthest off gets its minimum, between the margins of two rows that follow each other; a class that is wanted on no
    row falls just below the others' answers and no further. Limits: within a row in 100 rounds for some 20 classes;
    with more it may end a few rows off, and `answered` says by how many.

    >>> shift_to(np.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0], [4.0, 0.0]]), np.array([2, 2])).tolist()
    [-2.5, 0.0]
    """
    moved = np.asarray(logits, dtype=np.float64).copy()
    shift = np.zeros(moved.shape[1])
    for _ in range(ROUNDS):
        apart = np.abs(answered(moved) - wanted)
        if apart.max() <= 1:
            break
        one = int(apart.argmax())
        margins = np.sort(moved[:, one] - np.delete(moved, one, axis=1).max(axis=1))[::-1]
        around = np.concatenate([[margins[0] + 2 * BEYOND], margins, [margins[-1] - 2 * BEYOND]])
        step = -around[wanted[one] : wanted[one] + 2].mean()
        shift[one] += step
        moved[:, one] += step
    return shift


def match_shares(model: ModuleModel, teacher: Array, inputs: Array) -> dict[str, Any]:
    """Shift the module's last bias so that classes are answered as often as by the teacher's logits `(N, K)`.

    Changes the module in place; returns the largest difference of a share before and after, or why nothing was done.
    Rows that either cannot answer do not count.
    """
    bias = dict(model.module.named_parameters()).get(BIAS)
    if bias is None:
        return {"matched": f"no: the student has no {BIAS}"}
    own = model.outputs(inputs)
    both = np.isfinite(own).all(axis=1) & np.isfinite(teacher).all(axis=1)
    if not both.any():
        return {"matched": "no: there is no validation row that both answer"}
    own, wanted, inputs = own[both], answered(teacher[both]), inputs[both]
    shift = torch.from_numpy(shift_to(own, wanted)).to(bias.dtype)
    if not _moves(model, bias, shift, own=own[:SEEN], inputs=inputs[:SEEN]):
        return {"matched": f"no: the student's answers do not move as its {BIAS} does"}
    ends = [np.abs(answered(one) - wanted).max() / len(own) for one in (own, own + shift.numpy())]
    return {"matched": "yes", "share_apart_before": float(ends[0]), "share_apart_after": float(ends[1])}


def _moves(model: ModuleModel, bias: nn.Parameter, shift: torch.Tensor, *, own: Array, inputs: Array) -> bool:
    """Add the shift; take it back where answers did not follow it."""
    before = bias.detach().clone()
    with torch.no_grad():
        bias.add_(shift)
    if np.allclose(model.outputs(inputs), own + shift.numpy(), rtol=1e-4, atol=1e-5):
        return True
    with torch.no_grad():
        bias.copy_(before)
    return False
