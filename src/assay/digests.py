"""One digest for everything: canonical text, and SHA-256 over it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_PLAIN = frozenset({str, int, float, bool, type(None)})


def canonical(value: Any) -> str:
    """JSON with sorted keys, no spaces, no NaN: the one text form that is hashed, signed and stored."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """Turn a value into JSON types; arrays become a digest of their type, shape and bytes."""
    if type(value) in _PLAIN:
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in _open_fields(type(value))}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return "array:" + array_digest(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(item) for item in value)
    return value


@cache
def _open_fields(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind) if field.metadata.get("open", True))


def array_digest(array: Array) -> str:
    """SHA-256 over dtype, shape and little-endian bytes; of texts over their lengths and UTF-8 bytes."""
    if array.dtype.kind == "T":
        utf8, ends = pack_texts(array)
        return hashlib.sha256(f"text{array.shape}\0".encode() + ends.tobytes() + utf8.tobytes()).hexdigest()
    contiguous = np.ascontiguousarray(array)
    little = contiguous.astype(contiguous.dtype.newbyteorder("<"), copy=False)
    head = f"{little.dtype.str}{little.shape}".encode()
    total = hashlib.sha256(head + b"\0")
    total.update(little.reshape(-1).view(np.uint8).data)  # not a copy: an array may be most of the memory there is
    return total.hexdigest()


def pack_texts(array: Array) -> tuple[Array, Array]:
    """Texts `(N,)` as UTF-8 bytes `(B,)` uint8 and the end of each `(N,)` int64: what a file of tensors can hold.

    >>> pack_texts(np.array(["a", "bc"], dtype=np.dtypes.StringDType()))[1].tolist()
    [1, 3]
    """
    parts = [text.encode("utf-8", "surrogatepass") for text in array.ravel().tolist()]
    ends = np.cumsum([len(part) for part in parts], dtype="<i8") if parts else np.zeros(0, dtype="<i8")
    return np.frombuffer(b"".join(parts), dtype=np.uint8), ends


def unpack_texts(utf8: Array, ends: Array) -> Array:
    """The texts `(N,)` that `pack_texts` packed.

    >>> unpack_texts(*pack_texts(np.array(["a", "bc"], dtype=np.dtypes.StringDType()))).tolist()
    ['a', 'bc']
    """
    whole, starts = utf8.tobytes(), [0, *ends.tolist()]
    parts = [
        whole[start:end].decode("utf-8", "surrogatepass") for start, end in zip(starts, ends.tolist(), strict=False)
    ]
    return np.array(parts, dtype=np.dtypes.StringDType())


def digest_of(value: Any) -> str:
    """SHA-256 of the canonical text of a value.

    >>> digest_of({"b": 1, "a": 2}) == digest_of({"a": 2, "b": 1})
    True
    """
    return hashlib.sha256(canonical(value).encode()).hexdigest()
