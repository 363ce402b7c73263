"""What was run once is not run again: arrays and JSON by digest, verified before they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from assay.digests import Array, canonical, digest_of, plain
from assay.storage import make_folder, write_atomic
from assay.storage.packed import pack, unpack

Entry = tuple[dict[str, Array], dict[str, Any]]


@dataclass(frozen=True)
class Cache:
    """Entries named by the digest of what they answer: files in a folder, or in `memory` when there is none.

    Every entry starts with the SHA-256 of the rest. A damaged entry counts as absent and is made anew.
    """

    folder: Path | None
    memory: dict[str, Entry] | None = field(default=None, repr=False, compare=False)

    def get(self, key: Any) -> Entry | None:
        """Arrays and facts stored under a key, or None."""
        if self.folder is None and self.memory is not None:
            return self.memory.get(digest_of(key))
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        raw = np.fromfile(path, dtype=np.uint8).data  # once: the arrays are views of it
        if len(raw) < 40 or hashlib.sha256(raw[32:]).digest() != raw[:32]:
            return None
        num_json = int.from_bytes(raw[32:40], "little")
        try:
            return unpack(raw[40 + num_json :]), json.loads(bytes(raw[40 : 40 + num_json]))
        except (SafetensorError, ValueError):
            return None

    def in_memory(self) -> Cache:
        """The part that lives as long as this value: for answers that are cheaper to make again than to store."""
        return Cache(None, self.memory)

    def put(self, key: Any, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
        """Store arrays and facts under a key, whole or not at all. Raises StorageError."""
        if self.folder is None and self.memory is not None:
            self.memory[digest_of(key)] = (dict(arrays), plain(facts))
        path = self._path(key)
        if path is None:
            return
        text = canonical(facts).encode()
        text += b" " * (-len(text) % 8)  # keeps the tensors aligned
        pieces = [len(text).to_bytes(8, "little") + text, *pack(arrays)]
        total = hashlib.sha256()
        for piece in pieces:
            total.update(piece)
        make_folder(path.parent)
        # No fsync: after a power cut a torn entry fails its digest and is made anew, and nothing else depends on it.
        write_atomic(path, [total.digest(), *pieces], durable=False)

    def _path(self, key: Any) -> Path | None:
        name = digest_of(key)
        return None if self.folder is None else self.folder / name[:2] / name
