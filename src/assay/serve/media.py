"""From a request's body to texts or pictures: no decoder of any format, and everything wrong is said at once."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from assay.data._problems import Problems, names_text, rows_text
from assay.errors import Problem
from assay.serve.bodies import MAX_ROWS, Rows, code_groups, require_rows
from assay.serve.refusals import Refusal
from assay.values import Array, Column, Data, texts

__all__ = ["MAX_LETTERS", "MediaCoder"]

MAX_LETTERS = 20_000  # of one text; models read a few hundred tokens, and the rest would only cost
_KEYS = frozenset({"base64", "shape"})
Read = Callable[[Any], Any]  # one value to an array or a text; raises ValueError with (what, allowed)


class _WrongError(ValueError):
    """One value cannot be read: what it is, and what is allowed."""


@dataclass(frozen=True)
class MediaCoder:
    """Reads rows of one text or one picture each, by the name of the system's only column.

    A text is a string of at most 20,000 letters. A picture is nested lists `(C, H, W)` of numbers from 0 to 255, of one
    channel also `(H, W)`, or {"base64": raw uint8 bytes in that order, "shape": optional}. `groups` are the sensitive
    columns that must be given with each row.
    """

    data: Data
    groups: tuple[Column, ...] = ()
    by_name: Mapping[str, Column] = field(init=False, repr=False)  # of the columns beside the text or picture
    names: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        by_name = {one.name: one for one in self.data.group_columns}
        object.__setattr__(self, "by_name", by_name)
        object.__setattr__(self, "names", frozenset({self.column.name, *by_name}))

    @property
    def column(self) -> Column:
        """The text or picture."""
        return self.data.columns[0]

    def rows(self, instances: Any, *, what: str = "instances", limit: int = MAX_ROWS) -> Rows:
        """Rows from a list of objects. Raises Refusal 422 that lists every problem, by kind, with its rows."""
        require_rows(instances, what, limit)
        problems, name = Problems(), self.column.name
        nameless = np.array([type(row) is not dict for row in instances])
        if nameless.any():
            problems.error(f"{rows_text(nameless)} are no objects", f'{{"{name}": ...}} for each row')
            raise Refusal(422, "rows", problems.errors)
        unknown = sorted(set(chain.from_iterable(instances)) - self.names)
        if unknown:
            problems.error(f"unknown columns: {names_text(unknown)}", names_text(sorted(self.names)))
        absent = np.array([name not in row for row in instances])
        if absent.any():
            problems.error(f"column {name!r} is not given in {rows_text(absent)}", "a value in each row")
        read = _text if self.column.kind == "text" else self._picture
        found = _each(name, [row.get(name) for row in instances], ~absent, (read, problems))
        listed = list(problems.errors)
        codes = code_groups(self.groups, instances, listed)
        if listed:
            raise Refusal(422, "rows", listed)
        return Rows(_joined(found, self.column), codes)

    def texts(self, values: Sequence[Any]) -> Array:
        """Texts `(M,)` from a list. Raises Refusal 422."""
        problems = Problems()
        found = _each(self.column.name, values, np.ones(len(values), dtype=bool), (_text, problems))
        if problems.errors:
            raise Refusal(422, "rows", problems.errors)
        return texts(found)

    def pixels(self, flat: Sequence[Any], datatype: str, num: int) -> Array:
        """Pictures `(num, C, H, W)` from as many numbers, row by row. Raises Refusal 422."""
        kind = np.uint8 if datatype == "UINT8" else np.float32
        allowed = {int} if datatype == "UINT8" else {int, float}
        if not set(map(type, flat)) <= allowed:
            told = "whole numbers" if datatype == "UINT8" else "numbers"
            raise Refusal(422, "rows", Problem(f"{self.column.name!r} holds something else than {told}", told))
        if not all(0 <= number <= 255 for number in flat):
            raise Refusal(422, "rows", Problem("pixels are outside of 0 to 255", "0 to 255"))
        return np.array(flat, dtype=kind).reshape(num, *self.column.shape)

    def raw(self, datatype: str, content: bytes, num: int) -> Array:
        """Pictures `(num, C, H, W)` from raw little-endian bytes, UINT8 or FP32. Raises Refusal 422."""
        kind = np.dtype("<f4" if datatype == "FP32" else np.uint8)
        shape = (num, *self.column.shape)
        if len(content) != math.prod(shape) * kind.itemsize:
            expected = f"{math.prod(shape) * kind.itemsize:,} bytes for {list(shape)}"
            raise Refusal(422, "rows", Problem(f"{len(content):,} raw bytes are given", expected))
        found: Array = np.frombuffer(content, dtype=kind).reshape(shape)
        within = ((found >= 0) & (found <= 255)).reshape(num, -1)  # False for NaN
        outside = np.array(~within.all(axis=1))
        if outside.any():
            raise Refusal(422, "rows", Problem(f"pixels are outside of 0 to 255 in {rows_text(outside)}", "0 to 255"))
        return found.astype(np.uint8 if datatype == "UINT8" else np.float32)

    def _picture(self, value: Any) -> Array:
        shape = self.column.shape
        told = " x ".join(map(str, shape))
        if isinstance(value, dict):
            return self._packed(value)
        flat: list[Any] = [[value]] if shape[0] == 1 and _depth(value) == len(shape) - 1 else [value]
        for size in shape:
            if not all(type(one) is list and len(one) == size for one in flat):
                raise _WrongError(f"is not {told} numbers", f"nested lists {told}, or base64 of as many bytes")
            flat = list(chain.from_iterable(flat))
        if not set(map(type, flat)) <= {int, float}:
            raise _WrongError("holds something else than numbers", "numbers from 0 to 255")
        if not all(0 <= number <= 255 for number in flat):
            raise _WrongError("has numbers outside of 0 to 255", "numbers from 0 to 255")
        kind = np.uint8 if all(type(number) is int for number in flat) else np.float32
        return np.array(flat, dtype=kind).reshape(shape)

    def _packed(self, value: Mapping[str, Any]) -> Array:
        shape = self.column.shape
        expected = f"base64 of {math.prod(shape):,} bytes, channels first, then rows"
        if not set(value) <= _KEYS or not isinstance(value.get("base64"), str):
            raise _WrongError("is an object without base64", '{"base64": text, "shape": optional}')
        if value.get("shape", list(shape)) != list(shape):
            raise _WrongError("is said to have another shape", f"{list(shape)}")
        try:
            content = base64.b64decode(value["base64"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise _WrongError("is not base64", expected) from error
        if len(content) != math.prod(shape):
            raise _WrongError("has another number of bytes", expected)
        return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _each(name: str, values: Sequence[Any], given: Array, how: tuple[Read, Problems]) -> list[Any]:
    """Every value that is given as read; values that cannot be are problems, one for each kind."""
    read, problems = how
    wrong: dict[tuple[str, str], list[int]] = {}
    found = []
    for place in np.flatnonzero(given).tolist():
        try:
            found.append(read(values[place]))
        except _WrongError as error:
            wrong.setdefault((error.args[0], error.args[1]), []).append(place)
    for (what, allowed), places in wrong.items():
        mask = np.zeros(len(values), dtype=bool)
        mask[places] = True
        problems.error(f"{name} {what} in {rows_text(mask)}", allowed)
    return found


def _text(value: Any) -> str:
    if type(value) is not str:
        raise _WrongError(f"is no text but {'null' if value is None else type(value).__name__}", "a text")
    if len(value) > MAX_LETTERS:
        raise _WrongError("is too long", f"{MAX_LETTERS:,} letters")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _WrongError("has half of a character (a lone surrogate)", "characters of Unicode") from error
    return value


def _joined(found: Sequence[Any], column: Column) -> Array:
    """Texts `(M,)`; pictures `(M, C, H, W)`, uint8 where all are."""
    if column.kind == "text":
        return texts(found)
    return np.stack(found) if found else np.empty((0, *column.shape), dtype=np.uint8)


def _depth(value: Any) -> int:
    """How deeply lists are nested, along the first of each."""
    depth = 0
    while isinstance(value, list) and value:
        value, depth = value[0], depth + 1
    return depth
