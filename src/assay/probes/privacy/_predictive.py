"""Membership scores from Bayesian predictives of a row's confidence: stable variances with few reference models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from assay.values import Array

SHAPE = 2.0  # of the prior on a row's variance: as sure as four reference models would be


def logit_confidence(logits: Array, labels: Array) -> Array:
    """log(p / (1 - p)) of the true class `(N,)`, from logits so that it never overflows; NaN where errored.

    >>> logit_confidence(np.array([[2.0, 0.0], [0.0, 0.0]]), np.array([0, 0]))
    array([2., 0.])
    """
    wide = np.asarray(logits, dtype=np.float64)
    errored: Array = np.logical_not(np.isfinite(wide).all(axis=1))
    wide = np.where(errored[:, None], 0.0, wide)
    rows = np.arange(len(wide))
    own = wide[rows, labels]
    wide[rows, labels] = -np.inf
    top = wide.max(axis=1)
    found: Array = own - top - np.log(np.exp(wide - top[:, None]).sum(axis=1))
    return np.where(errored, np.nan, found)


@dataclass(frozen=True)
class Predictive:
    """Student-t predictive of each row `(N,)`: where, how wide, and how sure of the width."""

    middle: Array
    scale: Array
    freedom: Array

    def log_density(self, values: Array) -> Array:
        """Log p(value) `(N,)`."""
        found: Array = student.logpdf(values, self.freedom, self.middle, self.scale)
        return found

    def surprise(self, values: Array) -> Array:
        """-log P(as high or higher) `(N,)`."""
        found: Array = -student.logsf(values, self.freedom, self.middle, self.scale)
        return found


def predictive(confidences: Array, mask: Array) -> Predictive:
    r"""Predictive of one more model, from `confidences (R, N)` of the models in `mask (R, N)`, one or more a row.

    Mean and variance of a row have the conjugate normal-inverse-gamma prior: variance with shape 2 around the variance
    that all rows share, mean around the mean of all rows with the weight sigma^2 / tau^2 of one model (both by
    moments). So kappa' = kappa + n, a' = a + n/2, b' = b + S/2 + kappa n (mean - mu)^2 / (2 kappa').

    Source: Murphy 2007, "Conjugate Bayesian analysis of the Gaussian distribution", section 3; the idea of
    Brännvall 2026 (arXiv 2603.11799), whose own constants could not be read: those above are ours.
    """
    counts = mask.sum(axis=0)
    means = np.where(mask, confidences, 0.0).sum(axis=0) / counts
    squares = np.where(mask, (confidences - means) ** 2, 0.0).sum(axis=0)
    shared = max(float(squares.sum() / max((counts - 1).sum(), 1)), 1e-12)
    middle = float(means.mean())
    between = max(float(means.var() - (shared / counts).mean()), 1e-12)
    weight = shared / between
    kappa, shape = weight + counts, SHAPE + counts / 2
    spread = (SHAPE - 1) * shared + squares / 2 + weight * counts * (means - middle) ** 2 / (2 * kappa)
    scale = np.sqrt(spread * (kappa + 1) / (shape * kappa))
    return Predictive((weight * middle + counts * means) / kappa, scale, 2 * shape)
