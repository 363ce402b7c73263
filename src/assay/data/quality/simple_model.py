"""A plain model for looking at labels: logistic regression on columns, words or coarse pixels, out of fold."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import optimize, sparse, special

from assay.data.quality.identity import contents, folds
from assay.data.quality.leaks import binned
from assay.parts import modality
from assay.values import Array, Column

Matrix = Any  # (N, D): scipy's sparse rows, or an array
NUM_FOLDS = 4
NUM_BINS = 32
NUM_HASHES = 1 << 16
MAX_TOKENS = 400
FIELDS = 14  # coarse pixels to a side
MAX_FITTED = 20_000  # rows a fold is fitted on
PENALTY = 10.0  # of the squared weights, over the number of rows: weaker ones learn planted wrong labels by heart
STEPS = 60
SHARPNESS = 10.0  # length of a text's row: the penalty then weighs as little as for a table
_WORD = re.compile(r"\w+")


def out_of_fold(inputs: Array, labels: Array, columns: Sequence[Column], *, num_classes: int, extra: Array) -> Array:
    """Probabilities `(N + M, K)`: of each row from models that saw neither it nor a copy; of `extra` rows from all.

    Softmax regression with a squared penalty in four folds, each fitted on at most 20,000 rows. Rows of equal content
    share a fold, and the fold follows from the content: the order of rows does not matter up to rounding.
    """
    both = np.concatenate([inputs, extra]) if len(extra) else inputs
    matrix = features(both, columns)
    num = len(inputs)
    assigned = folds(contents(inputs), NUM_FOLDS)
    result = np.zeros((len(both), num_classes))
    for fold in range(NUM_FOLDS):
        fitted = np.flatnonzero(assigned != fold)
        if not len(fitted):
            continue
        if len(fitted) > MAX_FITTED:
            fitted = np.sort(np.random.default_rng(fold).choice(fitted, MAX_FITTED, replace=False))
        weights = fit_softmax(matrix[fitted], labels[fitted], num_classes=num_classes)
        held = np.flatnonzero(assigned == fold)
        result[held] = special.softmax(np.asarray(matrix[held] @ weights), axis=1)
        result[num:] += special.softmax(np.asarray(matrix[num:] @ weights), axis=1) / NUM_FOLDS
    return result


def fit_softmax(matrix: Matrix, labels: Array, *, num_classes: int) -> Array:
    r"""Weights `(D, K)` that minimise mean cross-entropy $+ \frac{\lambda}{2N} \lVert W \rVert^2$ by L-BFGS."""
    num, width = matrix.shape
    if sparse.issparse(matrix):  # most hashed slots are empty: no weight is spent on them
        used = np.unique(matrix.indices)
        if len(used) < width:
            spread = np.zeros((width, num_classes))
            spread[used] = fit_softmax(matrix[:, used], labels, num_classes=num_classes)
            return spread
    target = np.zeros((num, num_classes))
    target[np.arange(num), labels] = 1.0
    turned = matrix.T.tocsr() if sparse.issparse(matrix) else matrix.T

    def loss(flat: Array) -> tuple[float, Array]:
        weights = flat.reshape(width, num_classes)
        logs = special.log_softmax(np.asarray(matrix @ weights), axis=1)
        gradient = np.asarray(turned @ (np.exp(logs) - target)) / num + PENALTY / num * weights
        value = -float((logs * target).sum()) / num + PENALTY / (2 * num) * float(np.square(weights).sum())
        return value, gradient.ravel()

    start = np.zeros(width * num_classes)
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
    weights: Array = found.x.reshape(width, num_classes)
    return weights


def features(inputs: Array, columns: Sequence[Column]) -> Matrix:
    """What the model sees of each row: `(N, D)`, sparse for tables and texts. No label plays a part."""
    kind = modality(columns)
    if kind == "text":
        return words(inputs, language=columns[0].language)
    return pixels(inputs) if kind == "image" else cells(inputs, columns)


def cells(inputs: Array, columns: Sequence[Column]) -> Matrix:
    """One slot for each category, and for each of 32 bins of a number; beside it the number itself, standardised."""
    num = len(inputs)
    places, offset = [], 0
    numbers = [np.ones((num, 1))]
    for place, column in enumerate(columns):
        values = inputs[:, place]
        codes = binned(values, column, values, num_bins=NUM_BINS)[0]
        places.append(codes + offset)
        offset += int(codes.max(initial=0)) + 1
        if column.kind == "numeric":
            spread = float(np.nanstd(values)) if num else 0.0
            numbers.append(np.nan_to_num((values - np.nanmean(values)) / (spread or 1.0))[:, None])
    slots = np.stack(places, axis=1)
    rows = np.repeat(np.arange(num), slots.shape[1])
    coded = sparse.csr_matrix((np.ones(slots.size), (rows, slots.ravel())), shape=(num, offset))
    return sparse.hstack([coded, sparse.csr_matrix(np.concatenate(numbers, axis=1))], format="csr")


def words(texts: Array, *, language: str) -> Matrix:
    """Hashed words and pairs of words (Chinese, Japanese: letters), weighed by rarity, each row of length 1."""
    rows, slots = [], []
    for row, text in enumerate(texts.tolist()):
        tokens = _tokens(text, by_letter=language in ("zh", "ja"))
        pairs = (tokens[:-1] * 1_000_003 + tokens[1:]) ^ 0x5BD1E995
        found = np.unique(np.concatenate([tokens, pairs]) % NUM_HASHES)
        rows.append(np.full(len(found), row))
        slots.append(found)
    shape = (len(texts), NUM_HASHES)
    flat = np.concatenate(slots) if slots else np.zeros(0, dtype=np.int64)
    seen = np.bincount(flat, minlength=NUM_HASHES)
    rarity = np.log((1 + len(texts)) / (1 + seen)) + 1
    where = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    matrix = sparse.csr_matrix((rarity[flat], (where, flat)), shape=shape)
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    scaled = sparse.diags(SHARPNESS / np.maximum(length, 1e-12)) @ matrix
    return sparse.hstack([scaled, sparse.csr_matrix(np.ones((len(texts), 1)))], format="csr")


def _tokens(text: str, *, by_letter: bool) -> Array:
    if by_letter:
        letters = [letter for letter in text.casefold() if not letter.isspace()]
        return np.array([ord(letter) * 2_654_435_761 % (1 << 32) for letter in letters[:MAX_TOKENS]], dtype=np.int64)
    found = _WORD.findall(text.casefold())[:MAX_TOKENS]
    return np.array([zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in found], dtype=np.int64)


def pixels(images: Array) -> Array:
    """Averages over at most 14 x 14 fields of each channel, standardised, and a one."""
    num, channels, height, width = images.shape
    rows, columns = (np.linspace(0, size, min(FIELDS, size) + 1).round().astype(int)[:-1] for size in (height, width))
    pooled = np.add.reduceat(np.add.reduceat(images.astype(np.float32), rows, axis=2), columns, axis=3)
    flat = pooled.reshape(num, channels * len(rows) * len(columns)).astype(np.float64)
    spread = flat.std(axis=0)
    flat = (flat - flat.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    return np.concatenate([flat, np.ones((num, 1))], axis=1)
