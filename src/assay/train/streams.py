"""A seed of its own for every use of a run's seed."""

from __future__ import annotations

import hashlib

from assay.errors import Problem, UsageError

BYTES = 4  # a CPU generator of torch keeps 32 bits of a seed: an offset above them gives the same stream again


def stream_seed(seed: int, use: str) -> int:
    r"""The seed of the draws that `use` names ("augmentation", "noise"), in a run whose seed is `seed`.

    Definition: $s = \mathrm{SHA256}(use \,\|\, 0 \,\|\, seed)$, its first four bytes as a whole number, lowest first:
    0 to 2^32 - 1, which a CPU generator of torch keeps whole. Two uses, or two seeds, give streams of which none tells
    anything of the other; seeds are taken as they are, also below 0 and above 2^64.
    Limits: 32 bits are kept, so each pair of streams is the same one with chance 2^-32; no secret: who knows the
    seed knows every stream.

    Source: FIPS 180-4 (SHA-256); torch `CPUGeneratorImpl` for what is kept of a seed.

    >>> stream_seed(0, "augmentation"), stream_seed(0, "random starts"), stream_seed(1, "augmentation")
    (4086467376, 3877915229, 2731408789)
    """
    return int.from_bytes(hashlib.sha256(f"{use}\0{seed}".encode()).digest()[:BYTES], "little")


def seeds_apart(first: int, num: int, *, own: int) -> list[int]:
    """`num` seeds in a row from `first` on, or from the first after them where a system's `own` seed is among them.

    Seeds that a CPU generator of torch takes for the same one (equal in 32 bits) count as the same.

    >>> seeds_apart(1000, 2, own=0), seeds_apart(1000, 2, own=1001)
    ([1000, 1001], [1002, 1003])
    """
    begin = first + num if (own - first) % 256**BYTES < num else first
    return list(range(begin, begin + num))


def check_seed(seed: int) -> None:
    """Raise UsageError for a training's seed of which a generator keeps a part: two such would train one model."""
    if not 0 <= seed < 256**BYTES:
        what = f"the seed of a training is {seed}"
        raise UsageError(Problem(what, "0 to 2^32 - 1", "Take a smaller one: generators keep 32 bits of it"))
