"""Searches share passes: as many as fill a batch are under way, and one that ends makes room for the next."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from assay.values import Array


class Seats:
    """Which of J searches, of the rows at positions `at (J,)`, sit in the first `num` of C places.

    They begin in their order. Those of a row that is gone, because one of them broke it, are passed over.

    >>> seats = Seats(np.array([0, 0, 1]), num_rows=2, num_places=2)
    >>> seats.fill().tolist(), seats.num
    ([0, 1], 2)
    >>> seats.leave(np.array([True, False]), wrong=np.array([True, False]), arrays=[])
    array([ True,  True])
    >>> seats.fill().tolist(), seats.num
    ([2], 1)
    """

    def __init__(self, at: Array, *, num_rows: int, num_places: int) -> None:
        self._at, self._next, self.num = at, 0, 0
        self.gone = np.zeros(num_rows, dtype=bool)
        self._seated = np.zeros(max(1, min(num_places, len(at))), dtype=np.int64)

    @property
    def num_places(self) -> int:
        """C, at most J."""
        return len(self._seated)

    @property
    def seated(self) -> Array:
        """The searches under way `(num,)`."""
        return self._seated[: self.num]

    @property
    def at(self) -> Array:
        """Positions of their rows `(num,)`."""
        at: Array = self._at[self.seated]
        return at

    def fill(self) -> Array:
        """Seat the next searches behind those under way; which they are `(n,)`."""
        free = self.num_places - self.num
        waiting = self._next + np.flatnonzero(~self.gone[self._at[self._next :]]) if free else np.arange(0)
        new = waiting[:free]
        if free:
            self._next = int(waiting[free]) if len(waiting) > free else len(self._at)
        self._seated[self.num : self.num + len(new)] = new
        self.num += len(new)
        return new

    def leave(self, ended: Array, *, wrong: Array, arrays: Iterable[Array]) -> Array:
        """Let the searches `ended (num,)` go, and with those that are `wrong (num,)` all others of their rows.

        The last of each array's first `num` rows fill the gaps. Which left `(num,)`.
        """
        self.gone[self.at[wrong]] = True
        leaving: Array = ended | self.gone[self.at]
        kept = self.num - int(leaving.sum())
        gaps, movers = np.flatnonzero(leaving[:kept]), kept + np.flatnonzero(~leaving[kept:])
        for one in (self._seated, *arrays):
            one[gaps] = one[movers]
        self.num = kept
        return leaving
