"""From a request's body to coded rows: every limit is held before work, and everything wrong is said at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from assay.data.coding import FLOAT32_MAX
from assay.data.rows import encode_groups, encode_rows
from assay.errors import DataError, Problem
from assay.evidence.strict_json import loads
from assay.serve.refusals import Refusal
from assay.values import Array, Column, Data

__all__ = ["MAX_DEPTH", "MAX_ROWS", "Coder", "Rows", "code_groups", "only_keys", "parse", "refuse", "require_rows"]

MAX_DEPTH = 32
MAX_ROWS = 1000
_ESCAPED = re.compile(rb"\\.", re.DOTALL)


@dataclass(frozen=True)
class Rows:
    """What the model is asked: `inputs (M, F)` float32, texts `(M,)` or pictures `(M, C, H, W)`; codes `(M, G)`."""

    inputs: Array
    codes: Array
    filled: Mapping[str, int] = field(default_factory=dict)  # by column: missing numbers that got the median


def refuse(what: str, allowed: str = "", next: str = "") -> NoReturn:
    """422: the body is JSON, but not a request that can be answered."""
    raise Refusal(422, "request", Problem(what, allowed, next))


def parse(body: bytes) -> dict[str, Any]:
    """A JSON object from UTF-8. Raises Refusal 400 for anything else, NaN, repeated keys, or more than 32 levels."""
    if _depth(body) > MAX_DEPTH:
        raise Refusal(400, "json", Problem("the body is nested too deeply", f"{MAX_DEPTH} levels"))
    try:
        found = loads(body)
    except (ValueError, RecursionError) as error:
        what = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)[:100]
        raise Refusal(400, "json", Problem(f"the body is not JSON: {what}", "a JSON object in UTF-8")) from error
    if not isinstance(found, dict):
        raise Refusal(400, "json", Problem(f"the body is a JSON {type(found).__name__}", "a JSON object"))
    return found


def _depth(body: bytes) -> int:
    """Levels of brackets outside of texts; a bound where the brackets are few."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return 0
    letters = np.frombuffer(_ESCAPED.sub(b"", body) if b"\\" in body else body, dtype=np.uint8)
    outside = (np.cumsum(letters == ord('"')) & 1) == 0
    folded = letters | 0x20  # [ and { differ by this bit, and so do ] and }
    steps = ((folded == ord("{")) & outside).astype(np.int8) - ((folded == ord("}")) & outside)
    return int(np.cumsum(steps, dtype=np.int64).max(initial=0))


