"""Options as a person writes them, before any work: known, and of the kind that the treatment declares."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

from assay.errors import Problem, TreatmentError
from assay.registry import Treatment

_KINDS: Mapping[str, tuple[type, str]] = {
    "bool": (bool, "true or false"),
    "int": (numbers.Integral, "a whole number"),
    "float": (numbers.Real, "a number"),
    "str": (str, "a word"),
}


def check_options(treatment: str, chosen: Iterable[Treatment], options: Mapping[str, Any]) -> None:
    """Raises TreatmentError for every option that none of the `chosen` has, or whose value is of another kind."""
    known: dict[str, str] = {}
    for one in chosen:
        parameters = inspect.signature(one.function).parameters
        known |= {name: str(parameters[name].annotation) for name in one.options if name in parameters}
    wrong = []
    for name, value in options.items():
        if name not in known:
            wrong.append(Problem(f"{treatment} has no option {name!r}", ", ".join(sorted(known)) or "no options"))
            continue
        told, _, empty = known[name].partition(" | ")
        kind, words = _KINDS.get(told, (object, ""))
        fine = isinstance(value, kind) and (kind in (bool, object) or not isinstance(value, bool))
        if not fine and not (value is None and empty == "None"):
            wrong.append(Problem(f"{treatment}: {name} is {value!r}", words))
    if wrong:
        raise TreatmentError(wrong)
