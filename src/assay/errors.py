"""What can go wrong, and what to do next.

Every error a user can meet derives from `AssayError`, so one `except` catches all and nothing else::

    ValueError
    └─ AssayError            code, problems (each: what, allowed, next)
       ├─ UsageError         a command or call was put wrongly           (exit 2)
       ├─ DataError          a data file or table cannot be used
       ├─ ModelError         a model cannot be loaded, or answers wrongly
       ├─ UnsafeFileError    a file could run code if loaded; it was not opened
       ├─ RegistryError      a probe or treatment is declared wrongly
       ├─ TreatmentError     a treatment does not fit a system
       ├─ PolicyError        a policy file cannot be used
       ├─ DossierError       a dossier is missing, damaged or not signed
       ├─ ServeError         a system may not be served
       ├─ StorageError       a file cannot be written (full disk, permissions)
       ├─ BudgetError        a probe asked for more model rows than it may use
       └─ MissingExtraError  an optional dependency is not installed
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "AssayError",
    "BudgetError",
    "DataError",
    "DossierError",
    "MissingExtraError",
    "ModelError",
    "PolicyError",
    "Problem",
    "RegistryError",
    "ServeError",
    "StorageError",
    "TreatmentError",
    "UnsafeFileError",
    "UsageError",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: what was found, what is allowed, what to do next."""

    what: str
    allowed: str = ""
    next: str = ""

    def __str__(self) -> str:
        parts = (self.what, self.allowed and f"Allowed: {self.allowed}", self.next)
        return " ".join(part if part.endswith((".", "?")) else f"{part}." for part in parts if part)


class AssayError(ValueError):
    """Root of every error meant for users; lists all problems found, not only the first.

    `code` is stable across releases and is what programs should compare.
    """

    code = "assay"

    def __init__(self, problems: str | Problem | Iterable[Problem]) -> None:
        if isinstance(problems, str):
            problems = Problem(problems.rstrip("."))
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class UsageError(AssayError):
    """A command or a call was put wrongly."""

    code = "usage"


class DataError(AssayError):
    """A data file or table cannot be used as declared."""

    code = "data"


class ModelError(AssayError):
    """A model cannot be loaded, or returned something that is not an answer."""

    code = "model"


class UnsafeFileError(ModelError):
    """The file's format can run code when loaded; it was not opened."""

    code = "unsafe-file"


class RegistryError(AssayError):
    """A probe or treatment is declared wrongly."""

    code = "registry"


class TreatmentError(AssayError):
    """A treatment does not fit the system it was given."""

    code = "treatment"


class PolicyError(AssayError):
    """A policy file cannot be used."""

    code = "policy"


class DossierError(AssayError):
    """A dossier is missing, damaged, or its signature does not hold."""

    code = "dossier"


class ServeError(AssayError):
    """A system may not be served as asked."""

    code = "serve"


class StorageError(AssayError):
    """A file cannot be written or read back (full disk, permissions)."""

    code = "storage"


class BudgetError(AssayError):
    """A probe asked for more model rows than it may use."""

    code = "budget"


class MissingExtraError(AssayError):
    """An optional dependency is not installed."""

    code = "missing-extra"

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            Problem(
                f"this needs {package}, which is not installed", next=f'Install it with: pip install "assay[{extra}]"'
            )
        )
