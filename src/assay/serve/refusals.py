"""A request that is not answered: a status, a code, and every problem. No traceback ever leaves the process."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from assay.errors import Problem

__all__ = ["Refusal", "error_body", "to_bytes"]


class Refusal(Exception):
    """The request is refused; `code` is stable and what programs should compare."""

    def __init__(
        self, status: int, code: str, problems: Problem | Iterable[Problem], headers: Mapping[str, str] | None = None
    ) -> None:
        self.status, self.code, self.headers = status, code, dict(headers or {})
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__(f"{status} {code}")


def error_body(code: str, problems: Iterable[Problem], request_id: str) -> bytes:
    """What a refused caller reads: the first problem in full, and all of them."""
    listed = [{"message": one.what, "allowed": one.allowed, "next": one.next} for one in problems]
    return to_bytes({"error": code, **listed[0], "problems": listed, "request_id": request_id})


def to_bytes(value: Any) -> bytes:
    """JSON in ASCII: a lone surrogate that a caller sent goes back escaped. Raises ValueError for NaN."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")
