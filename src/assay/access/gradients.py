"""Gradients of any function of a module's outputs: one forward and one backward, whatever the function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from assay.errors import ModelError, Problem
from assay.models.adapters.module import evaluation
from assay.models.vectors import ByColumn, by_token
from assay.values import Array

# Logits `(m, K)` and the positions `(m,)` they belong to, to what each logit is weighted by `(m, K)`.
Cotangent = Callable[[Array, Array], Array]
CACHED_NUMBERS = 1 << 17  # input numbers of one batch: more, and the activations of a network leave the cache


@dataclass(frozen=True)
class Embedded:
    """Inputs where gradients can be taken of all of them, float32, and what of the input each number is.

    Texts: `vectors (N, L, D)` of tokens `(N, L)`, 0 = padding. Tables: the encoding `(N, D)`, and the column of each
    encoded number `(D,)`.
    """

    vectors: Array
    tokens: Array

    @property
    def lengths(self) -> Array:
        """Of texts: places up to each one's last token `(N,)`, at least 1."""
        num = self.tokens.shape[1]
        found: Array = np.where(self.tokens != 0, np.arange(1, num + 1), 0).max(axis=1, initial=1)
        return found

    def at(self, vectors: Array, rows: Array) -> Embedded:
        """Other vectors `(M, ...)` of the inputs at positions `rows (M,)`."""
        return Embedded(vectors, self.tokens if self.vectors.ndim == 2 else self.tokens[rows])


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
    return _pulled(module, inputs, cotangent, answer=lambda batch, _: module(batch), batch_size=batch_size)


def embed(module: torch.nn.Module, inputs: Array) -> Embedded:
    """Texts `(N,)`, or table rows `(N, F)`, inside the module. Raises ModelError when it cannot be entered there."""
    with evaluation(module), torch.no_grad():
        if isinstance(module, ByColumn) and inputs.ndim == 2:
            encoded = module.encoded_columns(torch.from_numpy(np.array(inputs, dtype=np.float32)))
            return Embedded(encoded.float().numpy(), module.columns_of_slots().numpy())
        reader = by_token(module)
        tokens = reader.token_ids(inputs)
        vectors = reader.token_vectors(tokens)
    return Embedded(vectors.float().numpy(), tokens[:, : vectors.shape[1]].numpy())


def pull_back_embedded(
    module: torch.nn.Module, at: Embedded, cotangent: Cotangent, *, batch_size: int
) -> tuple[Array, Array]:
    """`pull_back` at given vectors: logits `(M, K)` and gradients of the vectors' shape.

    Each batch of texts is as long as its longest.
    """
    if isinstance(module, ByColumn) and at.vectors.ndim == 2:
        enter = module.from_encoded
        return _pulled(module, at.vectors, cotangent, answer=lambda batch, _: enter(batch), batch_size=batch_size)
    reader, lengths = by_token(module), at.lengths

    def answer(batch: torch.Tensor, rows: slice) -> torch.Tensor:
        longest = int(lengths[rows].max())
        return reader.from_vectors(batch[:, :longest], torch.from_numpy(at.tokens[rows, :longest].copy()))

    return _pulled(module, at.vectors, cotangent, answer=answer, batch_size=batch_size)


def _pulled(
    module: torch.nn.Module,
    inputs: Array,
    cotangent: Cotangent,
    *,
    answer: Callable[[torch.Tensor, slice], torch.Tensor],
    batch_size: int,
) -> tuple[Array, Array]:
    logits, found = [], np.empty(inputs.shape, dtype=np.float32)
    with evaluation(module):
        for start in range(0, len(inputs), batch_size):
            rows = slice(start, min(start + batch_size, len(inputs)))
            batch = torch.from_numpy(np.array(inputs[rows], dtype=np.float32)).requires_grad_(True)
            outputs = answer(batch, rows)
            answers = outputs.detach().float().numpy()
            weights = np.ascontiguousarray(cotangent(answers, np.arange(rows.start, rows.stop)), dtype=np.float32)
            (gradient,) = torch.autograd.grad(outputs, batch, torch.from_numpy(weights).to(outputs.dtype))
            torch.nan_to_num(gradient.float(), out=torch.from_numpy(found[rows]))
            logits.append(answers)
    return np.concatenate(logits), found
