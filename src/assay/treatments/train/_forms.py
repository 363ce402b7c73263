r"""The three forms that a layer's gradient of one row takes: a product, a lookup, a scale.

What a layer was given and the gradient by what it answered are enough: neither norms nor sums need a pass of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

KEPT_NUMBERS = 1 << 23  # gradients of single rows kept between norms and sums: at most 32 MiB a layer
AT_ONCE = 1 << 19  # numbers unfolded together: 2 MiB, so that they stay near the processor
NOTHING = torch.empty(0)
ONE_READ = 16  # multiplications that take as long as reading or writing a number in memory (measured)


class Form(Protocol):
    """What one layer adds to the gradient of each of n rows."""

    def squared(self) -> Tensor:
        r"""$\|g_i\|^2$ of this layer's parameters, `(n,)`."""
        ...

    def sums(self, factors: Tensor) -> dict[str, Tensor]:
        r"""$\sum_i c_i g_i$ by parameter name, for factors `(n,)`."""
        ...


class Scratch:
    """Memory used again by every part and step: fresh pages cost as much time as what is computed into them."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}
        self._taken: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Room for `shape`, of the kind of `like`, with any numbers in it, until the same name is taken again."""
        taken = self._taken.get(name)
        if taken is not None and (taken.shape, taken.dtype, taken.device) == (shape, like.dtype, like.device):
            return taken
        size, held = math.prod(shape), self._held.get(name)
        if held is None or held.numel() < size or (held.dtype, held.device) != (like.dtype, like.device):
            del taken, held
            self._held.pop(name, None), self._taken.pop(name, None)  # the old goes before the new comes
            self._held[name] = like.new_empty(size)
        self._taken[name] = found = self._held[name][:size].view(shape)
        return found


@dataclass(frozen=True)
class Part:
    """One weight `(O, ...)` and its bias, and what it was multiplied with: `given (n, T, I)`, or raw images."""

    weight: str
    bias: str | None
    shape: torch.Size  # of the weight
    given: Tensor


@dataclass(frozen=True)
class Filter:
    """How a convolution becomes a product: `unfold` gives `(n G, T, I)`, `fold` brings sums `(G, I, O / G)` back.

    Without groups, `windows` gives the same as several `(n, T, I_j)`, one after the other in I, which overlap in memory
    and so take less of it: `size` numbers a row. `widths` are the I_j.
    """

    unfold: Callable[[Tensor], Tensor]
    fold: Callable[[Tensor], Tensor]
    windows: Callable[[Tensor], list[Tensor]]
    widths: tuple[int, ...]
    size: int
    groups: int = 1