@dataclass(frozen=True)
class Coder:
    """Codes rows of named values, as the system was trained; `groups` are the sensitive columns it must be given."""

    data: Data
    groups: tuple[Column, ...] = ()
    lookups: tuple[tuple[str, dict[str, int] | None], ...] = field(init=False, repr=False)
    names: frozenset[str] = field(init=False, repr=False)
    by_name: Mapping[str, Column] = field(init=False, repr=False)
    is_code: Array = field(init=False, repr=False)  # (F,)
    bounds: Array = field(init=False, repr=False)  # (2, F)

    def __post_init__(self) -> None:
        def lookup(column: Column) -> dict[str, int] | None:
            numeric = column.kind == "numeric"
            return None if numeric else {name: code for code, name in enumerate(column.categories)}

        object.__setattr__(self, "lookups", tuple((one.name, lookup(one)) for one in self.data.columns))
        by_name = {column.name: column for column in (*self.data.group_columns, *self.data.columns)}
        sizes = [len(one.categories) if one.kind == "categorical" else None for one in self.data.columns]
        low = [-FLOAT32_MAX if size is None else -1.0 for size in sizes]
        high = [FLOAT32_MAX if size is None else size - 1.0 for size in sizes]
        object.__setattr__(self, "by_name", by_name)
        object.__setattr__(self, "names", frozenset(by_name))
        object.__setattr__(self, "is_code", np.array([size is not None for size in sizes], dtype=bool))
        object.__setattr__(self, "bounds", np.array([low, high], dtype=np.float64))

    def rows(self, instances: Any, *, what: str = "instances", limit: int = MAX_ROWS) -> Rows:
        """Rows from a list of objects. Raises Refusal 422 that lists every unknown column, value and missing cell."""
        require_rows(instances, what, limit)
        problems: list[Problem] = []
        plain = self._plainly_good(instances)
        found = plain if plain is not None else _tried(lambda: encode_rows(self.data, instances), problems)
        codes = self.group_codes(instances, problems)
        if problems:
            raise Refusal(422, "rows", problems)
        filled = {} if plain is not None else self._filled(instances)
        return Rows(np.zeros((0, 0)) if found is None else found, codes, filled)

    def _filled(self, instances: Sequence[Mapping[str, Any]]) -> dict[str, int]:
        numbers = [column.name for column in self.data.columns if column.kind == "numeric"]
        return {name: num for name in numbers if (num := sum(row[name] is None for row in instances))}

    def group_codes(self, instances: Sequence[Any], problems: list[Problem]) -> Array:
        """Codes `(M, G)` of the groups that the decision rule reads; missing ones are problems."""
        return code_groups(self.groups, instances, problems)

    def _plainly_good(self, instances: Sequence[Any]) -> Array | None:
        """Rows whose every cell is a number in range or a known text, as `encode_rows` codes them; None: look closer.

        One pass of plain Python: for a single row, fifty times cheaper than a call for each column.
        """
        cells: list[float] = []
        for row in instances:
            if type(row) is not dict or (len(row) != len(self.lookups) and not row.keys() <= self.names):
                return None
            for name, lookup in self.lookups:
                value = row.get(name)
                if lookup is None:
                    if type(value) is not float and type(value) is not int:
                        return None
                    cells.append(value)
                else:
                    code = lookup.get(value) if type(value) is str else None
                    if code is None:
                        return None
                    cells.append(code)
        try:
            wide = np.array(cells, dtype=np.float64)
        except OverflowError:  # a whole number of more than 308 digits
            return None
        if not (np.abs(wide) <= FLOAT32_MAX).all():
            return None
        return wide.astype(np.float32).reshape(len(instances), len(self.lookups))

    def coded(self, inputs: Array) -> Iterator[Problem]:
        """What is wrong with inputs `(M, F)` that a caller coded: numbers beyond float32, codes that do not exist."""
        within = (inputs >= self.bounds[0]) & (inputs <= self.bounds[1])  # False for NaN
        good = within & (~self.is_code | (np.floor(inputs) == inputs))
        for index in np.flatnonzero(~good.all(axis=0)):
            column, bad = self.data.columns[index], np.flatnonzero(~good[:, index])
            allowed = "finite numbers that float32 holds"
            if self.is_code[index]:
                allowed = f"whole numbers from -1 to {len(column.categories) - 1}"
            what = f"column {column.name!r} has {len(bad)} cells out of range, the first in row {bad[0] + 1}"
            yield Problem(what, allowed)


def require_rows(instances: Any, what: str, limit: int) -> None:
    """Raises Refusal 422 unless there is a list of 1 to `limit` rows."""
    if not isinstance(instances, list) or not 1 <= len(instances) <= limit:
        count = f"has {len(instances):,} rows" if isinstance(instances, list) else "is not a list"
        refuse(f"{what!r} {count}", f"a list of 1 to {limit:,} objects", "Split the request")


def code_groups(groups: Sequence[Column], instances: Sequence[Any], problems: list[Problem]) -> Array:
    """Codes `(M, G)` of the groups that a decision rule reads; missing ones are problems."""
    if not groups:
        return np.zeros((len(instances), 0), dtype=np.int64)
    own: list[Problem] = []
    codes = _tried(lambda: encode_groups(groups, instances).codes, own)
    why = "The decision rule treats groups differently, so each row must name them"
    problems += [Problem(one.what, one.allowed, one.next or why) for one in own if one not in problems]
    return np.zeros((0, 0), dtype=np.int64) if codes is None else codes


def _tried(call: Callable[[], Array], problems: list[Problem]) -> Array | None:
    try:
        return call()
    except DataError as error:
        problems += error.problems
        return None


def only_keys(found: Mapping[str, Any], allowed: Sequence[str]) -> None:
    """Raises Refusal 422 when a request has keys that nobody would read."""
    unknown = [key for key in found if key not in allowed]
    if unknown:
        refuse(f"unknown keys: {', '.join(key[:60] for key in unknown[:5])}", ", ".join(allowed))
