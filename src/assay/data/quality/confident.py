"""Confident learning: which labels look wrong to probabilities that never saw them."""

from __future__ import annotations

import numpy as np

from assay.values import Array


def thresholds(labels: Array, probabilities: Array) -> Array:
    r"""Self-confidence of each class `(K,)`: $t_j$ = mean of $p_{ij}$ over the rows labelled j; infinite without any.

    >>> thresholds(np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.5, 0.5], [0.4, 0.6]])).round(2).tolist()
    [0.7, 0.6]
    """
    num_classes = probabilities.shape[1]
    sizes = np.bincount(labels, minlength=num_classes)
    own = np.bincount(labels, weights=probabilities[np.arange(len(labels)), labels], minlength=num_classes)
    found: Array = np.where(sizes > 0, own / np.maximum(sizes, 1), np.inf)
    return found


def looks_like(labels: Array, probabilities: Array) -> Array:
    r"""The class `(N,)` each row confidently looks like, or -1: $\arg\max_{j: p_{ij} \ge t_j} p_{ij}$.

    Rows that look like another class than their label are the off-diagonal of the confident joint $C_{\tilde y, y^*}$.
    Probabilities must be out of sample for these labels: from a model that was not trained on them. Rows with NaN
    probabilities look like nothing. Limits: where classes truly overlap, rows on the other side look mislabelled.
    Source: Northcutt, Jiang and Chuang (2021), Confident learning, JAIR 70, section 3.1, equations 1 and 2.

    >>> labels = np.array([0, 0, 0, 1, 1])
    >>> first = np.array([0.9, 0.8, 0.1, 0.2, 0.1])
    >>> looks_like(labels, np.stack([first, 1 - first], axis=1)).tolist()
    [0, 0, 1, -1, 1]
    """
    known: Array = np.isfinite(probabilities.sum(axis=1))
    if not known.any():
        return np.full(len(labels), -1, dtype=np.int64)
    return _above(probabilities, _limits(labels, probabilities, known), known)


def _above(probabilities: Array, limits: Array, known: Array) -> Array:
    sure = np.where(probabilities >= limits, probabilities, -1.0)
    found: Array = np.where(known & (sure.max(axis=1) >= 0), sure.argmax(axis=1), -1)
    return found


def _limits(labels: Array, probabilities: Array, known: Array) -> Array:
    return thresholds(labels[known], probabilities[known].astype(np.float64)) - 1e-9  # a mean may round up


def suspected(labels: Array, probabilities: Array) -> Array:
    """Mask `(N,)` of the rows that confidently look like another class than their label."""
    seen = looks_like(labels, probabilities)
    mask: Array = (seen >= 0) & (seen != labels)
    return mask


def doubt(labels: Array, probabilities: Array) -> Array:
    r"""How wrong each label looks `(N,)`: $\max_{j \ne y} p_j - p_y$, from -1 to 1; larger is more doubtful."""
    rows = np.arange(len(labels))
    others = probabilities.astype(np.float64, copy=True)
    others[rows, labels] = -np.inf
    found: Array = others.max(axis=1) - probabilities[rows, labels]
    return found


def slopes(labels: Array, probabilities: Array) -> Array:
    r"""How fast each row's mark goes as each threshold rises `(N, K)`, in turn: $(m_i(t_j + h) - m_i(t_j - h)) / 2h$.

    h is the spread of $p_j$ among rows labelled j over the fifth root of their number. Means over many rows are what
    they are for: the derivative of a share of suspected rows.
    """
    known: Array = np.isfinite(probabilities.sum(axis=1))
    found = np.zeros(probabilities.shape)
    if not known.any():
        return found
    limits = _limits(labels, probabilities, known)
    for code in range(probabilities.shape[1]):
        own = probabilities[known & (labels == code), code].astype(np.float64)
        step = float(own.std()) * len(own) ** -0.2 if len(own) > 1 else 0.0
        if step > 0:
            moved = step * (np.arange(len(limits)) == code)
            up, down = (_above(probabilities, limits + sign * moved, known) for sign in (1, -1))
            marks = [((seen >= 0) & (seen != labels)).astype(np.float64) for seen in (up, down)]
            found[:, code] = (marks[0] - marks[1]) / (2 * step)
    return found


def pulls(labels: Array, probabilities: Array) -> Array:
    r"""What each row does to each threshold `(N, K)`, times N: $(p_{ij} - t_j) / \pi_j$ for its own label j, else 0."""
    known: Array = np.isfinite(probabilities.sum(axis=1))
    found = np.zeros(probabilities.shape)
    if known.any():
        limits = _limits(labels, probabilities, known)
        rows = np.flatnonzero(known)
        shares = np.bincount(labels[rows], minlength=probabilities.shape[1]) / len(rows)
        found[rows, labels[rows]] = (probabilities[rows, labels[rows]] - limits[labels[rows]]) / shares[labels[rows]]
    return found