@dataclass
class Product:
    r"""$g_i = \sum_t d_{it} \otimes a_{it}$: linear layers, convolutions and the gates of recurrent layers.

    `gradient (n, T, O)` is shared by all parts: an LSTM's two weights have one. With T = 1 the norm is
    $\|a\|\|d\|$. Else either the gradients of single rows are formed (n T I O operations, those of an ordinary step's
    weight gradient), or norms come from Gram matrices, $\sum_{tu} (a_t \cdot a_u)(d_t \cdot d_u)$, whichever is
    smaller.

    Source: Bu et al. 2023, "Differentially Private Optimization on Large Model at Small Cost", section 3.
    """

    parts: list[Part]
    gradient: Tensor
    filter: Filter | None = None
    may_change: bool = False  # whether the gradient belongs to nobody else, and may be scaled in place
    both: Tensor | None = None  # what all parts were given, side by side `(n, T, sum of I)`, where it lies so
    scratch: Scratch = field(default_factory=Scratch)
    kept: dict[str, list[Tensor]] = field(default_factory=dict)  # gradients of single rows, several (J, n, I_j O)
    total: Tensor | None = None  # a bias' gradient of each row

    def squared(self) -> Tensor:
        """See `Form.squared`."""
        num_biases = sum(part.bias is not None for part in self.parts)
        if self.filter is None and self.gradient.shape[1] == 1:
            given = sum_of([_row_squares(part.given) for part in self.parts])
            return _row_squares(self.gradient).mul_(given.add_(num_biases))
        squared = self._gram() if self._by_gram else sum_of([self._formed(part) for part in self.parts])
        if num_biases:
            self.total = self.gradient.sum(dim=1)
            length = torch.linalg.vector_norm(self.total, dim=1)
            squared = torch.addcmul(squared, length, length, value=num_biases)
        if len(self.kept) == len(self.parts):  # all that the sums need
            self.gradient, self.parts = NOTHING, [replace(one, given=NOTHING) for one in self.parts]
        return squared

    def sums(self, factors: Tensor) -> dict[str, Tensor]:
        """See `Form.sums`."""
        if self.filter is None and not self.kept:
            return self._weighed(factors)
        found: dict[str, Tensor] = {}
        for part in self.parts:
            if part.weight in self.kept:
                each = [_weighted_sum(one, factors) for one in self.kept[part.weight]]
                total = each[0] if len(each) == 1 else torch.cat(each)
            else:
                total = sum_of([self._filtered(part, rows, factors) for rows in self._rows(part)])
            if self.filter is None:
                found[part.weight] = total.view(-1, part.shape[0]).T.contiguous()
            else:
                found[part.weight] = self.filter.fold(total)
        self.kept = {}
        return found | self._biases(factors)

    def _biases(self, factors: Tensor, weighted: Tensor | None = None) -> dict[str, Tensor]:
        """A tensor each: whoever adds to one must not add to the other."""
        names = [part.bias for part in self.parts if part.bias is not None]
        if self.total is not None:
            return {name: torch.mv(self.total.T, factors) for name in names}
        return {} if weighted is None else {name: weighted.sum(dim=0) for name in names}

    def _weighed(self, factors: Tensor) -> dict[str, Tensor]:
        """The products of an ordinary step, each row's gradient times its factor."""
        is_flat, weighted = self.gradient.shape[1] == 1, self._weighted(factors)
        flats = [self._flat(one) for one in ([part.given for part in self.parts] if self.both is None else [self.both])]
        self.gradient = NOTHING  # the weighted one takes its place
        found: dict[str, Tensor] = {}
        widths = [part.given.shape[2] for part in self.parts]
        for flat in flats:  # with T > 1 the product is long and narrow: faster the other way round
            total = weighted.T @ flat if is_flat else (flat.T @ weighted).T
            names = [part.weight for part in self.parts[len(found) :]]
            each = [total] if self.both is None else torch.split_with_sizes(total, widths, dim=1)
            found |= {name: one.contiguous() for name, one in zip(names, each, strict=False)}
        return found | self._biases(factors, weighted)

    @property
    def _groups(self) -> int:
        return 1 if self.filter is None else self.filter.groups

    @property
    def _by_gram(self) -> bool:
        """Whether T x T matrices are cheaper than writing and reading the gradients of single rows."""
        if self.filter is not None and self.filter.groups > 1:
            return False
        length, outputs = self.gradient.shape[1:]
        inputs = sum(part.shape.numel() // part.shape[0] for part in self.parts)
        again = 0 if self.filter is None else ONE_READ * length * inputs  # unfolded a second time for the sums
        return length**2 * (inputs + outputs) + again < 2 * ONE_READ * inputs * outputs

    def _rows(self, part: Part, *, is_formed: bool = False) -> list[slice]:
        """Parts of the batch that are handled together: all rows, but for what is unfolded."""
        num_rows, length = self.gradient.shape[:2]
        size = length * part.shape.numel() // part.shape[0] * self._groups
        if self.filter is not None and is_formed and self.filter.groups == 1:
            size = self.filter.size
        step = num_rows if self.filter is None else max(1, AT_ONCE // max(1, size))
        step = -(-num_rows // max(1, -(-num_rows // max(1, step))))  # parts of one size
        return [slice(start, min(start + step, num_rows)) for start in range(0, num_rows, max(1, step))]

    def _pair(self, part: Part, rows: slice) -> tuple[Tensor, Tensor]:
        """Given `(n G, T, I)` and gradients `(n G, T, O / G)` of some rows."""
        gradient = self.gradient[rows]
        if self.filter is None:
            return part.given[rows], gradient
        if self.filter.groups > 1:
            wide = gradient.reshape(*gradient.shape[:2], self.filter.groups, -1)
            gradient = wide.transpose(1, 2).flatten(0, 1)
        return self.filter.unfold(part.given[rows]), gradient

    def _gram(self) -> Tensor:
        found = []
        for rows in self._rows(self.parts[0]):
            pairs = [self._pair(part, rows) for part in self.parts]
            sides = [one for one, _ in pairs] if self.both is None else [self.both]
            given = sum_of([one @ one.transpose(1, 2) for one in sides])
            gradient = pairs[0][1]
            both = (gradient @ gradient.transpose(1, 2)).flatten(1)
            found.append((both[:, None] @ given.flatten(1)[:, :, None])[:, 0, 0].clamp_min(0))
        return torch.cat(found)

    def _formed(self, part: Part) -> Tensor:
        """Norms of the gradients of single rows, which are kept for the sums where they are not too many."""
        num_rows, found = len(self.gradient), []
        is_kept = num_rows * part.shape.numel() <= KEPT_NUMBERS
        whole, groups = self._blocks(part, part.weight, num_rows) if is_kept else [], self._groups
        for rows in self._rows(part, is_formed=True):
            some = [one[:, rows.start * groups : rows.stop * groups] for one in whole]
            some = some or self._blocks(part, "rows", rows.stop - rows.start)
            given, gradient = self._sides(part, rows)
            for side, out in zip(given, [one for block in some for one in block.unbind()], strict=True):
                torch.bmm(side.transpose(1, 2), gradient, out=out)
            if not is_kept:
                found.append(_lengths(some, rows.stop - rows.start))
        if not is_kept:
            return torch.cat(found)
        self.kept[part.weight] = [one.view(len(one), num_rows, -1) for one in whole]
        return _lengths(whole, num_rows)

    def _blocks(self, part: Part, name: str, num_rows: int) -> list[Tensor]:
        """Room for gradients of single rows: several `(J, n G, I_j, O / G)`, for each width I_j of what was given."""
        inputs, outputs = part.shape.numel() // part.shape[0], part.shape[0]
        widths = (inputs,) if self.filter is None or self.filter.groups > 1 else self.filter.widths
        # I is longer than O, and lies outside
        sizes = [
            (len(list(same)), num_rows * self._groups, width, outputs // self._groups)
            for width, same in groupby(widths)
        ]
        return [self.scratch.take(f"{name} {number}", size, self.gradient) for number, size in enumerate(sizes)]

    def _sides(self, part: Part, rows: slice) -> tuple[list[Tensor], Tensor]:
        """As `_pair`, what was given in several `(n G, T, I_j)`."""
        if self.filter is None or self.filter.groups > 1:
            given, gradient = self._pair(part, rows)
            return [given], gradient
        return self.filter.windows(part.given[rows]), self.gradient[rows]

    def _flat(self, one: Tensor) -> Tensor:
        """`(n, T, C)` to `(n T, C)`, or `(T n, C)` where time lies outermost: without a copy."""
        return (one if self.gradient.is_contiguous() else one.transpose(0, 1)).flatten(0, 1)

    def _weighted(self, factors: Tensor) -> Tensor:
        is_rows_first = self.gradient.is_contiguous()
        gradient = self.gradient if is_rows_first else self.gradient.transpose(0, 1)
        wide = factors[:, None, None] if is_rows_first else factors[None, :, None]
        return (gradient.mul_(wide) if self.may_change else gradient * wide).flatten(0, 1)

    def _filtered(self, part: Part, rows: slice, factors: Tensor) -> Tensor:
        given, gradient = self._pair(part, rows)
        weighted = gradient * factors[rows].repeat_interleave(self._groups)[:, None, None]
        if self._groups == 1:
            return given.flatten(0, 1).T @ weighted.flatten(0, 1)
        left, right = (
            one.reshape(-1, self._groups, *one.shape[1:]).transpose(0, 1).flatten(1, 2) for one in (weighted, given)
        )  # (G, n T, ...)
        found: Tensor = right.transpose(1, 2) @ left
        return found


def _row_squares(array: Tensor) -> Tensor:
    """Squared norms `(n,)` of rows `(n, 1, C)`, by operations that an ordinary step has loaded: vector_norm is not."""
    return (array * array).sum(dim=(1, 2))


def _lengths(blocks: list[Tensor], num_rows: int) -> Tensor:
    """Squared norms `(n,)` of rows whose numbers lie in several `(J, n ...)`."""
    # vecdot would write all products first
    each = [torch.linalg.vector_norm(one.view(len(one), num_rows, -1), dim=2) for one in blocks]
    return (each[0] if len(each) == 1 else torch.cat(each)).square().sum(dim=0)


def _weighted_sum(block: Tensor, factors: Tensor) -> Tensor:
    """`(J, n, I_j O)` and factors `(n,)` to `(J I_j O,)`."""
    return torch.bmm(factors.expand(len(block), 1, -1), block).flatten()


def sum_of(tensors: list[Tensor]) -> Tensor:
    """The sum of one tensor or more; the first itself where there is no other."""
    found = tensors[0]
    for one in tensors[1:]:
        found = found + one
    return found


@dataclass
class Lookup:
    r"""$g_i$ adds $d_{it}$ to the table's entry of token $t$: $\|g_i\|^2 = \sum_{t,u} [t = u]\,d_t \cdot d_u$.

    `places (n, T)` and `gradient (n, T, D)`, which is 0 at padding.
    """

    weight: str
    shape: torch.Size
    places: Tensor
    gradient: Tensor

    def squared(self) -> Tensor:
        """See `Form.squared`."""
        same = self.places[:, :, None] == self.places[:, None, :]
        both = self.gradient @ self.gradient.transpose(1, 2)
        return (both * same).sum(dim=(1, 2)).clamp_min(0)

    def sums(self, factors: Tensor) -> dict[str, Tensor]:
        """See `Form.sums`."""
        table = torch.zeros(self.shape)
        weighted = (self.gradient * factors[:, None, None]).flatten(0, 1)
        return {self.weight: table.index_add_(0, self.places.flatten(), weighted)}


@dataclass
class Scale:
    """Parameters that scale or shift what was normalised: gradients of single rows `(n, ...)` are small."""

    each: dict[str, Tensor]

    def squared(self) -> Tensor:
        """See `Form.squared`."""
        return sum_of([one.flatten(1).square().sum(dim=1) for one in self.each.values()])

    def sums(self, factors: Tensor) -> dict[str, Tensor]:
        """See `Form.sums`."""
        return {name: torch.tensordot(factors, one, dims=1) for name, one in self.each.items()}
