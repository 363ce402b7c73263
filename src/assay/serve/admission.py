"""Which dossiers are served: verified before a byte is parsed, passed by their policy, and able to answer."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from assay.data.quality.reference import Reference, described, reference_from_json
from assay.errors import AssayError, Problem, ServeError
from assay.evidence.openpart import parse_json, read_open
from assay.evidence.verify import SIGNATURE, Verification, verify_dossier
from assay.models.query_limit import QueryLimit, limit_of
from assay.models.store import Parts, load_parts
from assay.serve.background import background_of
from assay.storage import read_regular, read_verified
from assay.units.told import columns_of
from assay.values import Array, Column, Data, Decision, Dossier, Groups, Model, Task

__all__ = ["TRUSTED", "Served", "admit"]

TRUSTED = "ASSAY_TRUSTED_KEY"


@dataclass(frozen=True)
class Served:
    """A system that may answer, without any rows of its data. `warnings` go into every answer."""

    name: str  # as in the address: other letters than A-Z a-z 0-9 . _ + - became _
    data: Data  # columns, classes and group columns; `splits` is empty
    group_columns: tuple[Column, ...]  # those that the decision rule reads; a request must give them
    model: Model
    task: Task
    decision: Decision
    evidence_id: str
    signer: str
    is_pinned: bool
    dossier: Dossier = field(repr=False)
    warnings: tuple[str, ...] = ()
    background: Array = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32), repr=False)
    limit: QueryLimit | None = None  # of rows a key: part of the digest that was signed
    reference: Reference | None = None  # what the test rows looked like; an older dossier does not say

    @property
    def columns_told(self) -> tuple[Column, ...]:
        """The columns as the open part tells them, where no end of a range is a single person's."""
        return columns_of(self.dossier.about["data"]["columns"])

    def probabilities(self, inputs: Array) -> Array:
        """Inputs `(M, ...)` to probabilities `(M, K)`, or values `(M, 1)`; a NaN row is one that errored."""
        return self.task.probabilities(self.task.logits(self.model.outputs(inputs), self.model.outputs_are))

    def answer(self, inputs: Array, codes: Array) -> tuple[Array, Array]:
        """Probabilities `(M, K)` and answers `(M,)` of the decision rule, given group codes `(M, G)`."""
        found = self.probabilities(inputs)
        if len(found) != len(inputs):
            raise ServeError(Problem(f"the model answered {len(found)} rows of {len(inputs)}", "one answer per row"))
        return found, self.decision.decide(found, inputs, Groups(codes, self.group_columns))


def admit(folder: Path, *, allow_failed: bool = False, allow_unsigned: bool = False) -> Served:
    """Verify a dossier and load its system; only bytes whose digests were signed are parsed.

    `$ASSAY_TRUSTED_KEY` (a PEM file) pins the signer. Raises ServeError, one sentence a problem, for a dossier that is
    damaged; that did not pass, unless `allow_failed`; that has no signature, or whose parts do not agree, unless
    `allow_unsigned`; or that holds no system that can be loaded. Limits: the signature proves who says so, and only
    with a pinned key; that the system still fits its world is not proven by any file.
    """
    folder = Path(folder)
    is_signed = (folder / SIGNATURE).exists() or (folder / SIGNATURE).is_symlink()
    warnings, found, sums = _verified(folder, allow_unsigned) if is_signed else _unsigned(folder, allow_unsigned)
    try:
        main = folder / "open" / "dossier.json"
        data = read_regular(main) if sums is None else read_verified(main, sums["open/dossier.json"])
        dossier = read_open(data, path=str(folder), evidence_id=found.evidence_id if found else "")
        warnings += _passed(folder, dossier, allow_failed)
        declared = _declared(dossier.about["data"])
        parts = load_parts(folder / "system", declared, sums=None if sums is None else _system_sums(sums))
        _agrees(dossier, parts)
        served = _served(dossier, _filling(declared, parts), parts, (found, tuple(warnings)))
        return replace(served, reference=_reference(folder, served, sums))
    except ServeError:
        raise
    except AssayError as error:
        raise ServeError([Problem(f"{folder}: {one.what}", one.allowed, one.next) for one in error.problems]) from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ServeError(Problem(f"{folder} does not describe what it holds ({error!r})")) from error


def _verified(folder: Path, allow_unsigned: bool) -> tuple[list[str], Verification, Mapping[str, str]]:
    named = os.environ.get(TRUSTED, "")
    try:
        found = verify_dossier(folder, public_key=read_regular(Path(named)) if named else None)
    except AssayError as error:
        raise ServeError(error.problems) from error
    if not found.intact:
        what = "; ".join(problem.what for problem in found.problems[:5])
        raise ServeError(Problem(f"{folder} is damaged, so it is not served: {what}", next="Restore it from a copy"))
    problems = [problem.what for problem in found.problems]
    if problems and not allow_unsigned:
        what = f"{folder} is signed, but its parts do not agree: {'; '.join(problems[:5])}"
        raise ServeError(Problem(what, next="Audit the system again, or serve it with --allow-unsigned"))
    return [f"the evidence is in doubt: {what}" for what in problems], found, found.files


