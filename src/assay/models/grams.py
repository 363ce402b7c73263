"""Runs of neighbouring tokens (n-grams) as a bag: which of them a text holds, each weighted by how rare it is."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from assay.errors import ModelError, Problem
from assay.values import Array

PADDING, UNKNOWN, NUM_SPECIAL = 0, 1, 2  # as in token ids
MIN_TEXTS = 2  # a run found in one training text alone tells nothing about others
START = 0.02  # standard deviation of embeddings before training
ROWS = 4096  # texts whose runs are formed at once
LAST = np.iinfo(np.int64).max  # fills the table up; no code is as large


class GramBag(nn.Module):
    r"""Token ids `(N, L)` to one vector a text: $\sum_g w_g e_g / \sqrt{\sum_g w_g^2}$ over its different runs g.

    A run is one to `longest` neighbouring tokens, none of them unknown, and counts once however often it stands there.
    $w_g = \ln\frac{1+n}{1+d_g} + 1$, where $d_g$ of the n training texts hold g (the smoothed IDF of scikit-learn).
    Kept are the `num_grams` that most training texts hold, of those that two or more hold; others weigh nothing.
    Runs are exact, not hashed: a code is the number whose digits are the token ids. Embeddings are `(num_grams, dim)`.
    Limits: which tokens stand together beyond a run is lost. Raises ModelError for sizes that make no table.
    Source: Joulin et al. 2017, "Bag of Tricks for Efficient Text Classification", section 2.
    """

    codes: Tensor
    weights: Tensor

    def __init__(self, vocab_size: int, *, longest: int, num_grams: int, dim: int) -> None:
        super().__init__()
        sizes = {"longest": longest, "num_grams": num_grams, "dim": dim}
        wrong = [Problem(f"{name} is {size}", "1 or more") for name, size in sizes.items() if size < 1]
        if not wrong and longest * math.log2(vocab_size) >= 62:
            most = int(62 / math.log2(vocab_size))
            wrong.append(Problem(f"runs of {longest} of {vocab_size:,} tokens", f"runs of at most {most}"))
        if wrong:
            raise ModelError(wrong)
        self.base, self.longest = vocab_size, longest
        self.register_buffer("codes", torch.full((num_grams,), LAST))  # sorted; the id of a run is its place, plus 2
        self.register_buffer("weights", torch.zeros(num_grams + NUM_SPECIAL))
        self.embedding = nn.Embedding(num_grams + NUM_SPECIAL, dim, padding_idx=PADDING)
        nn.init.normal_(self.embedding.weight, std=START)
        nn.init.zeros_(self.embedding.weight[PADDING])

    def fit(self, tokens: Tensor) -> None:
        """Set the table of runs and their weights from training texts `(N, L)`."""
        found, counts = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        for rows in _parts(tokens):
            part, times = np.unique(self._runs(rows), return_counts=True)
            found, place = np.unique(np.concatenate([found, part]), return_inverse=True)
            counts = np.bincount(place, np.concatenate([counts, times]), len(found)).astype(np.int64)
        common = np.flatnonzero((counts >= MIN_TEXTS) & (found > 0))
        order = common[np.argsort(-counts[common], kind="stable")][: len(self.codes)]
        kept = np.sort(order)
        weights = np.log((1 + len(tokens)) / (1 + counts[kept])) + 1
        self.codes.fill_(LAST)[: len(kept)] = torch.from_numpy(found[kept])
        self.weights.zero_()[NUM_SPECIAL : NUM_SPECIAL + len(kept)] = torch.from_numpy(weights)

    def encode(self, tokens: Tensor) -> Tensor:
        """Token ids `(N, L)` to ids of their different runs `(N, M)` in rising order, 0 after the last; 1 if none."""
        made = []
        for part in _parts(tokens):
            ids = self._placed(part)
            ids = np.sort(np.where(ids == PADDING, LAST, ids), axis=1)  # those that are known first
            made.append(np.where(ids == LAST, PADDING, ids))
        width = max([1, *(int((rows > 0).sum(axis=1).max(initial=0)) for rows in made)])
        found = np.zeros((len(tokens), width), dtype=np.int64)
        start = 0
        for rows in made:
            found[start : start + len(rows), : rows.shape[1]] = rows[:, :width]
            start += len(rows)
        found[:, 0] = np.maximum(found[:, 0], UNKNOWN)
        return torch.from_numpy(found)

    def embed(self, grams: Tensor) -> Tensor:
        """Ids `(N, M)` to weighted embeddings `(N, M, dim)`, whose sum is the bag."""
        weights = self.weights[grams]
        length = weights.square().sum(dim=1, keepdim=True).sqrt()
        scaled = weights / length.clamp_min(torch.finfo(weights.dtype).tiny)
        vectors: Tensor = self.embedding(grams) * scaled[:, :, None]
        return vectors

    def placed(self, tokens: Tensor) -> Tensor:
        """Token ids `(N, L)` to ids of the runs of each size that begin there, `(N, L, longest)`, each run once."""
        made = [self._placed(part) for part in _parts(tokens)]
        found = np.concatenate([*made, np.zeros((0, self.longest * tokens.shape[1]), dtype=np.int64)])
        return torch.from_numpy(found.reshape(len(tokens), self.longest, tokens.shape[1]).swapaxes(1, 2).copy())

    def by_token(self, tokens: Tensor) -> Tensor:
        """Token ids `(N, L)` to vectors `(N, L, dim)` that sum to the bag: a run is shared evenly by its tokens.

        A run that stands in several places belongs to the first.
        """
        grams = torch.from_numpy(self._placed(tokens)).to(tokens.device)
        vectors = self.embed(grams).view(len(tokens), self.longest, tokens.shape[1], self.embedding.embedding_dim)
        found = torch.zeros_like(vectors[:, 0])
        for size in range(1, self.longest + 1):
            for place in range(min(size, tokens.shape[1])):
                found[:, place:] += vectors[:, size - 1, : tokens.shape[1] - place] / size
        return found

    def names(self, tokens: list[str]) -> list[tuple[str, ...]]:
        """What each known run is made of, by id from 2 on; `tokens` names the token of each id."""
        found = []
        for code in self.codes[self.codes < LAST].tolist():
            rest, digits = code, []
            while rest:
                rest, digit = divmod(rest, self.base)
                digits.append(tokens[digit])
            found.append(tuple(reversed(digits)))
        return found

    def _runs(self, tokens: Tensor) -> Array:
        """The code of the run that begins at a token, `(N, longest L)` by size; 0 for none, or one that came before."""
        given = tokens.cpu().numpy()
        code, fine, found = np.zeros_like(given), np.ones(given.shape, dtype=bool), []
        for place in range(self.longest):
            following = np.pad(given[:, place:], ((0, 0), (0, min(place, given.shape[1]))))
            fine = fine & (following >= NUM_SPECIAL)
            code = code * self.base + following
            found.append(np.where(fine, code, 0))
        runs = np.concatenate(found, axis=1)
        order = np.argsort(runs, axis=1, kind="stable")
        ordered = np.take_along_axis(runs, order, axis=1)
        ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = 0
        np.put_along_axis(runs, order, ordered, axis=1)
        return runs

    def _placed(self, tokens: Tensor) -> Array:
        """The ids of those runs, 0 where it is none or not known."""
        runs, codes = self._runs(tokens), self.codes.cpu().numpy()
        place = np.searchsorted(codes, runs).clip(max=len(codes) - 1)
        return np.where(codes[place] == runs, place + NUM_SPECIAL, PADDING)


def _parts(tokens: Tensor) -> list[Tensor]:
    return [tokens[start : start + ROWS] for start in range(0, len(tokens), ROWS)]
