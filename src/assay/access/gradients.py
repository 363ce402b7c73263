"""Gradients of any function of a module's outputs: one forward and one backward, whatever the function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from assay.errors import ModelError, Problem
from assay.values import Array

# Logits `(m, K)` and the positions `(m,)` they belong to, to what each logit is weighted by `(m, K)`.
Cotangent = Callable[[Array, Array], Array]


def pull_back(module: torch.nn.Module, inputs: Array, cotangent: Cotangent, *, batch_size: int) -> tuple[Array, Array]:
    r"""Logits `(M, K)` and $\nabla_x \sum_k c_k f_k(x)$ `(M, ...)`, c = `cotangent(f(x), positions)`, evaluation mode.

    With c the derivative of a loss by the logits this is the gradient of that loss, so an attack or an explanation
    states its objective in NumPy and costs one forward and one backward a row. Raises ModelError for texts.

    >>> module = torch.nn.Linear(2, 1, bias=False)
    >>> _ = module.weight.data.copy_(torch.tensor([[2.0, 3.0]]))
    >>> logits, gradients = pull_back(module, np.ones((1, 2), np.float32), lambda f, _: np.ones_like(f), batch_size=8)
    >>> logits.tolist(), gradients.tolist()
    ([[5.0]], [[2.0, 3.0]])
    """
    if inputs.dtype.kind == "T":
        raise ModelError(Problem("texts have no gradient", "numbers or pixels", "Take it at the embeddings"))
    was_training, logits, gradients = module.training, [], []
    module.eval()
    try:
        for start in range(0, len(inputs), batch_size):
            positions = np.arange(start, min(start + batch_size, len(inputs)))
            batch = torch.from_numpy(np.array(inputs[positions], dtype=np.float32)).requires_grad_(True)
            outputs = module(batch)
            found = outputs.detach().float().numpy()
            weights = torch.from_numpy(np.ascontiguousarray(cotangent(found, positions), dtype=np.float32))
            (gradient,) = torch.autograd.grad(outputs, batch, weights.to(outputs.dtype))
            logits.append(found)
            gradients.append(torch.nan_to_num(gradient).float().numpy())
    finally:
        module.train(was_training)
    return np.concatenate(logits), np.concatenate(gradients)
