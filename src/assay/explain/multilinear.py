"""Shapley values of many units of one input: single units, all but one, and balanced halves, in one call of the model.

Words of a text or parts of a picture are too many for random orders: a few hundred rows leave a few orders, and the
order of the small values is noise. The mean over orders is an integral over how many units are kept, though, and its
two ends can be asked without any sampling.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from assay.values import Array

LARGEST = 127  # units that one design takes
NUM_PAIRS = 100  # halves and their complements, at least


def multilinear(function: Callable[[Array], Array], num_units: int, *, rng: np.random.Generator | None) -> Array:
    r"""Shapley values `(U,)` of the game `function`, masks `(M, U)` of kept units to outputs `(M,)`, asked once.

    Definition: $\phi_i = \int_0^1 g_i(q) dq$, $g_i(q) = E[f(S + i) - f(S - i)]$ where every other unit is in S with
    chance q; by Simpson's rule (g_i(0) + 4 g_i(1/2) + g_i(1)) / 6, and what is then missing of f(all) - f(none) in
    equal shares. g_i(0) and g_i(1) are the unit alone and all but the unit; g_i(1/2) is the contrast of halves that a
    Plackett-Burman design balances, with their complements, its columns and signs drawn by `rng`. Without `rng` no
    halves are asked and the rule is the trapezoid's, (g_i(0) + g_i(1)) / 2: 2 U + 2 rows, exact while no more than two
    act together.
    Direction: neither; in the unit of the output. 2 U + 2 rows and at least 200 halves: see `num_rows`.
    Limits: at most 127 units. Simpson's rule is exact while no more than four units act together; the middle is exact
    while no more than two do, and unbiased else. An output that jumps where few or most units are kept has a bias.
    Source: Owen 1972, "Multilinear extensions of games", section 5 (the integral); Plackett and Burman 1946, section 4,
    by Paley's squares; Box and Hunter 1961, section 3 (complements free main effects of pairs).

    >>> def game(masks):
    ...     return 2.0 * masks[:, 0] + masks[:, 1] * masks[:, 2]
    >>> multilinear(game, 4, rng=np.random.default_rng(0)).round(9).tolist()
    [2.0, 0.5, 0.5, 0.0]
    """
    if not num_units:
        return np.zeros(0)
    single = np.eye(num_units, dtype=bool)
    halves = np.zeros((0, num_units), dtype=bool) if rng is None else _halves(num_units, rng)
    ends = np.repeat([[True], [False]], num_units, axis=1)
    outputs = function(np.concatenate([ends, single, ~single, halves, ~halves])).astype(np.float64)
    full, empty = outputs[:2]
    alone, without = outputs[2 : 2 + num_units], outputs[2 + num_units : 2 + 2 * num_units]
    values = (alone - empty + full - without) / 2
    if len(halves):
        kept, gone = np.split(outputs[2 + 2 * num_units :], 2)
        values = (values + 2 * (2.0 * halves - 1).T @ (kept - gone) / len(halves)) / 3
    return np.asarray(values + (full - empty - values.sum()) / num_units)


def num_rows(num_units: int) -> int:
    """Rows that `multilinear` asks for.

    >>> num_rows(10), num_rows(50), num_rows(127), max(map(num_rows, range(LARGEST + 1)))
    (238, 342, 512, 512)
    """
    return 2 + 2 * num_units + 2 * _repeats(num_units) * len(design(num_units)) if num_units else 0


def _halves(num_units: int, rng: np.random.Generator) -> Array:
    """`(H, U)` bool: designs, each with columns and signs of its own."""
    signs = design(num_units)
    drawn = [
        (rng.permutation(signs.shape[1])[:num_units], rng.random(num_units) < 0.5) for _ in range(_repeats(num_units))
    ]
    return np.concatenate([signs[:, columns] ^ flipped for columns, flipped in drawn])


def _repeats(num_units: int) -> int:
    return -(-NUM_PAIRS // len(design(num_units)))


@cache
def design(num_units: int) -> Array:
    """The smallest two-level design of N rows for at least `num_units` columns, `(N, N - 1)` bool, columns orthogonal.

    Source: Plackett and Burman 1946, section 4: cyclic shifts of the squares modulo a prime N - 1 = 4 k + 3 (Paley
    1933), and a row of lows.

    >>> design(11).shape, design(50).shape
    ((12, 11), (60, 59))
    """
    size = next(one for one in range(max(num_units, 3), 4 * LARGEST) if one % 4 == 3 and _is_prime(one))
    is_high = np.isin(np.arange(size), np.arange(size) ** 2 % size)
    turned = is_high[(np.arange(size) - np.arange(size)[:, None]) % size]
    return np.concatenate([turned, np.zeros((1, size), dtype=bool)])


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % one for one in range(2, int(number**0.5) + 1))
