"""Named arrays in the safetensors format without a second copy: in pieces to write, and as views of what was read."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError

from assay.digests import Array

# Wide types first, so that each array is aligned: the order in which the safetensors library writes them.
_NAMES = {
    "<u8": "U64", "<i8": "I64", "<f8": "F64", "<f4": "F32", "<u4": "U32", "<i4": "I32", "<f2": "F16", "<u2": "U16",
    "<i2": "I16", "|i1": "I8", "|u1": "U8", "|b1": "BOOL",
}  # fmt: skip
_TYPES = {name: np.dtype(kind) for kind, name in _NAMES.items()}
_LARGEST_HEADER = 100_000_000  # bytes, as in the library


def pack(arrays: Mapping[str, Array]) -> list[bytes | memoryview]:
    """The bytes that `safetensors.numpy.save` gives, in pieces: a header, then each array's own memory.

    The pieces are views: write them before an array changes.

    >>> from safetensors.numpy import save
    >>> whole = {"a": np.arange(3), "b": np.ones(2, dtype=np.float32)}
    >>> b"".join(pack(whole)) == save(whole)
    True
    """
    ready = {name: _little(array) for name, array in arrays.items()}
    odd = {array.dtype.str for array in ready.values()} - set(_NAMES)
    if odd:
        raise SafetensorError(f"arrays of type {', '.join(sorted(odd))} cannot be stored")
    ranks = {kind: rank for rank, kind in enumerate(_NAMES)}
    names = sorted(ready, key=lambda name: (ranks[ready[name].dtype.str], name.encode()))
    header, end = {}, 0
    for name in names:
        array, begin = ready[name], end
        end += array.nbytes
        about = {"dtype": _NAMES[array.dtype.str], "shape": list(array.shape)}
        header[name] = about | {"data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little") + text, *(_bytes(ready[name]) for name in names)]


def unpack(content: bytearray | memoryview) -> dict[str, Array]:
    """The arrays in such bytes, as views of them: they change with it. Raises SafetensorError for anything else.

    >>> unpack(bytearray(b"".join(pack({"a": np.arange(3)}))))["a"]
    array([0, 1, 2])
    """
    content = memoryview(content)
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > min(len(content) - 8, _LARGEST_HEADER):
        raise SafetensorError("the header is longer than the file")
    body, found = content[8 + size :], {}
    try:
        header = json.loads(bytes(content[8 : 8 + size]))
        header.pop("__metadata__", None)
        for name, about in header.items():
            (begin, end), kind = about["data_offsets"], _TYPES[about["dtype"]]
            if not 0 <= begin <= end <= len(body):
                raise SafetensorError(f"{name} lies outside the file")
            found[name] = np.frombuffer(body[begin:end], dtype=kind).reshape(about["shape"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SafetensorError(f"the header does not fit the content ({error!r})") from error
    return found


def _little(array: Array) -> Array:
    whole = np.ascontiguousarray(array) if array.ndim else array  # 0-d stays 0-d
    return whole.astype(whole.dtype.newbyteorder("<"), copy=False)


def _bytes(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
