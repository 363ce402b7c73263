"""A GGUF file, parsed within limits: metadata and tensors, every length and offset checked before it is used.

Format: GGUF versions 2 and 3 (ggml's docs/gguf.md). Nothing in it is code; what is not understood is refused.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from assay.errors import ModelError, Problem
from assay.models.adapters._gguf_blocks import BLOCKS, dequantize
from assay.values import Array

MAX_ENTRIES = 4096  # of metadata
MAX_TENSORS = 65_536
MAX_ARRAY = 4_000_000  # entries of one array: vocabularies have up to 300,000
MAX_TEXT = 1 << 24  # bytes of one text: chat templates have some thousand
MAX_NUMBERS = 1 << 40  # of one tensor
NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8", 12: "<f8"}
BOOL, TEXT, ARRAY = 7, 8, 9


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies: `shape` with the slowest axis first, a block type of `_gguf_blocks`, its bytes."""

    shape: tuple[int, ...]
    block: int
    first: int
    last: int


@dataclass(frozen=True)
class GgufFile:
    """Metadata by key, tensors by name, and the bytes they lie in."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    content: bytes

    def tensor(self, name: str) -> Array:
        """A tensor as float32. Raises ModelError where the file has none of that name."""
        if name not in self.tensors:
            raise ModelError(Problem(f"the GGUF file has no tensor {name}", next="Convert the model again"))
        one = self.tensors[name]
        return dequantize(self.content[one.first : one.last], one.block).reshape(one.shape)


def parse_gguf(content: bytes, *, name: str) -> GgufFile:
    """Metadata and the table of tensors. Raises ModelError, before anything large is allocated, for a file that is not
    GGUF 2 or 3, repeats a name, is longer or shorter than it says, or has a type, shape or offset that cannot be.
    """
    reader = _Reader(content, name)
    if content[:4] != b"GGUF":
        raise ModelError(Problem(f"{name} is not a GGUF file", "a file that begins with GGUF"))
    reader.at = 4
    version = reader.number("<u4")
    if version not in (2, 3):
        raise reader.damaged(f"its version is {version}, not 2 or 3")
    num_tensors, num_entries = reader.number("<u8"), reader.number("<u8")
    if num_tensors > MAX_TENSORS or num_entries > MAX_ENTRIES:
        raise reader.damaged(f"it says it has {num_tensors:,} tensors and {num_entries:,} entries")
    metadata: dict[str, Any] = {}
    for _ in range(num_entries):
        key = reader.text()
        if key in metadata:
            raise reader.damaged(f"{key!r} appears twice")
        metadata[key] = reader.value(reader.number("<u4"))
    heads = [reader.head() for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 8 <= alignment <= 65_536 or alignment % 8:
        raise reader.damaged(f"its alignment is {alignment}")
    start = reader.at + -reader.at % alignment
    return GgufFile(metadata, _table(heads, start, alignment, reader), content)


def _table(
    heads: list[tuple[str, tuple[int, ...], int, int]], start: int, alignment: int, reader: _Reader
) -> dict[str, GgufTensor]:
    """Tensors by name, which must follow one another from `start` with no more than padding between them."""
    found: dict[str, GgufTensor] = {}
    end = start
    for name, shape, block, offset in sorted(heads, key=lambda head: head[3]):
        size, per_block = BLOCKS[block]
        first = start + offset
        last = first + math.prod(shape) // per_block * size
        if name in found:
            raise reader.damaged(f"tensor {name!r} appears twice")
        if first != end + -(end - start) % alignment or last > len(reader.content):
            raise reader.damaged(f"tensor {name!r} lies at {first:,} to {last:,} of {len(reader.content):,} bytes")
        found[name] = GgufTensor(shape, block, first, last)
        end = last
    if len(reader.content) - end >= alignment:
        raise reader.damaged(f"{len(reader.content) - end:,} bytes follow the last tensor")
    return found


class _Reader:
    """Reads numbers and texts front to back; `at` is the next byte."""

    def __init__(self, content: bytes, name: str) -> None:
        self.content, self.name, self.at = content, name, 0

    def damaged(self, why: str) -> ModelError:
        return ModelError(Problem(f"{self.name} is damaged: {why}", next="Restore it from a copy"))

    def take(self, num: int) -> bytes:
        if num > len(self.content) - self.at:
            raise self.damaged(f"it ends at {len(self.content):,} bytes, in the middle of its header")
        self.at += num
        return self.content[self.at - num : self.at]

    def number(self, kind: str) -> int:
        return int.from_bytes(self.take(int(kind[2])), "little")

    def text(self) -> str:
        num = self.number("<u8")
        if num > MAX_TEXT:
            raise self.damaged(f"a text would have {num:,} bytes")
        try:
            return self.take(num).decode()
        except UnicodeDecodeError as error:
            raise self.damaged("a text is not UTF-8") from error

    def value(self, kind: int) -> Any:
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            return self.numbers(kind, 1)[0]
        inner, num = self.number("<u4"), self.number("<u8")
        if num > MAX_ARRAY or inner == ARRAY:
            raise self.damaged(f"an array would have {num:,} entries of type {inner}")
        return [self.text() for _ in range(num)] if inner == TEXT else self.numbers(inner, num)

    def numbers(self, kind: int, num: int) -> list[Any]:
        if kind == BOOL:
            return [byte != 0 for byte in self.take(num)]
        if kind not in NUMBERS:
            raise self.damaged(f"{kind} is no type of value")
        width = int(NUMBERS[kind][2])
        found: list[Any] = np.frombuffer(self.take(num * width), dtype=NUMBERS[kind]).tolist()
        return found

    def head(self) -> tuple[str, tuple[int, ...], int, int]:
        """(name, shape, block type, offset) of one tensor."""
        name = self.text()
        num_dims = self.number("<u4")
        if not 1 <= num_dims <= 4:
            raise self.damaged(f"tensor {name!r} has {num_dims} dimensions")
        shape = struct.unpack(f"<{num_dims}Q", self.take(8 * num_dims))[::-1]  # fastest axis first in the file
        block, offset = self.number("<u4"), self.number("<u8")
        if block not in BLOCKS:
            allowed = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K"
            raise ModelError(Problem(f"{self.name}: tensor {name!r} has the unknown type {block}", allowed))
        if not 0 < math.prod(shape) <= MAX_NUMBERS or shape[-1] % BLOCKS[block][1]:
            raise self.damaged(f"tensor {name!r} has the shape {shape}")
        return name, shape, block, offset
