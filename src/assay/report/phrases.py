"""The words of a report: one language at a time, from a file of texts."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from functools import cache
from importlib import resources
from typing import Any

from markupsafe import Markup, escape

from assay.errors import Problem, UsageError
from assay.estimation.changes import signed, spoken
from assay.report.numbers import bounds, number

LANGUAGES = ("en", "zh")
_SLICE = re.compile(r"[\w.-]+[=<>!]+[^\s:]+(?: & [\w.-]+[=<>!]+[^\s:]+)*")  # a reason that only names a slice

_OPEN_ENDED = re.compile(r"\.\.-?\d\S*|-?\d\S*\.\.")  # up to a number, or from one
_UNTESTED = re.compile(r"(?<=^not tested: )(\S+) was not measured(?: for ([^:;]+))?")


class Phrases:
    """Texts of one language, by key; a key without a text shows itself, so nothing is ever silently dropped.

    `columns` are the data's own group columns: their names are shown as they are, whatever a text says.
    """

    def __init__(self, lang: str, *, columns: Collection[str] = ()) -> None:
        if lang not in LANGUAGES:
            raise UsageError(Problem(f"there is no report in {lang!r}", ", ".join(LANGUAGES)))
        self.lang = lang
        self._texts = _texts(lang)
        self._columns = frozenset(columns)

    def __call__(self, key: str) -> str:
        """The text of a key."""
        return str(self._texts.get(key, key))

    def metric(self, name: str, part: str = "label") -> str:
        """A metric's label, what it means, or what it does not show ("label", "means", "limits")."""
        entry = self._texts["metrics"].get(name, {})
        return str(entry.get(part, name.replace("_", " ") if part == "label" else ""))

    def slice(self, name: str) -> str:
        """A slice as shown: every row when it is empty, and words for the slices that are no column of the data."""
        return " & ".join(self._condition(one) for one in name.split(" & ")) if name else self("all rows")

    def _condition(self, text: str) -> str:
        key, is_pair, value = text.partition("=")
        if text == "*":  # a rule over every group column, of which there was none to measure
            return self("every group column")
        ended = f"{key} {_range(value)}" if _OPEN_ENDED.fullmatch(value) else text
        if not is_pair or key in self._columns:
            return ended
        if key == "feature":
            return value
        whole: str | None = self._texts["slice words"].get(text)
        # A range is of what was measured on pictures or texts; without one the same word is a change made to them.
        if ".." in value and f"{key}=.." in self._texts["slice words"]:
            return f"{self._texts['slice words'][f'{key}=..']} {_range(value)}"
        word: str | None = self._texts["slice words"].get(key)
        return whole or (f"{word} {value}" if word else ended)

    def name(self, key: tuple[str, ...]) -> str:
        """A dimension as shown: the metric's label, and the slice where it is of a slice."""
        return self.metric(key[1]) + (f" · {self.slice(key[2])}" if key[2] else "")

    def interval(self, low: float | None, high: float | None, unit: str = "", *, signed: bool = False) -> str:
        """An interval; a number that is exact says so."""
        return self("exact") if low is not None and low == high else bounds(low, high, unit, signed=signed)

    def change(self, ends: tuple[float | None, ...], unit: str, before: float | None) -> str:
        """Value, low and high of a change: per cent of a time or a size, points of a share, or in its own unit."""
        scaled, kind = spoken(ends, unit, before)
        if kind == "unit":
            return f"{number(ends[0], unit, signed=True)} {self.interval(ends[1], ends[2], unit, signed=True)}"
        value, low, high = (signed(end) for end in scaled)
        interval = self("exact") if low == high else f"[{low}, {high}]"
        return f"{self(f'in {kind}').format(value=value)} {interval}"

    def reach(self, value: float, unit: str) -> str:
        """The size of a change, without a sign."""
        (scaled,), kind = spoken([value], unit, None)
        return number(value, unit) if kind == "unit" else self(f"in {kind}").format(value=signed(scaled).lstrip("+"))

    def value(self, value: float | None, low: float | None, high: float | None, unit: str = "") -> str:
        """A value with its interval."""
        return f"{number(value, unit)} {self.interval(low, high, unit)}".strip()

    def foreign(self, text: str) -> Markup:
        """Text that is English in every report: citations, methods, what other programs wrote."""
        return escape(text) if self.lang == "en" or not text else Markup('<span lang="en">{}</span>').format(text)

    def reason(self, text: str) -> Markup:
        """A reason the measuring parts wrote in English, in the reader's language where its pattern is known."""
        text = _UNTESTED.sub(self._untested, text)
        if self.lang == "en":
            return escape(text)
        return Markup("；").join(self._clause(one) for one in text.split("; "))

    def _untested(self, found: re.Match[str]) -> str:
        """A rule's metric and slice by their names on the page, not as policies spell them."""
        where = f" for {self.slice(found[2])}" if found[2] else ""
        return f"{self.metric(found[1].rpartition('.')[2])} was not measured{where}"

    def _clause(self, text: str) -> Markup:
        if _SLICE.fullmatch(text):
            return escape(self.slice(text))
        found = self._translated(text)
        return self.foreign(text) if found is None else found

    def _translated(self, text: str) -> Markup | None:
        for pattern, template in self._texts["patterns"]:
            found = re.fullmatch(pattern, text, re.DOTALL)
            if found:
                groups = [self._inner(part or "") for part in found.groups()]
                return Markup(template).format(*groups)  # noqa: S704 (the package's own text)
        return None

    def _inner(self, text: str) -> Markup:
        """A captured part: a known word, a list of them, a reason of its own, or a name shown as it is."""
        words: Mapping[str, str] = self._texts["words"]
        parts = re.split(r", | and ", text)
        if all(part in words for part in parts):
            return escape("、".join(words[part] for part in parts))
        found = self._translated(text)
        return escape(text) if found is None else found


def _range(value: str) -> str:
    """A range of numbers, as a slice names it: the smallest and the largest of all have no name."""
    if not _OPEN_ENDED.fullmatch(value):
        return value.replace("..", "–")
    return f"≤ {value[2:]}" if value.startswith("..") else f"≥ {value[:-2]}"


@cache
def _texts(lang: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((resources.files("assay.report") / "i18n" / f"{lang}.json").read_text("utf-8"))
    return {"metrics": {}, "slice words": {}, "patterns": [], "words": {}} | found