def _unsigned(folder: Path, allow_unsigned: bool) -> tuple[list[str], None, None]:
    if not (folder / "open" / "dossier.json").is_file():
        raise ServeError(Problem(f"{folder} is not a dossier", "a folder written by assay audit"))
    if not allow_unsigned or os.environ.get(TRUSTED):
        following = f"Serve it with --allow-unsigned and without ${TRUSTED}, and every answer will say so"
        raise ServeError(Problem(f"{folder} is not signed", "a signed dossier", following))
    return ["the evidence is not signed: nothing proves that this is the system that was measured"], None, None


def _passed(folder: Path, dossier: Dossier, allow_failed: bool) -> list[str]:
    if dossier.verdict == "pass":
        return []
    if not allow_failed:
        what = f"the verdict of {folder} is {dossier.verdict}, so it is not served"
        raise ServeError(Problem(what, "pass", "Serve it with --allow-failed, and every answer will say so"))
    return [f"this system did not pass its policy: the verdict is {dossier.verdict}"]


def _system_sums(files: Mapping[str, str]) -> dict[str, str]:
    sums = {name.removeprefix("system/"): digest for name, digest in files.items() if name.startswith("system/")}
    if not sums:
        what = "the dossier names its system but does not hold it"
        raise ServeError(Problem(what, "a system of files", "Serve the black box where it already runs"))
    return sums


def _declared(about: Mapping[str, Any]) -> Data:
    return Data(
        name=about["name"],
        columns=columns_of(about["columns"]),
        label=about["label"],
        group_columns=columns_of(about["group_columns"]),
        splits={},
        classes=tuple(about["classes"]),
        positive=about["positive"],
        source=about["source"],
        label_names=tuple(about.get("label_names", ())),
    )


def _filling(declared: Data, parts: Parts) -> Data:
    """The declaration with what only the owner's folder says: the exact range of each number, and the medians that
    stand for missing ones.

    Older dossiers have the medians in the open part, and older system folders none.
    """
    whole = replace(declared, columns=parts.columns) if parts.columns else declared
    fills = {**declared.medians, **parts.medians}
    return replace(whole, source={**declared.source, "imputed": fills}) if parts.medians else whole


def _agrees(dossier: Dossier, parts: Parts) -> None:
    """The system that was loaded must be the one that was measured."""
    about = dossier.about["system"]
    pairs = {
        "model": (parts.model.digest, about["model"]["digest"]),
        "decision rule": (parts.decision.digest, about["decision"]["digest"]),
        "system": (parts.system_digest, dossier.system_digest),
    }
    wrong = [name for name, (found, measured) in pairs.items() if found != measured]
    if wrong:
        raise ServeError(Problem(f"the {', the '.join(wrong)} in {dossier.path} is not the one that was measured"))


def _served(
    dossier: Dossier, declared: Data, parts: Parts, verified: tuple[Verification | None, tuple[str, ...]]
) -> Served:
    found, warnings = verified
    background = background_of(declared.columns, seed=int(parts.model.digest[:8], 16))
    served = Served(
        name=re.sub(r"[^A-Za-z0-9._+-]", "_", str(dossier.about["system"]["name"])) or "_",
        data=declared,
        group_columns=_groups_read(declared, parts.decision),
        model=parts.model,
        task=parts.task,
        decision=parts.decision,
        evidence_id=dossier.evidence_id,
        signer="" if found is None else found.signer,
        is_pinned=found is not None and found.is_pinned,
        dossier=dossier,
        warnings=warnings,
        background=background,
        limit=limit_of(parts.lineage),
    )
    probabilities, _ = served.answer(background, np.full((len(background), len(served.group_columns)), -1))
    if probabilities.shape != (len(background), parts.task.num_outputs):
        raise ServeError(Problem("the model's answers to trial rows have another shape than its task says"))
    return served


def _reference(folder: Path, served: Served, sums: Mapping[str, str] | None) -> Reference | None:
    """What the test rows looked like, where the dossier says so. Raises ServeError when it is of other columns."""
    name = "open/reference.json"
    if not ((folder / name).is_file() if sums is None else name in sums):
        return None
    data = read_regular(folder / name) if sums is None else read_verified(folder / name, sums[name])
    found = reference_from_json(parse_json(data, name))
    num = described(served.data.columns, served.background[:1]).shape[1]
    if not num <= len(found.columns) <= num + 1:
        raise ServeError(Problem(f"{name} in {folder} is of other columns than the system's"))
    return found


def _groups_read(declared: Data, decision: Decision) -> tuple[Column, ...]:
    """Only the columns the rule names: asking for more sensitive data than is used would be wrong."""
    if not decision.needs_groups:
        return ()
    names = decision.to_json().get("columns")
    return tuple(column for column in declared.group_columns if names is None or column.name in names)
