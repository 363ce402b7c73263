"""Where a data set comes from, as plain values: a package and version, the files inside, their digests, its terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Package:
    """A package of a public registry, at one version: `file` is the name its client saves it under."""

    registry: Literal["pypi", "npm", "debian"]
    name: str
    version: str
    file: str
    sha256: str
    num_bytes: int

    @property
    def is_built(self) -> bool:
        """Whether it is a wheel, not the source of one."""
        return self.file.endswith(".whl")


@dataclass(frozen=True)
class Kept:
    """One file kept in the cache, and where it is in the package. `sha256` and `num_bytes` are of what is kept.

    `path`: each "!" opens what is there so far and names what is taken from it: "!a/b.gz!" is file a/b.gz, gunzipped.
    A "*" takes all files that match, as one pack (see `archives.pack`). `turn` makes another form of the bytes.
    """

    name: str
    path: str
    sha256: str
    num_bytes: int
    turn: Callable[[bytes], bytes] | None = None


@dataclass(frozen=True)
class Mirror:
    """A second source: an https address, the digest of the file there, and what it gives: (kept name, path inside)."""

    url: str
    sha256: str
    num_bytes: int
    gives: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Source:
    """One package a data set is made from, with its licence and citation."""

    name: str
    package: Package
    kept: tuple[Kept, ...]
    address: str
    licence: str
    citation: str
    mirrors: tuple[Mirror, ...] = ()
    without_mirror: str = ""  # why there is no second source

    def facts(self) -> dict[str, Any]:
        """What `Data.source` says of where the rows come from."""
        package = self.package
        return {
            "kind": "package",
            "address": self.address,
            "package": f"{package.registry}:{package.name} {package.version}",
            "licence": self.licence,
            "citation": self.citation,
            "sha256": package.sha256,
            "files": {one.name: one.sha256 for one in self.kept},
        }
