"""What a model file is, told from its content; anything that could run code when loaded is refused unopened.

Allowed: safetensors, ONNX and GGUF, whose parsers build tensors and graphs only. Everything else is refused, whatever
its name: pickles (`.pkl .pt .pth .bin .joblib .npy .npz`), Keras and HDF5 files, archives, and files that are two
formats at once. Only the first and last 64 KiB and the headers are read; no reader of the refused format is ever
called.
"""

from __future__ import annotations

import math
import os
import re
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

from assay.errors import ModelError, Problem, UnsafeFileError
from assay.evidence.strict_json import loads

__all__ = ["check_format", "check_safetensors"]

ModelFormat = Literal["safetensors", "onnx", "gguf"]
FORMATS = "safetensors, ONNX or GGUF"
MAX_HEADER = 4 << 20  # bytes; the headers of models with thousands of tensors are below 1 MiB
WINDOW = 1 << 16
NUM_BYTES = {
    **{"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2},
    **{"I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1},
}
SIGNATURES = (  # (start of file, what it is, how to convert)
    (b"PK\x03\x04", "a zip archive (torch.save, .npz or .keras)", "torch"),
    (b"PK\x05\x06", "an empty zip archive", "torch"),
    (b"\x93NUMPY", "a NumPy array file, which may hold pickled objects", "torch"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras), which may hold pickled functions", "keras"),
    (b"\x1f\x8b", "a gzip archive", "sklearn"),
    (b"BZh", "a bzip2 archive", "sklearn"),
    (b"\xfd7zXZ", "an xz archive", "sklearn"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "sklearn"),
    (b"\x78\x9c", "zlib data (joblib)", "sklearn"),
    (b"7z\xbc\xaf", "a 7-Zip archive", "torch"),
    (b"\x7fELF", "a program", "torch"),
    (b"MZ", "a program", "torch"),
    (b"#!", "a script", "torch"),
)
PICKLE_TEXT = re.compile(rb"^(c[\w.]+\n[\w.]+\n|\([dlt]p?\d*\n?|\(i[\w.]+\n|[ILSVF][^\n]{0,200}\n[p.(]|\x8a|\]|\}|\))")
CONVERT = {
    "torch": "Convert it where you trust it: from safetensors.torch import save_file; "
    "state = torch.load(path, weights_only=True); save_file(state, 'model.safetensors')",
    "sklearn": "Pass the estimator from Python, assay.models.adapters.SklearnModel(estimator, columns), or convert it "
    "where you trust it: from skl2onnx import to_onnx; onx = to_onnx(estimator, rows[:1]); "
    "open('model.onnx', 'wb').write(onx.SerializeToString())",
    "keras": "Convert it where you trust it: import keras; model = keras.saving.load_model(path); "
    "model.export('model.onnx', format='onnx')",
}
SUFFIXES = {".joblib": "sklearn", ".pkl": "sklearn", ".pickle": "sklearn", ".h5": "keras", ".keras": "keras"}


def check_format(path: str | Path) -> ModelFormat:
    """Say which allowed format a file has, by its content.

    Limits: structure only; whether the bytes are the right ones is the digest's business. Raises UnsafeFileError for
    a format that can run code, with the way to convert it, and ModelError for a damaged or unreadable file.
    """
    path = Path(path)
    with _open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(WINDOW)
        file.seek(max(0, size - WINDOW - 22))
        tail = file.read()
        if size == 0:
            raise ModelError(Problem(f"{path} is empty", f"a {FORMATS} file"))
        what, way = _unsafe_kind(head, tail)
        if what:
            raise _unsafe(path, what, way)
        if head[8:9] == b"{" or path.suffix == ".safetensors":
            file.seek(0)
            check_safetensors(file, size, name=str(path))
            return "safetensors"
        if head[:4] == b"GGUF":
            if len(head) < 24 or struct.unpack_from("<I", head, 4)[0] not in (2, 3):
                raise _damaged(str(path), "its version is not 2 or 3, or its header is cut off")
            return "gguf"
        if _is_onnx(file, size):
            return "onnx"
    if path.suffix == ".onnx":
        raise ModelError(Problem(f"{path} is not a whole ONNX model", "one ModelProto from first byte to last"))
    if path.suffix in {".csv", ".parquet", ".json", ".toml", ".txt"}:
        raise ModelError(Problem(f"{path} is not a model file", FORMATS))
    raise _unsafe(path, "of a format that is not on the list", SUFFIXES.get(path.suffix.lower(), "torch"))


def check_safetensors(file: BinaryIO, size: int, *, name: str) -> Mapping[str, Any]:
    """Read and check the header of a safetensors file: tensors by name, tiling the data exactly.

    Raises ModelError, before anything is allocated, for a header that is too long, is not JSON, repeats a key, names
    an unknown type or a negative or overflowing shape, or whose tensors overlap, leave a hole or miss the end.
    """
    start = file.read(8)
    num = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if len(start) < 8 or num > min(MAX_HEADER, size - 8) or num < 2:
        raise _damaged(name, f"its header would be {num:,} bytes of {size:,}")
    try:
        header = loads(file.read(num))
    except (ValueError, RecursionError) as error:
        raise _damaged(name, f"its header is not plain JSON ({str(error)[:80]})") from error
    if not isinstance(header, dict):
        raise _damaged(name, "its header is not a JSON object")
    spans = sorted(_span(name, key, entry) for key, entry in header.items() if key != "__metadata__")
    end = 0
    for first, last, key in spans:
        if first != end:
            raise _damaged(name, f"tensor {key!r} starts at {first}, not at {end}: overlap or hole")
        end = last
    if end != size - 8 - num:
        raise _damaged(name, f"the tensors end at {end:,}, the data at {size - 8 - num:,}")
    return header


def _span(name: str, key: str, entry: Any) -> tuple[int, int, str]:
    """(first byte, last byte, key) of a tensor, after checking that type, shape and offsets agree."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _damaged(name, f"tensor {key!r} needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in NUM_BYTES:
        raise _damaged(name, f"tensor {key!r} has the unknown type {str(dtype)[:40]!r}")
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [None]
    if len(numbers) > 64 or not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
        raise _damaged(name, f"tensor {key!r} has a shape or offset that is not a list of whole numbers from 0")
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * NUM_BYTES[dtype]:
        raise _damaged(name, f"tensor {key!r}: offsets do not fit the shape")
    return offsets[0], offsets[1], key


def _damaged(name: str, why: str) -> ModelError:
    return ModelError(Problem(f"{name} is damaged: {why}", next="Restore it from a copy"))


def _unsafe(path: Path, what: str, way: str) -> UnsafeFileError:
    allowed = f"{FORMATS}, told by content"
    return UnsafeFileError(Problem(f"{path} was not opened: it is {what}", allowed, CONVERT[way]))


def _unsafe_kind(head: bytes, tail: bytes) -> tuple[str, str]:
    """What a file is if it is known to be unsafe, and how to convert it; "" for what may be allowed."""
    for signature, what, way in SIGNATURES:
        if head.startswith(signature):
            return what, way
    # A safetensors header of exactly 0x0280-ish bytes also begins like a pickle: its ninth byte tells them apart.
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and head[8:9] != b"{":
        return "a pickle, which runs code when it is loaded", "sklearn"
    if head[8:9] != b"{" and PICKLE_TEXT.match(head) and not head.startswith(b"\x08"):
        return "a pickle of an old protocol, which runs code when it is loaded", "sklearn"
    if head[257:262] == b"ustar":
        return "a tar archive", "torch"
    if _ends_as_zip(tail):
        return "also a zip archive (two formats in one file)", "torch"
    return "", ""


def _ends_as_zip(tail: bytes) -> bool:
    """Whether a zip reader would accept the file: an end record whose comment reaches exactly to the end."""
    at = tail.rfind(b"PK\x05\x06")
    while at >= 0:
        if len(tail) - at >= 22 and struct.unpack_from("<H", tail, at + 20)[0] == len(tail) - at - 22:
            return True
        at = tail.rfind(b"PK\x05\x06", 0, at)
    return False


def _is_onnx(file: BinaryIO, size: int) -> bool:
    """Whether the file is one protobuf message with the top-level fields of a ModelProto and nothing else."""
    fields = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}  # number: wire type
    file.seek(0)
    seen: set[int] = set()
    while (at := file.tell()) < size:
        tag = _varint(file)
        number, wire = tag >> 3, tag & 7
        if tag < 0 or fields.get(number) != wire:
            return False
        seen.add(number)
        value = _varint(file)
        if value < 0 or (wire == 2 and value > size - file.tell()):
            return False
        if wire == 2:
            file.seek(value, os.SEEK_CUR)
        if file.tell() <= at:
            return False
    return {1, 7, 8} <= seen and file.tell() == size


def _varint(file: BinaryIO) -> int:
    """The next protobuf integer; -1 where there is none."""
    value = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            return -1
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return -1


def _open_regular(path: Path) -> BinaryIO:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ModelError(Problem(f"{path} cannot be read ({error.strerror})", "a regular file, no link")) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ModelError(Problem(f"{path} is not a regular file", f"a {FORMATS} file"))
    return open(descriptor, "rb")
