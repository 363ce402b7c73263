"""What a filter sees of pictures at each of its places, as rows of products."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor
from torch.nn import functional

from assay.treatments.train._forms import Scratch

Pair = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """Of a convolution, down and across."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    def places(self, size: Pair) -> Pair:
        """How many, of pictures of this size with the padding around them."""
        down, across = (
            (whole - dilation * (kernel - 1) - 1) // stride + 1
            for whole, kernel, stride, dilation in zip(size, self.kernel, self.stride, self.dilation, strict=True)
        )
        return down, across

    def padded(self, given: Tensor) -> Tensor:
        """Pictures `(n, C, H, W)` to `(n, H, W, C)` with zeros around, one after the other in memory."""
        wide = given.permute(0, 2, 3, 1)
        down, across = self.padding
        if down or across:
            wide = functional.pad(wide, (0, 0, across, across, down, down))
        return wide.contiguous()


def unfolded(given: Tensor, geometry: Geometry, *, groups: int) -> Tensor:
    """Images `(n, C, H, W)` to what the filter sees at each of T places, `(n G, T, kernel C / G)`, channels innermost.

    With channels innermost, what the filter sees is read in long runs: two to three times as fast as
    `torch.nn.functional.unfold` on a CPU, which goes pixel by pixel.
    """
    wide = geometry.padded(given)
    num_rows, height, width, channels = wide.shape
    down, across = geometry.places((height, width))
    line, (stride, step), (dilation, apart) = width * channels, geometry.stride, geometry.dilation
    seen = wide.as_strided(
        (num_rows, down, across, *geometry.kernel, channels),
        (height * line, stride * line, step * channels, dilation * line, apart * channels, 1),
    )
    if groups == 1:
        return seen.reshape(num_rows, down * across, -1)
    parts = seen.reshape(num_rows, down * across, -1, groups, channels // groups).permute(0, 3, 1, 2, 4)
    return parts.reshape(num_rows * groups, down * across, -1)


@dataclass(frozen=True)
class _Plan:
    """Which lines of a picture each line of a filter meets: q + s (y + o) at place y, with q < s, the stride."""

    lines: tuple[Pair, ...]  # each q that occurs, and how many lines are seen from there on, s apart
    runs: tuple[tuple[int, int, int], ...]  # (o, first, last): lines of the filter with one o and q next to each other

    @property
    def height(self) -> int:
        """Lines that are written for each q."""
        return max(num for _, num in self.lines)


@lru_cache(maxsize=256)
def _planned(kernel: int, stride: int, dilation: int, down: int) -> _Plan:
    taps = [divmod(row * dilation, stride) for row in range(kernel)]
    starts = sorted({start for _, start in taps})
    lines = [(start, down + max(over for over, other in taps if other == start)) for start in starts]
    runs: list[tuple[int, int, int]] = []
    for over, start in taps:
        place = starts.index(start)
        if runs and (runs[-1][0], runs[-1][2]) == (over, place):
            runs[-1] = (over, runs[-1][1], place + 1)
        else:
            runs.append((over, place, place + 1))
    return _Plan(tuple(lines), tuple(runs))


def overlapping(given: Tensor, geometry: Geometry, scratch: Scratch) -> list[Tensor]:
    """What `unfolded` gives without groups, in parts `(n, T, I_j)` side by side, which share memory.

    All that is written is what a filter of one line sees: kernel / stride times less than by `unfolded`. Lines of the
    filter that are as many strides down see it from there on.
    """
    wide = geometry.padded(given)
    num_rows, height, width, channels = wide.shape
    down, across = geometry.places((height, width))
    plan = _planned(geometry.kernel[0], geometry.stride[0], geometry.dilation[0], down)
    size = geometry.kernel[1] * channels
    each = len(plan.lines) * size  # numbers of one place
    whole, seen = plan.height * across * each, wide
    if geometry.kernel[1] > 1 or geometry.stride != (1, 1):
        seen = scratch.take("windows", (num_rows, whole), wide)
        line, (stride, step), apart = width * channels, geometry.stride, geometry.dilation[1] * channels
        start = wide.storage_offset()
        for place, (top, num) in enumerate(plan.lines):
            shape = (num_rows, num, across, geometry.kernel[1], channels)
            old = wide.as_strided(shape, (height * line, stride * line, step * channels, apart, 1), start + top * line)
            seen.as_strided(shape, (whole, across * each, each, channels, 1), place * size).copy_(old)
    start = seen.storage_offset()
    return [
        seen.as_strided(
            (num_rows, down * across, (last - first) * size),
            (whole, each, 1),
            start + over * across * each + first * size,
        )
        for over, first, last in plan.runs
    ]


@lru_cache(maxsize=256)
def sizes_of(shape: tuple[int, ...], geometry: Geometry) -> tuple[tuple[int, ...], int]:
    """The widths I_j of what `overlapping` gives of pictures `(C, H, W)`, and how many numbers it writes of one."""
    channels, height, width = shape
    down, across = geometry.places((height + 2 * geometry.padding[0], width + 2 * geometry.padding[1]))
    plan = _planned(geometry.kernel[0], geometry.stride[0], geometry.dilation[0], down)
    size = geometry.kernel[1] * channels
    return tuple((last - first) * size for _, first, last in plan.runs), plan.height * across * len(plan.lines) * size
